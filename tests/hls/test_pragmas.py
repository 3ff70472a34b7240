"""Compilers ignore a misspelt pragma without a word: here it is an error."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import pytest

from hwq import assets
from hwq.emit import emit
from tests.emit.conftest import every_op

LINES = 300
Rules = dict[str, tuple[set[str], set[str]]]
# directive -> (options that stand alone, options with a value)
VITIS: Rules = {
    "PIPELINE": (set(), {"II", "style"}),
    "UNROLL": (set(), set()),
    "ARRAY_PARTITION": (set(), {"variable", "type", "factor", "dim"}),
    "ARRAY_RESHAPE": (set(), {"variable", "type", "factor", "dim"}),
    "BIND_STORAGE": (set(), {"variable", "type"}),
    "AGGREGATE": (set(), {"variable", "compact"}),
}
VIVADO: Rules = {
    "PIPELINE": ({"enable_flush"}, {"II"}),
    "UNROLL": (set(), set()),
    "ARRAY_PARTITION": ({"complete", "cyclic", "block"}, {"variable", "factor", "dim"}),
    "ARRAY_RESHAPE": ({"complete", "cyclic", "block"}, {"variable", "factor", "dim"}),
    "RESOURCE": (set(), {"variable", "core"}),
    "DATA_PACK": (set(), {"variable"}),
}
# the same words in both dialects: may stand in generated code as they are
COMMON: Rules = {
    "INTERFACE": ({"axis", "ap_ctrl_hs"}, {"port"}),
    "DATAFLOW": (set(), set()),
    "STREAM": (set(), {"variable", "depth"}),
}


def faults(text: str, rules: Rules) -> Iterator[str]:
    """What is wrong with 'HLS DIRECTIVE option ...'."""
    head, directive, *options = text.split()
    if head != "HLS" or directive not in rules:
        yield f"unknown: {text}"
        return
    bare, valued = rules[directive]
    for option in options:
        name, equals, value = option.partition("=")
        if (name not in valued or not value) if equals else name not in bare:
            yield f"option {option} of {text}"


def _sources() -> dict[str, str]:
    found = {f"hls/{n}": c.decode() for n, c in assets.files("hls").items()}
    project = emit(every_op())
    return found | {n: c.decode() for n, c in project.files.items() if n.startswith("firmware/")}


SOURCES = _sources()


def _macros() -> set[str]:
    return set(re.findall(r"#define (HWQ_\w+)", "\n".join(SOURCES.values())))


@pytest.mark.parametrize(("dialect", "rules"), [("vitis", VITIS), ("vivado", VIVADO)])
def test_dialects(dialect: str, rules: Rules) -> None:
    text = SOURCES[f"hls/hwq_pragmas_{dialect}.h"]
    found = re.findall(r"HWQ_PRAGMA\((.*)\)", text)
    assert found
    assert [fault for pragma in found for fault in faults(pragma, rules)] == []


def test_both_dialects_and_the_plain_build_define_the_same() -> None:
    def defined(text: str) -> set[str]:
        return set(re.findall(r"#define (HWQ_\w+)(?:\(|$| )", text, re.MULTILINE)) - {
            "HWQ_PRAGMA",
            "HWQ_PRAGMA_TEXT",
            "HWQ_PRAGMAS_H",
            "HWQ_PRAGMAS_VITIS_H",
            "HWQ_PRAGMAS_VIVADO_H",
        }

    vitis, vivado = (defined(SOURCES[f"hls/hwq_pragmas_{d}.h"]) for d in ("vitis", "vivado"))
    assert vitis == vivado == defined(SOURCES["hls/hwq_pragmas.h"])


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_plain_pragmas(name: str) -> None:
    for line in SOURCES[name].splitlines():
        if re.match(r"\s*#\s*pragma", line):
            assert line.startswith("#pragma HLS "), line
            assert list(faults(line.removeprefix("#pragma "), COMMON)) == []


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_macros_are_known(name: str) -> None:
    used = set(re.findall(r"\bHWQ_[A-Z][A-Z_]*\b(?!_)", SOURCES[name]))
    switches = {"HWQ_NATIVE", "HWQ_FOLDED", "HWQ_SIM", "HWQ_VIVADO_HLS"}
    guards = set(re.findall(r"#ifndef (HWQ_\w+_H)\b", SOURCES[name]))
    own = {u for u in used if any(g.startswith(u) for g in guards)}
    assert used - switches - guards - own <= _macros()


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_loop_pragmas_stand_first_in_a_loop(name: str) -> None:
    lines = SOURCES[name].splitlines()
    for before, line in itertools.pairwise(lines):
        if line.strip() in ("HWQ_PIPELINE", "HWQ_UNROLL"):
            assert re.match(r"\s*for \(.*\) \{$", before), (name, before)


def test_innermost_loops_are_scheduled() -> None:
    """Every loop without a loop inside is pipelined or unrolled."""
    checked = 0
    for name, text in SOURCES.items():
        if name.endswith(("tap.h", "stream.h")):
            continue
        lines = text.splitlines()
        for at, line in enumerate(lines):
            if not re.match(r"\s*for \(", line):
                continue
            assert line.endswith("{"), (name, line)
            indent = len(line) - len(line.lstrip())
            end = next(i for i in range(at + 1, len(lines)) if lines[i] == " " * indent + "}")
            body = lines[at + 1 : end]
            if not any(re.match(r"\s*for \(", inner) for inner in body):
                checked += 1
                assert body[0].strip() in ("HWQ_PIPELINE", "HWQ_UNROLL"), (name, line)
    assert checked > 20


def test_variables_of_stream_pragmas_exist() -> None:
    text = next(t for n, t in SOURCES.items() if n.endswith("_top.cpp"))
    for variable in re.findall(r"variable=(\w+)", text):
        assert re.search(rf"> {variable}\(", text), variable


@pytest.mark.parametrize("name", sorted(n for n in SOURCES if n.startswith("hls/")))
def test_headers_are_short_and_synthesizable(name: str) -> None:
    text = SOURCES[name]
    assert len(text.splitlines()) <= LINES
    if name.endswith(("tap.h", "stream.h")):
        return
    code = re.sub(r"//.*", "", text)
    for word in ("new ", "malloc", "std::", "while", "double", "float", "goto"):
        assert word not in code, word
