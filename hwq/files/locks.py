"""One writer of a folder at a time; the second is told who holds it.

flock's lock: the system lets go of it however a process ends, so no dead one blocks a folder. The lock is a
hidden file, removed when it is let go, that says who holds it. A file system without such locks locks
nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hwq.errors import InputError
from hwq.files.leftovers import STEM, UNSUPPORTED, is_at, is_temporary

RUN_LOCK = ".hwq.lock"
"""Of a whole run folder."""
_SUFFIX = ".hwq-lock"
_POLL = 0.05
_held: set[int] = set()


class InUse(InputError):
    """Another process writes there; the message says which."""


def ours(name: str) -> bool:
    """Whether a file's name is that of a lock or of a temporary file: no content of a folder."""
    return name == RUN_LOCK or (name.startswith(".") and name.endswith(_SUFFIX)) or is_temporary(name)


def contents(folder: Path) -> list[str]:
    """Names of what is in a folder, without locks and temporary files; [] where there is no such folder."""
    try:
        return [entry.name for entry in os.scandir(folder) if not ours(entry.name)]
    except FileNotFoundError:
        return []


@contextmanager
def run_lock(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a run folder, which is made where it is missing, and removed again if nothing came into it.

    shared: beside others that share it. Raises InUse, OSError.
    """
    made = _make(folder)
    try:
        with _locked(folder / RUN_LOCK, folder, shared=shared, wait=0.0):
            yield
    finally:
        for empty in made:
            with suppress(OSError):  # not empty: the run is there
                empty.rmdir()


@contextmanager
def name_lock(path: Path, *, wait: float = 60.0) -> Iterator[None]:
    """Hold the name `path` in its folder, for moments; waits so many seconds for others. Raises as above."""
    with _locked(path.with_name(f".{path.name[:STEM]}{_SUFFIX}"), path, shared=False, wait=wait):
        yield


def _make(folder: Path) -> list[Path]:
    """The folders that were made for it, the innermost first."""
    missing = []
    for path in (folder, *folder.parents):
        if path.exists():
            break
        missing.append(path)
    folder.mkdir(parents=True, exist_ok=True)
    return missing


@contextmanager
def _locked(path: Path, what: Path, *, shared: bool, wait: float) -> Iterator[None]:
    end = time.monotonic() + wait
    while (handle := _taken(path, shared)) is None:
        if time.monotonic() >= end:
            raise InUse(f"{what}: in use by {_owner(path)}; wait for it to end, or choose another folder")
        time.sleep(_POLL)
    _held.add(handle)
    try:
        _sign(handle)
        yield
    finally:
        _held.discard(handle)
        _let_go(path, handle, shared)


def _taken(path: Path, shared: bool) -> int | None:
    """The open lock file once it is locked; None where another holds it."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:  # another process removed the folder that it had made
            path.parent.mkdir(parents=True, exist_ok=True)
            continue
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                os.close(handle)
                raise
        if is_at(path, handle):
            return handle
        os.close(handle)  # its holder removed it after we had opened it


def _sign(handle: int) -> None:
    """Say who holds it. A full disk is no reason to stop here."""
    words = [Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv else ["python"]
    if words[0] == "__main__.py":
        words[0] = "hwq"
    command = shlex.join(words)
    content = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": command if len(command) <= 200 else f"{command[:200]}...",
    }
    with suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(content).encode(), 0)


def _owner(path: Path) -> str:
    """Who holds the lock, in words, as far as the file says so."""
    from hwq.files.parsing import read_json

    try:
        said = read_json(path, dict, limit=4096)
        where = "" if said["host"] == socket.gethostname() else f" on {said['host']}"
        return f"`{said['command']}` (process {said['pid']}{where}, since {said['since']})"
    except (InputError, KeyError):
        return "another process"


def _let_go(path: Path, handle: int, shared: bool) -> None:
    """Remove the file, unless others share it, and so let go of it."""
    try:
        if shared:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where another shares it
        if is_at(path, handle):
            path.unlink()
    except OSError:
        pass
    finally:
        os.close(handle)


def _forget() -> None:
    """In a forked child: the parent's locks must not outlive the parent."""
    for handle in _held:
        with suppress(OSError):
            os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
