"""Kills a process at any of its file operations, and says how many it made.

The operations are those that Python itself reports (audit events): files opened for writing, renamed,
removed; folders made and removed; modes changed; and every fsync. The process ends before the operation,
as SIGKILL ends it: without clean-up, with nothing flushed.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

KILLED = 137
_EVENTS = {
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.chmod",
    "os.truncate",
    "os.link",
    "os.symlink",
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def operations(work: Callable[[], object], inside: Path, *, kill_at: int | None = None) -> int | None:
    """The file operations that `work` makes in the folder `inside`, in a fork; None: it was killed before
    operation `kill_at`, counted from 0. AssertionError with the fork's traceback where `work` fails.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _child(work, os.fspath(inside), kill_at, write_end)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as stream:
        said = stream.read().decode()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == KILLED:
        return None
    assert code == 0, said
    return int(said)


def _child(work: Callable[[], object], inside: str, kill_at: int | None, write_end: int) -> None:
    count = 0

    def operation() -> None:
        nonlocal count
        if count == kill_at:
            os._exit(KILLED)
        count += 1

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if flags & _WRITING and isinstance(path, str | os.PathLike) and _within(path):
                operation()
        elif event in _EVENTS and any(isinstance(a, str | os.PathLike) and _within(a) for a in arguments):
            operation()

    def _within(path: str | os.PathLike[str]) -> bool:
        return os.path.abspath(os.fspath(path)).startswith(inside)  # noqa: PTH100

    def fsync(handle: int) -> None:
        operation()
        real(handle)

    real, os.fsync = os.fsync, fsync
    sys.addaudithook(hook)
    try:
        work()
        os.write(write_end, str(count).encode())
        os._exit(0)
    except BaseException:
        os.write(write_end, traceback.format_exc().encode())
        os._exit(1)


def at_every_operation(
    work: Callable[[], object], inside: Path, prepare: Callable[[], object], check: Callable[[], object]
) -> int:
    """Prepare, kill `work` at one of its operations, check; for each of them. How many there were."""
    number = 0
    while True:
        prepare()
        finished = operations(work, inside, kill_at=number)
        try:
            check()
        except BaseException as error:
            error.add_note(f"killed before file operation {number}")
            raise
        if finished is not None:
            return number
        number += 1
