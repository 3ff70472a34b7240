"""What is printed: no name from a file acts on the terminal, and no encoding of it ends a command.

Names of ops, classes and files are data. A control character in one is shown as `\\x1b`; a character that
the stream's encoding lacks as `\\xe9`.
"""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

_KEPT = "\n\t"
_CONTROLS = (*range(0x20), *range(0x7F, 0xA0), 0x061C, 0x200E, 0x200F, 0x2028, 0x2029)
_ORDER = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))  # they make text read in another order
_SHOWN = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    for code in (*_CONTROLS, *_ORDER)
    if chr(code) not in _KEPT
}


def printable(text: str) -> str:
    """The text with every control character written out, but line ends and tabs."""
    return text.translate(_SHOWN)


def argument(path: object) -> str:
    """A path as a shell's command line takes it: quoted, and never an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


@cache
def _screen() -> type[Console]:
    """rich's console, whose own colours and cursor moves act, and nobody else's. rich is slow to load."""
    from rich.console import Console
    from rich.segment import Segment

    class Screen(Console):
        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                if segment.control:
                    yield segment
                else:
                    yield Segment(printable(segment.text), segment.style)

    return Screen


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Where tables and progress go: standard output or error."""
    stream = sys.stderr if stderr else sys.stdout
    return _screen()(file=getattr(stream, "trusted", None), stderr=stderr, width=width)


class _Plain:
    """A text stream that shows what it is given and lets nothing act; `trusted` is the stream itself.

    It has no `buffer`: click would write past it where the encoding is ASCII.
    """

    def __init__(self, trusted: TextIO) -> None:
        self.trusted = trusted

    def write(self, text: str) -> int:
        return self.trusted.write(printable(text))

    def writelines(self, lines: Iterable[str]) -> None:
        self.trusted.writelines(map(printable, lines))

    def __getattr__(self, name: str) -> Any:
        if name in ("buffer", "trusted"):
            raise AttributeError(name)
        return getattr(self.trusted, name)


@contextmanager
def shown_safely() -> Iterator[None]:
    """Standard output and error show every text, whatever it holds and whatever their encoding is."""
    before = sys.stdout, sys.stderr
    errors = [stream.errors if isinstance(stream, io.TextIOWrapper) else None for stream in before]
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # a process without a terminal and without files may have none
    sys.stdout, sys.stderr = (stream and _Plain(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream, how in zip(before, errors, strict=True):
            if isinstance(stream, io.TextIOWrapper) and not stream.closed:
                stream.reconfigure(errors=how)
