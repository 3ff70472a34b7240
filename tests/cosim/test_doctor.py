"""`hwq doctor` tells what is missing and exits accordingly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hwq", "doctor", *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def facts(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return {fact["name"]: fact for fact in json.loads(done.stdout)}


def test_everything_is_here() -> None:
    done = doctor("--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = facts(done)
    assert found["probe"]["ok"]
    assert "hls4ml" in found["AMD headers"]["found"] or "XILINX_HLS" in found["AMD headers"]["found"]


def test_table() -> None:
    done = doctor()
    assert done.returncode == 0
    assert "probe" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["compiler", "probe"])
def test_no_compiler(tmp_path: Path, name: str) -> None:
    done = doctor("--json", PATH=str(tmp_path), CXX="")
    assert done.returncode == 4
    fact = facts(done)[name]
    assert not fact["ok"]
    assert "install g++" in fact["advice"]


def test_broken_compiler(tmp_path: Path) -> None:
    fake = tmp_path / "cxx"
    fake.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo fake 1 && exit 0\necho "error: I am fake" >&2\nexit 1\n'
    )
    fake.chmod(0o755)
    done = doctor("--json", CXX=str(fake))
    assert done.returncode == 4
    assert "I am fake" in facts(done)["probe"]["advice"]
