"""Files that are either whole or not there: written beside their place, then renamed over it."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write; it replaces `path` at the end, or disappears when anything fails.

    An OSError (full or read-only disk) names `path`, not the temporary file.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
    except OSError as error:
        error.filename = str(path)
        raise
    temporary = Path(name)
    try:
        yield temporary
        # on disk before the rename: a power cut must not leave an empty file under the right name
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content` (text as UTF-8), or leave it as it was."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def check_writable(folder: Path) -> None:
    """Raise OSError, before any work is done, where `folder` cannot be made or written."""
    there = next((p for p in (folder, *folder.absolute().parents) if p.exists()), folder)
    if not os.access(there, os.W_OK | os.X_OK):
        read_only = bool(os.statvfs(there).f_flag & os.ST_RDONLY)
        code = errno.EROFS if read_only else errno.EACCES
        raise OSError(code, os.strerror(code), str(there))


def cache_folder() -> Path:
    """Decoded images, downloads, compiled libraries: $XDG_CACHE_HOME/hwq, or ~/.cache/hwq."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "hwq"
