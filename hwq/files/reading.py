"""Files read with distrust: regular ones alone, of a size that a file of their kind can have.

What stands at a path that the user names may be anything: a FIFO that nobody writes (reading it would wait
for ever), a device without end, a file of another program with terabytes. Each is one line here.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

from hwq.errors import InputError

SMALL = 1 << 20
"""Bytes of what a person writes: a recipe, a table of foldings."""
DOCUMENT = 32 << 20
"""Bytes of JSON that hwq writes; parsed, the worst content takes about 25 times as much memory."""
TENSORS = 2 << 30
"""Bytes of a file of integers or weights."""
_BLOCK = 1 << 20

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class Missing(InputError):
    """No file of that name, or a link to nowhere."""


def kind_of(mode: int) -> str:
    """What an `st_mode` that is no regular file's says, in words."""
    return next((word for test, word in _KINDS if test(mode)), "no regular file")


def named(path: Path | str, what: str) -> str:
    """How a message begins: 'folding file x.toml', or the path alone."""
    return f"{what} {path}" if what else str(path)


def open_regular(path: Path | str, *, what: str = "") -> BinaryIO:
    """A regular file (or a link to one), open for reading; never waits.

    Raises `Missing`, or InputError for what cannot be opened and for what is no regular file. what: the
    file in words, for the message.
    """
    name = named(path, what)
    try:
        # looked at before it is opened, since opening alone can act on a device; and once more after,
        # without waiting, since something else may have taken its place
        _check_regular(os.stat(path).st_mode, name)  # noqa: PTH116 -- str and Path alike
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError:
        raise Missing(f"{name}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{name}: {getattr(error, 'strerror', None) or error}") from None
    stream = os.fdopen(handle, "rb")
    try:
        _check_regular(os.fstat(handle).st_mode, name)
    except BaseException:
        stream.close()
        raise
    return stream


def _check_regular(mode: int, name: str) -> None:
    if not stat.S_ISREG(mode):
        raise InputError(f"{name}: is {kind_of(mode)}, not a file")


def read_bytes(path: Path | str, *, limit: int = SMALL, what: str = "", advice: str = "") -> bytes:
    """The whole file, of `limit` bytes at most. Raises `Missing`, InputError.

    what: the file in words; advice: what to do about a wrong one; both for the message.
    """
    name = named(path, what)
    with open_regular(path, what=what) as stream:
        try:
            size = os.fstat(stream.fileno()).st_size
            content = stream.read(limit + 1) if size <= limit else b""
        except OSError as error:
            raise InputError(f"{name}: {error.strerror or error}") from None
    if max(size, len(content)) > limit:
        raise InputError(
            f"{name}: holds {max(size, len(content)):,} bytes or more, at most {limit:,} are read"
            + (f"; {advice}" if advice else "")
        )
    return content


def read_text(path: Path | str, *, limit: int = SMALL, what: str = "", advice: str = "") -> str:
    """The whole file as UTF-8. Raises as `read_bytes` does, and InputError for other bytes."""
    content = read_bytes(path, limit=limit, what=what, advice=advice)
    return decoded(content, named(path, what), advice)


def decoded(content: bytes, where: str, advice: str = "") -> str:
    """UTF-8 as text, without the mark that some editors put before it. Raises InputError."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: not UTF-8 text (byte {error.start + 1} is 0x{error.object[error.start]:02x})"
            + (f"; {advice}" if advice else "")
        ) from None


def digest(path: Path | str, *, what: str = "") -> str:
    """SHA-256 of a regular file of any size, hexadecimal. Raises `Missing`, InputError."""
    key = hashlib.sha256()
    with open_regular(path, what=what) as stream:
        try:
            while block := stream.read(_BLOCK):
                key.update(block)
        except OSError as error:
            raise InputError(f"{named(path, what)}: {error.strerror or error}") from None
    return key.hexdigest()
