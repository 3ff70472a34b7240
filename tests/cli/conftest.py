"""A command line run in this process, and one small trained run that the tests share."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from hwq.cli import main


@dataclass(frozen=True)
class Done:
    """What a command left: exit code, and both streams."""

    code: int
    out: str
    err: str


Hwq = Callable[..., Done]


@pytest.fixture
def hwq(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Hwq:
    """hwq("train", "--out", path) -> Done. Runs `main`, as the installed command does."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["hwq", *map(str, arguments)])
        capfd.readouterr()
        code = _exit_code()
        out, err = capfd.readouterr()
        return Done(code, out, err)

    return run


def quiet(*arguments: object) -> None:
    """Run a command that must succeed, outside a test's capture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["hwq", *map(str, arguments)])
        code = _exit_code()
    assert code == 0, arguments


def _exit_code() -> int:
    try:
        main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A perceptron on digits, one epoch: never changed, copy it first."""
    run = tmp_path_factory.mktemp("runs") / "mlp"
    quiet("train", "--model", "mlp", "--data", "digits", "--epochs", 1, "--out", run)
    return run


@pytest.fixture(scope="session")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, with its HLS project: never changed, copy it first."""
    run = tmp_path_factory.mktemp("runs") / "mlp"
    shutil.copytree(trained, run)
    quiet("export", run, "--fixed", "32,10")
    return run


def snapshot(folder: Path) -> dict[str, str]:
    """Every file below a folder with its digest; folders with an empty one."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }
