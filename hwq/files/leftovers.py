"""Temporary files and folders that say by a lock whether their process still lives.

What a killed process left behind is removed by the next one that writes there; what a live one holds never
is. The lock is flock's: the system lets go of it however a process ends, and no number of a process is
trusted. Where a file system knows no such locks nothing is removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_STEM = 48
"""Characters of the final name in the temporary one: both together stay below 255 bytes."""
_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EINVAL)
_done: set[tuple[str, str]] = set()


def temporary_name(name: str) -> str:
    """Beside `name`: hidden, and of a form that nobody else uses."""
    return f".{name[:_STEM]}.hwq-{secrets.token_hex(4)}"


def _form(name: str) -> re.Pattern[str]:
    return re.compile(rf"\.{re.escape(name[:_STEM])}\.hwq-[0-9a-f]{{8}}")


def is_temporary(name: str) -> bool:
    """Whether a file's name is of the form that `temporary_name` gives."""
    return re.fullmatch(r"\..*\.hwq-[0-9a-f]{8}", name, re.DOTALL) is not None


@contextmanager
def fresh_file(folder: Path, name: str) -> Iterator[Path]:
    """An empty file in `folder`, of the umask's mode; gone at the end unless it was renamed."""
    path, handle = _made(folder, name, _make_file)
    try:
        yield path
    finally:
        with suppress(FileNotFoundError):
            path.unlink()
        os.close(handle)


@contextmanager
def fresh_folder(folder: Path, name: str) -> Iterator[Path]:
    """An empty folder in `folder`, for this user alone; gone with its content at the end unless renamed."""
    path, handle = _made(folder, name, _make_folder)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(handle)


def _make_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def _make_folder(path: Path) -> int:
    path.mkdir(mode=0o700)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _made(folder: Path, name: str, make: object) -> tuple[Path, int]:
    assert callable(make)
    while True:
        path = folder / temporary_name(name)
        try:
            handle: int = make(path)
        except FileExistsError:
            continue
        lock(handle)
        if _is(path, handle):
            return path, handle
        os.close(handle)  # another process took it for a dead one's, before it was locked


def lock(handle: int) -> bool:
    """Take the lock of an open file; False where another holds it. True, too, where there are no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    return True


def _is(path: Path, handle: int) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    own = os.fstat(handle)
    return (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)


def remove_dead(folder: Path, name: str, *, again: bool = False) -> None:
    """What processes that are no more left in `folder` of `temporary_name(name)`.

    Once in a process, unless `again`. Never raises: what cannot be removed stays.
    """
    key = (os.path.abspath(folder), name)  # noqa: PTH100 -- keeps symbolic links as they are
    if key in _done and not again:
        return
    _done.add(key)
    form = _form(name)
    with suppress(OSError):
        for found in [e.name for e in os.scandir(folder) if form.fullmatch(e.name)]:
            with suppress(OSError):
                _remove(folder / found)


def _remove(path: Path) -> None:
    mode = path.lstat().st_mode
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        return
    access = os.O_RDONLY if stat.S_ISDIR(mode) else os.O_RDWR  # what NFS wants for a lock
    handle = os.open(path, access | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if os.fstat(handle).st_uid != os.geteuid():
            return
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where it is held, or where none are
        if not _is(path, handle):
            return
        if stat.S_ISDIR(mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    finally:
        os.close(handle)
