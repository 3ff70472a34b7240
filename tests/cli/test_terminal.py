"""What names from files may do to a terminal (nothing), and what its encoding may do to a command."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from rich.table import Table
from rich.text import Text

from hwq.terminal import argument, console, printable, shown_safely
from tests.cli.conftest import Hwq

ROOT = Path(__file__).parents[2]
EVIL = "a\x1b[31mb\x9b2J\r\x07\u202ec\x7f"
SHOWN = r"a\x1b[31mb\x9b2J\x0d\x07\u202ec\x7f"


def test_printable() -> None:
    assert printable(EVIL) == SHOWN
    assert printable("two\nlines\tand \u00e9\U0001f600") == "two\nlines\tand \u00e9\U0001f600"
    assert printable(printable(EVIL)) == SHOWN


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_only_our_own_colours_act(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    with shown_safely():
        click.echo(EVIL)
        print(EVIL)
        table = Table(title=Text(EVIL))
        table.add_column("name", no_wrap=True)
        table.add_row(Text(EVIL), style="red")
        console(width=200).print(table)
    found = screen.getvalue()
    assert found.count(SHOWN) == 2
    assert found.count(r"a\x1b[31m") == 4  # a cell may be cut: rich measures it before it is written out
    for act in ("\x1b[31mb", "\x9b", "\r", "\x07", "\u202e", "\x7f"):
        assert act not in found, repr(act)
    assert "\x1b[31m" in found  # the row's own red
    assert sys.stdout is screen


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_encoding_takes_every_text(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    text = "\u00e9 \u2192 \U0001f600 \udcff"
    with shown_safely():
        click.echo(text)
        table = Table()
        table.add_column("name", no_wrap=True)
        table.add_row(Text(text))
        console(width=80).print(table)
    assert stream.errors == "strict"
    stream.flush()
    shown = raw.getvalue().decode(encoding)
    wanted = text.encode(encoding, "backslashreplace").decode(encoding)
    assert shown.count(wanted) == 2
    assert ("\u2500" in shown or "\u2501" in shown) == (encoding == "utf-8")  # else lines of + and -


def test_inspect_on_an_ascii_stream(exported: Path) -> None:
    """A traceback's exit code 1 would mean that the C++ differs."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "hwq", "inspect", str(exported / "hls")],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()


def test_an_error_shows_what_it_names(hwq: Hwq, tmp_path: Path) -> None:
    done = hwq("inspect", tmp_path / f"{EVIL}\udcff")
    assert done.code == 2
    assert r"\x9b2J" in done.err  # of \x1b[31m nothing is left where click sees no terminal
    assert "\x1b" not in done.err


def test_a_path_in_a_command_line_is_no_option() -> None:
    assert [argument(Path(p)) for p in ("runs/a", "-dash", "a b", "-a b")] == [
        "runs/a",
        "./-dash",
        "'a b'",
        "'./-a b'",
    ]


def test_every_console_is_made_in_one_place() -> None:
    for path in (ROOT / "hwq").rglob("*.py"):
        if path.name != "terminal.py":
            assert not re.search(r"\bConsole\(", path.read_text(encoding="utf-8")), f"{path}: hwq.terminal"


@pytest.mark.parametrize("option", ["--json", "--trace"])
def test_devices_and_links_are_written_through(option: str, exported: Path, tmp_path: Path, hwq: Hwq) -> None:
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "file").write_bytes(b"old")
    for name in ("null", "link"):
        command = ["simulate", exported, "--build", "native", "--images", 2, option, tmp_path / name]
        assert hwq(*command).code == 0
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "file").stat().st_size > 100
    os.mkfifo(tmp_path / "fifo")
    done = hwq("train", tmp_path / "fifo", "--out", tmp_path / "run")
    assert (done.code, done.err.strip()) == (2, f"error: {tmp_path / 'fifo'}: is a FIFO, not a file")
