"""What hwq starts ends with hwq: compilers, and the programs that they start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hwq.children import NOT_STARTED, run
from hwq.compiler import Compiler
from hwq.errors import ToolError

DRIVER = "sh -c 'echo $$ > inner; exec sleep 60' & echo $$ > outer; wait"
"""As g++ is: a program that starts others. Both tell their numbers."""


def running(pid: int) -> bool:
    """A zombie, which only waits to be counted, is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def started(folder: Path) -> list[int]:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        found = [(folder / name) for name in ("inner", "outer")]
        if all(path.exists() and path.read_text().strip() for path in found):
            return [int(path.read_text()) for path in found]
        time.sleep(0.01)
    raise AssertionError("not started")


def gone(pids: list[int]) -> bool:
    end = time.monotonic() + 10
    while any(map(running, pids)) and time.monotonic() < end:
        time.sleep(0.01)
    return not any(map(running, pids))


def test_output_and_exit_codes(tmp_path: Path) -> None:
    done = run(["sh", "-c", "echo out; echo err >&2; pwd; exit 3"], output=subprocess.PIPE, folder=tmp_path)
    assert (done.returncode, done.stdout.decode().split()) == (3, ["out", "err", str(tmp_path)])
    assert run(["sh", "-c", "kill -9 $$"], output=subprocess.PIPE).returncode == 128 + 9
    done = run(["./nothing"], output=subprocess.PIPE)
    assert done.returncode == NOT_STARTED
    assert done.stdout == b"error: ./nothing does not run: No such file or directory\n"


def test_a_timeout_ends_all(tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run(["sh", "-c", DRIVER], output=subprocess.DEVNULL, folder=tmp_path, timeout=1)
    assert gone(started(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_end_of_this_process_ends_all(number: signal.Signals, tmp_path: Path) -> None:
    parent = os.fork()
    if parent == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            run(["sh", "-c", DRIVER], output=subprocess.DEVNULL, folder=tmp_path)
        finally:
            os._exit(0)
    try:
        pids = started(tmp_path)
        assert all(map(running, pids))
        os.kill(parent, number)
        assert gone(pids)
    finally:
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)


def test_a_version_that_is_no_utf8(tmp_path: Path) -> None:
    compiler = tmp_path / "g++"
    compiler.write_bytes(b"#!/bin/sh\nprintf 'g++ \\377\\376 12\\n'\n")
    compiler.chmod(0o755)
    assert Compiler((str(compiler),), "$CXX").version == "g++ \ufffd\ufffd 12"
    compiler.write_bytes(b"#!/bin/sh\n")
    with pytest.raises(ToolError, match="does not answer --version"):
        _ = Compiler((str(compiler),), "$CXX").version


@pytest.mark.parametrize(("number", "says"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP")])
def test_a_command_ends_by_a_signal_as_by_ctrl_c(number: signal.Signals, says: str, tmp_path: Path) -> None:
    """With clean-up and one line. The command is one that waits for its compiler."""
    compiler = tmp_path / "g++"
    compiler.write_text(
        f"#!/bin/sh\n[ \"$1\" = --version ] && echo 'g++ 12' && exit 0\ncd {tmp_path}\n{DRIVER}\n"
    )
    compiler.chmod(0o755)
    environment = {**os.environ, "CXX": str(compiler), "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "hwq", "doctor"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as running_command:
        pids = started(tmp_path)
        running_command.send_signal(number)
        _, err = running_command.communicate(timeout=30)
    assert running_command.returncode == 128 + number
    assert err.decode().strip() == f"error: ended by {says}"
    assert gone(pids)
    assert list((tmp_path / "tmp").iterdir()) == []
