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
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

JOURNAL = "moves.json"
"""A folder that holds it is not removed: `hwq.files.installing` has yet to finish it."""
STEM = 48
"""Characters of the final name in the temporary one: both together stay below 255 bytes."""
UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EINVAL)
"""How a file system says that it has no locks."""
_FORM = re.compile(r"\..*\.hwq-[0-9a-f]{8}", re.DOTALL)
_seen: set[tuple[str, str]] = set()


def temporary_name(name: str) -> str:
    """Beside `name`: hidden, and of a form that nobody else uses."""
    return f".{name[:STEM]}.hwq-{secrets.token_hex(4)}"


def is_temporary(name: str) -> bool:
    """Whether a file's name is of the form that `temporary_name` gives."""
    return _FORM.fullmatch(name) is not None


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
    """An empty folder in `folder`, for this user alone; gone with its content at the end.

    Those of this name that dead processes left in `folder` go first.
    """
    remove_dead(folder, name, again=True)
    path, handle = _made(folder, name, _make_folder)
    try:
        yield path
    finally:
        _discard(path)
        os.close(handle)


@contextmanager
def scratch(name: str, folder: str | None = None) -> Iterator[Path]:
    """A `fresh_folder` among the system's temporary files, or in `folder`."""
    with fresh_folder(Path(folder or tempfile.gettempdir()), f"hwq-{name}") as path:
        yield path


def _discard(path: Path) -> None:
    if not (path / JOURNAL).exists():
        shutil.rmtree(path, ignore_errors=True)


def _make_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def _make_folder(path: Path) -> int:
    path.mkdir(mode=0o700)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _made(folder: Path, name: str, make: Callable[[Path], int]) -> tuple[Path, int]:
    while True:
        path = folder / temporary_name(name)
        try:
            handle = make(path)
        except FileExistsError:
            continue
        except FileNotFoundError:
            if not folder.exists():
                raise
            continue  # another process took it for a dead one's, before it was locked
        with suppress(OSError):  # BlockingIOError: by that very process
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_at(path, handle):
            return path, handle
        os.close(handle)


def is_at(path: Path, handle: int) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    own = os.fstat(handle)
    return (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)


def remove_dead(folder: Path, name: str = "", *, again: bool = False) -> None:
    """What processes that are no more left in `folder`: temporary files, and folders of this `name`.

    Once in a process, unless `again`. Never raises: what cannot be removed stays.
    """
    key = (os.path.abspath(folder), name)  # noqa: PTH100 -- keeps symbolic links as they are
    if key in _seen and not again:
        return
    _seen.add(key)
    with suppress(OSError):
        for path in [Path(e.path) for e in os.scandir(folder) if is_temporary(e.name)]:
            with suppress(OSError):
                mode = path.lstat().st_mode
                own = name and path.name.startswith(f".{name[:STEM]}.hwq-")
                if stat.S_ISREG(mode) or (stat.S_ISDIR(mode) and own):
                    with adopted(path):
                        if stat.S_ISREG(mode):
                            path.unlink()


def dead_folders(folder: Path, name: str) -> list[Path]:
    """Those of `fresh_folder(folder, name)` that are there; `adopted` says which are dead."""
    with suppress(OSError):
        found = [Path(entry.path) for entry in os.scandir(folder) if is_temporary(entry.name)]
        start = f".{name[:STEM]}.hwq-"
        return sorted(path for path in found if path.name.startswith(start) and path.is_dir())
    return []


@contextmanager
def adopted(path: Path) -> Iterator[None]:
    """Hold what a dead process of this user left; a folder is removed at the end. Raises OSError where it
    is another's, or its process lives.
    """
    folder = stat.S_ISDIR(path.lstat().st_mode)
    access = os.O_RDONLY if folder else os.O_RDWR  # what NFS wants for a lock
    handle = os.open(path, access | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if os.fstat(handle).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not is_at(path, handle):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        yield
        if folder:
            _discard(path)
    finally:
        os.close(handle)
