"""Changes of a file, as accidents, other tools and hostile people make them."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NUMBERS = (
    "-1",
    "0",
    "1e300",
    "-1e23",
    "99999999999999999999",
    "0.5",
    "true",
    "null",
    '"x"',
    "{}",
    "[]",
    "1e-320",
)
_WORDS = (
    "\x1b[31m",
    "../../etc/passwd",
    "@file",
    "-o",
    "é" * 50,
    "x" * 70_000,
    "",
    "nan",
    "\x00",
    "[" * 5000,
)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def flip_bit(data: bytes, rng: random.Random) -> bytes:
    """One bit of one byte."""
    if not data:
        return b"\x80"
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def set_bytes(data: bytes, rng: random.Random) -> bytes:
    """Up to eight bytes in a row: zeros, ones, or anything."""
    if not data:
        return b"\xff" * 8
    at, count = rng.randrange(len(data)), rng.randint(1, 8)
    fill = rng.choice([b"\x00" * count, b"\xff" * count, rng.randbytes(count)])
    return data[:at] + fill + data[at + count :]


def cut(data: bytes, rng: random.Random) -> bytes:
    """Ends somewhere."""
    return data[: rng.randrange(len(data))] if data else data


def drop(data: bytes, rng: random.Random) -> bytes:
    """Without a part of the middle."""
    first, last = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:first] + data[last:]


def repeat(data: bytes, rng: random.Random) -> bytes:
    """A part of it twice."""
    first, last = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:last] + data[first:last] + data[last:]


def insert(data: bytes, rng: random.Random) -> bytes:
    """Bytes of any kind in between."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice([1, 7, 300])) + data[at:]


def number(data: bytes, rng: random.Random) -> bytes:
    """One number of a text is another, or no number at all."""
    text = data.decode("latin-1")
    found = list(_NUMBER.finditer(text[: 1 << 20]))
    if not found:
        return flip_bit(data, rng)
    match = rng.choice(found)
    return (text[: match.start()] + rng.choice(_NUMBERS) + text[match.end() :]).encode("latin-1")


def word(data: bytes, rng: random.Random) -> bytes:
    """One quoted string of a text is another."""
    text = data.decode("latin-1")
    found = list(re.finditer(r'"[^"\\\n]*"', text[: 1 << 20]))
    if not found:
        return flip_bit(data, rng)
    match = rng.choice(found)
    other = rng.choice([*_WORDS, rng.choice(found)[0].strip('"')])
    return (text[: match.start()] + json.dumps(other) + text[match.end() :]).encode("latin-1")


def structure(data: bytes, rng: random.Random) -> bytes:
    """A value of a JSON document or safetensors header is gone, or of another type."""
    start = 8 if data[8:9] == b"{" else 0
    end = 8 + int.from_bytes(data[:8], "little") if start else len(data)
    try:
        document = json.loads(data[start:end])
    except ValueError:
        return number(data, rng)
    parents = list(_containers(document))
    if not parents:
        return number(data, rng)
    parent = rng.choice(parents)
    key = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    others: list[Any] = [None, True, -1, 1 << 70, 1.5, "x", [], {}, [[[]]], [1, 2], {"a": 1}]
    if rng.random() < 0.3:
        del parent[key]
    else:
        parent[key] = rng.choice(others)
    made = json.dumps(document).encode()
    return (len(made).to_bytes(8, "little") if start else b"") + made + data[end:]


def _containers(value: Any) -> Any:
    if isinstance(value, dict | list):
        if value:
            yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from _containers(item)


def nested(data: bytes, rng: random.Random) -> bytes:
    """Brackets, thousands deep."""
    left, right = rng.choice([("[", "]"), ('{"a":', "}")])
    return (left * 5000 + "1" + right * 5000).encode()


def empty(data: bytes, rng: random.Random) -> bytes:
    """Nothing in it."""
    return b""


CONTENT: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flip_bit, set_bytes, cut, drop, repeat, insert, number, word, structure, structure, nested, empty,
)  # fmt: skip


def mutate(path: Path, rng: random.Random) -> str:
    """Change the file in place, or what kind of thing it is; says how."""
    if rng.random() < 0.06:
        return _replace(path, rng)
    change = rng.choice(CONTENT)
    before = path.read_bytes()
    after = change(before, rng)
    path.unlink()
    path.write_bytes(after)
    return change.__name__ if after != before else "unchanged"


def _replace(path: Path, rng: random.Random) -> str:
    kind = rng.choice(["fifo", "folder", "zeros", "dangling", "gone"])
    path.unlink()
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "zeros":
            path.symlink_to("/dev/zero")
        case "dangling":
            path.symlink_to("nowhere")
    return kind
