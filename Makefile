# Two commands need nothing but python3 (3.11 or newer), its venv module and g++:
#   make demo    the whole route on real digits: train, export, compile, prove bit for bit
#   make test    the test suite
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
N ?= 500
RUN ?= runs/demo

.PHONY: help demo test test-slow fuzz fuzz-files kill lint format bench docs check

help:
	@echo 'make demo          install, then the whole route on real digits (report in $(RUN))'
	@echo 'make test          install, then the test suite'
	@echo 'make test-slow     whole large networks at full size: minutes, 2 GB of memory'
	@echo 'make fuzz N=500    random networks through Python and C++, compared at every op'
	@echo 'make fuzz-files N=2000  files changed at random, given to every command that reads them'
	@echo 'make kill          whole commands killed at every one of their file operations'
	@echo 'make lint          ruff and mypy'
	@echo 'make bench         speed of simulators and training, beside other tools'
	@echo 'make docs          docs/cli.md, docs/spellings.md from the code'

demo: check $(VENV)/.installed
	@$(BIN)/hwq demo --out $(RUN) $(ARGS)

test: check $(VENV)/.installed-dev
	@$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

# What the suite leaves out: whole large networks at full image size.
test-slow: check $(VENV)/.installed-dev
	@$(BIN)/python -m pytest -m slow $(ARGS)

lint: check $(VENV)/.installed-dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# Random networks beyond the suite's; see tests/fuzz.
fuzz: check $(VENV)/.installed-dev
	@$(BIN)/python -m tests.fuzz --count $(N) $(ARGS)

# Checkpoints, graphs, projects, recipes, images, caches ... with a bit, a number or a bracket changed.
fuzz-files: check $(VENV)/.installed-dev
	@$(BIN)/python -m tests.fuzz.files --count $(N) $(ARGS)

# Nothing earlier is lost, the next run starts, nothing stays behind; see tests/files/kill.py.
kill: check $(VENV)/.installed-dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.files.kill $(ARGS)

bench: check $(VENV)/.installed-bench
	@$(BIN)/python -m benchmarks.simulate
	@$(BIN)/python -m benchmarks.engine --hls4ml
	@$(BIN)/python -m benchmarks.hls
	@$(BIN)/python -m benchmarks.training

docs: check $(VENV)/.installed-dev
	@$(BIN)/python docs/generate.py

format: check $(VENV)/.installed-dev
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

# The folder is only ever made, never removed: delete it yourself to start anew.
check:
	@command -v $(PYTHON) >/dev/null || { echo 'error: $(PYTHON) not found: apt-get install python3 python3-venv' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: hwq needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V): make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo 'error: $(PYTHON) has no venv module: apt-get install python3-venv' >&2; exit 1; }
	@command -v $${CXX:-g++} >/dev/null || { echo "error: no C++ compiler ($${CXX:-g++}): apt-get install g++" >&2; exit 1; }

# One line a package, so that a long download is seen to move.
PROGRESS = sed -u -n -e 's/^Collecting \([^ ;]*\).*/  fetching \1/p' -e 's/^Installing collected.*/  installing .../p'

define install
	@[ -x $(BIN)/python ] && $(BIN)/python -m pip --version >/dev/null 2>&1 || { echo 'making $(VENV)'; $(PYTHON) -m venv $(VENV); }
	@echo 'installing hwq into $(VENV) (a few minutes the first time: PyTorch is large)'
	@$(BIN)/python -m pip install --disable-pip-version-check --no-input --progress-bar off -e '$(1)' | $(PROGRESS)
endef

$(VENV)/.installed: pyproject.toml
	$(call install,.)
	@touch $@

$(VENV)/.installed-bench: pyproject.toml
	$(call install,.[bench])
	@touch $(VENV)/.installed $@

$(VENV)/.installed-dev: pyproject.toml
	$(call install,.[dev])
	@touch $(VENV)/.installed $@
