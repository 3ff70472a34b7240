"""A command of hwq in a forked child: torch is loaded once, and no change of state stays."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

MOST_MEMORY = 2 << 30
"""Bytes that a command may hold, whatever the file says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """code: exit code, or minus the signal. said: both streams. peak: bytes of memory. hung: was stopped."""

    code: int
    said: str
    peak: int
    hung: bool


def run(arguments: list[str], folder: Path, seconds: float = 60) -> Outcome:
    """`hwq ARGUMENTS` with `folder` as the current one and the cache in it."""
    log = folder.parent / "said.txt"
    pid = os.fork()
    if pid == 0:
        _work(arguments, folder, log)
    ends, hung = time.monotonic() + seconds, False
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > ends and not hung:
            hung = True
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.005)
    code = os.waitstatus_to_exitcode(status)
    said = log.read_bytes().decode("utf-8", "replace") if log.exists() else ""
    said = said.replace(f"{folder}/", "")
    return Outcome(code=code, said=said, peak=usage.ru_maxrss * 1024, hung=hung)


def _work(arguments: list[str], folder: Path, log: Path) -> None:
    """Never returns."""
    os.setsid()
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout = open(1, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    code = 99
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (2 * MOST_MEMORY, 2 * MOST_MEMORY))
        os.chdir(folder)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        os.environ["COLUMNS"] = "200"
        from hwq.cli import main

        sys.argv = ["hwq", *arguments]
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
