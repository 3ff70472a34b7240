"""Files that are either whole or not there: written beside their place, then renamed over it.

a regular file, or nothing     a temporary file beside it takes its place in one step, with its mode
a link                         the same for the file that it leads to; the link stays
a device, a FIFO, /dev/fd/N    cannot be replaced: gets the content once that is whole
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hwq.files.leftovers import fresh_file, remove_dead, scratch

_DESCRIPTORS = re.compile(r"/proc/(\d+)/fd/(\d+)")
_MOST_LINKS = 40


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write; `path` gets its content at the end, or stays as it was when anything fails.

    Folders are not made. An OSError (full or read-only disk) names `path`, not the temporary file.
    """
    try:
        target = _target(path)
    except OSError as error:
        error.filename = str(path)
        raise
    with _through(path) if target is None else _beside(path, target) as temporary:
        yield temporary


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace the content of `path` (text as UTF-8), or leave it as it was."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def _target(path: Path) -> Path | None:
    """The regular file to replace or to make, links followed; None for what is written through."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return Path(os.path.realpath(path))  # a link to nowhere: what it names is made
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode) or _descriptor(path) is not None:
        return None
    _check_access(path, os.W_OK)  # a file that its owner protects is not to be replaced either
    return Path(os.path.realpath(path))


def _descriptor(path: Path) -> tuple[int, int] | None:
    """(process, number) where `path` is, or leads to, an open file of a process: /dev/stdout, /dev/fd/3.

    The shell's `> file` is such a regular file: replaced, it would lose whatever else is written there.
    """
    for _ in range(_MOST_LINKS):
        place = Path(os.path.realpath(path.parent)) / path.name
        found = _DESCRIPTORS.fullmatch(str(place))
        if found:
            return int(found[1]), int(found[2])
        if not place.is_symlink():
            return None
        path = place.parent / place.readlink()
    return None


@contextmanager
def _beside(path: Path, target: Path) -> Iterator[Path]:
    temporary = None
    try:
        remove_dead(target.parent)
        with fresh_file(target.parent, target.name) as temporary:
            yield temporary
            # on disk before the rename: a power cut must not leave an empty file under the right name
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            _like(target, temporary)
            temporary.replace(target)
    except OSError as error:
        if temporary is None or error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise


def _like(target: Path, temporary: Path) -> None:
    """The mode of the file that is about to be replaced, and its owner where that may be given away."""
    try:
        old = target.lstat()
    except FileNotFoundError:
        return  # a new file: as the umask has it
    if not stat.S_ISREG(old.st_mode):
        raise OSError(errno.EEXIST, "something that is no file has taken its place")
    new = temporary.stat()
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        with suppress(OSError):
            os.chown(temporary, old.st_uid, old.st_gid)
    temporary.chmod(stat.S_IMODE(old.st_mode))


@contextmanager
def _through(path: Path) -> Iterator[Path]:
    """A temporary file elsewhere; at the end its content goes into what stands at `path`."""
    with scratch("out") as folder:
        temporary = folder / "content"
        temporary.touch()
        yield temporary
        try:
            descriptor = _descriptor(path)
            if descriptor is not None and descriptor[0] == os.getpid():
                out = os.dup(descriptor[1])  # of one position with whatever else is written there
            else:
                out = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
            with temporary.open("rb") as content, os.fdopen(out, "wb") as stream:
                shutil.copyfileobj(content, stream)
        except OSError as error:
            error.filename = str(path)
            raise


def check_writable(folder: Path) -> None:
    """Raise OSError, before any work is done, where `folder` cannot be made or written."""
    there = next((p for p in (folder, *folder.absolute().parents) if p.exists()), folder)
    _check_access(there, os.W_OK | os.X_OK)


def check_file(path: Path) -> None:
    """Raise OSError, before any work is done, where the file `path` cannot be made, replaced or written."""
    target = _target(path)
    if target is None:
        _check_access(path, os.W_OK)
    elif not target.parent.is_dir():  # a link into a folder that is not there
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(target.parent))
    else:
        _check_access(target.parent, os.W_OK | os.X_OK)


def _check_access(path: Path, wanted: int) -> None:
    if not os.access(path, wanted):
        read_only = bool(os.statvfs(path).f_flag & os.ST_RDONLY)
        code = errno.EROFS if read_only else errno.EACCES
        raise OSError(code, os.strerror(code), str(path))
