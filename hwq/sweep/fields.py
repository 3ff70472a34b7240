"""What stands in a stored row: its fields, and whether each holds what the rest of a sweep relies on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from hwq.errors import InputError
from hwq.files import json_digest
from hwq.fixed import parse_format
from hwq.sweep.points import REAL

Test = Callable[[Any], bool]
_BITS = re.compile(r"([1-9]\d?/[1-9]\d?)?")


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _sha256(value: Any) -> bool:
    return _text(value) and bool(re.fullmatch("[0-9a-f]{64}", value))


def _count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300  # an integer of thousands of digits is no float


def _percent(value: Any) -> bool:
    return _number(value) and 0 <= value <= 100


def _format(value: Any) -> bool:
    try:
        return _text(value) and (value == REAL or bool(parse_format(value)))
    except InputError:
        return False


def _assigned(value: Any) -> bool:
    return isinstance(value, list) and all(
        _text(pair) and "=" in pair and _format(pair.rpartition("=")[2]) for pair in value
    )


def _or_none(test: Test) -> Test:
    return lambda value: value is None or test(value)


def _by_layer(test: Test) -> Test:
    return lambda value: isinstance(value, dict) and all(map(test, value.values()))


_CHECK: dict[str, Test] = {
    "build": _text,
    "images": _count,
    "values": _count,
    "mismatches": _count,
    "accuracy": _percent,
}


def _checks(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(c, dict) and not _wrong(c, _CHECK) for c in value)


_KEY: dict[str, Test] = {
    "checkpoint": _text,
    "data": _text,
    "format": _format,
    "round": lambda value: value in ("rnd", "trn"),
    "bits": lambda value: _text(value) and bool(_BITS.fullmatch(value)),
    "assigned": _assigned,
    "edge": _text,
    "images": _count,
    "error_images": _count,
    "off_bits": _or_none(_count),
    "pixels": _sha256,
    "hwq": _text,
}
_FIGURES: dict[str, Test] = {
    "accuracy": _percent,
    "local": _number,
    "logits_snr": _or_none(_number),
    "clipped": _count,
    "clipped_images": _count,
    "memory": _count,
    "saturated": _count,
    "vanished": _count,
    "harmful": _count,
    "first_wrong": _text,
    "checked": _text,
}
_INSIDE: dict[str, Test] = {
    "layers": _by_layer(_number),
    "edge_layers": _by_layer(_number),
    "snr": _by_layer(_or_none(_number)),
    "harmful_layers": _by_layer(_count),
    "digest": _text,
    "checks": _checks,
}
KEY = tuple(_KEY)
"""What makes two rows the same measurement."""
MAKER = ("checkpoint", "data", "hwq")
"""The part of it that no option of a sweep chooses; of as many images, `pixels`, too."""
COLUMNS = (*_KEY, *_FIGURES)
"""Those that are one cell of the CSV."""


def fault(row: Any) -> str:
    """What in a row is not what a sweep writes there, in words; "" where all is."""
    if not isinstance(row, dict):
        return "a row is no table"
    wrong = _wrong(row, {**_KEY, **_FIGURES, **_INSIDE})
    if not wrong and row.get("seal") != seal(row):
        return f"the row of {row['format']} is not as it was measured"
    if wrong:
        return f"{wrong} of a row is {row[wrong]!r:.60}" if wrong in row else f"a row has no {wrong}"
    missing = next((name for name in row["layers"] if name not in row["snr"]), None)
    return "" if missing is None else f"a row has no noise of its layer {missing!r:.60}"


def seal(row: Mapping[str, Any]) -> str:
    """SHA-256 of all that a row says: an edit of one figure shows."""
    return json_digest({name: value for name, value in row.items() if name != "seal"})


def _wrong(values: Mapping[str, Any], tests: Mapping[str, Test]) -> str:
    return next((name for name, test in tests.items() if name not in values or not test(values[name])), "")
