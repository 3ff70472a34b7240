"""JSON and TOML from others: of bounded depth, finite numbers and real text, with one line for all else."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hwq.errors import InputError
from hwq.files.reading import DOCUMENT, SMALL, decoded, named, read_bytes

DEPTH = 32
"""Tables within tables at most: what reads a document may walk it recursively."""

T = TypeVar("T")
_WORDS: dict[object, str] = {dict: "a table of names and values", list: "a list"}


def read_json(
    path: Path | str, kind: type[T], *, limit: int = DOCUMENT, what: str = "", advice: str = ""
) -> T:
    """The document of a file, whose top level is a `kind` (dict, list). Raises `Missing`, InputError.

    what: the file in words; advice: what to do about a wrong one ("export the project again").
    """
    content = read_bytes(path, limit=limit, what=what, advice=advice)
    return parse_json(content, kind, where=named(path, what), advice=advice)


def read_toml(path: Path | str, *, limit: int = SMALL, what: str = "", advice: str = "") -> dict[str, Any]:
    """The document of a TOML file. Raises `Missing`, InputError."""
    content = read_bytes(path, limit=limit, what=what, advice=advice)
    return parse_toml(content, where=named(path, what), advice=advice)


def parse_json(content: bytes | str, kind: type[T], *, where: str, advice: str = "") -> T:
    """JSON whose top level is a `kind`: no name twice in a table, no NaN or infinity, nothing deeper than
    `DEPTH`. Raises InputError that begins with `where`.
    """

    def load(text: str) -> Any:
        return json.loads(text, object_pairs_hook=_table)

    return _checked(content, kind, load, "JSON", where, advice)


def parse_toml(content: bytes | str, *, where: str, advice: str = "") -> dict[str, Any]:
    """As `parse_json`, for TOML."""
    return _checked(content, dict, tomllib.loads, "TOML", where, advice)


def _checked(
    content: bytes | str, kind: type[T], load: Callable[[str], Any], language: str, where: str, advice: str
) -> T:
    end = f"; {advice}" if advice else ""
    text = decoded(content, where, advice) if isinstance(content, bytes) else content
    try:
        document = load(text)
    except RecursionError:
        raise InputError(f"{where}: {_too_deep()}{end}") from None
    except ValueError as error:  # also an integer of more digits than Python reads
        raise InputError(f"{where}: not valid {language}: {_brief(error)}{end}") from None
    fault = _fault(document)
    if not fault and not isinstance(document, kind):
        fault = f"must hold {_WORDS.get(kind, kind.__name__)}"
    if fault:
        raise InputError(f"{where}: {fault}{end}")
    found: T = document
    return found


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """One of the same names would silently win."""
    table: dict[str, Any] = {}
    for name, value in pairs:
        if name in table:
            raise ValueError(f"'{name[:40]}' stands twice in one table")
        table[name] = value
    return table


def _brief(error: ValueError) -> str:
    """tomllib quotes what it read, however long that is."""
    text = str(error)
    return text if len(text) <= 200 else f"{text[:80]} ... {text[-80:]}"


def _too_deep() -> str:
    return f"nested more than {DEPTH} levels deep"


def _fault(document: Any) -> str:
    """What no reader of a document could use, in words; "" where there is nothing of that kind."""
    level: list[Any] = [document]
    for depth in range(DEPTH + 1):
        inner: list[Any] = []
        for value in level:
            if depth == DEPTH and isinstance(value, dict | list):
                return _too_deep()
            if isinstance(value, dict):
                inner += value.keys()
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, float) and not math.isfinite(value):
                return f"holds the number {value}, which is not finite"
            elif isinstance(value, str) and not value.isascii() and not _encodes(value):
                return f"holds {value[:40]!a}, which is no Unicode text"
        level = inner
    return ""


def _encodes(text: str) -> bool:
    """Not so with half a surrogate pair, as in "\\ud800": no file and no terminal takes that."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
