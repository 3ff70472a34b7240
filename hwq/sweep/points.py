"""What a sweep measures: formats, roundings, bit widths; and how users write a grid of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from glob import escape
from itertools import product

from hwq.errors import InputError
from hwq.fixed import MAX_WIDTH, ChannelFormat, ConstantFormat, LiteralFormat, Rounding, parse_format
from hwq.lower import Formats

REAL = "real"
"""The baseline: constants so precise (54-bit mantissas, own I) that they stand for real numbers."""
OWN = ""
"""`Point.bits` of the network as it was trained."""
_SPAN = re.compile(r"(\d+)(?::(\d+)(?::(\d+))?)?")
_MAX_BITS = 16
_MAX_POINTS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measurement. name: `real`, or the body's format as `--fixed` takes it, normalised.

    rounding: of every requantisation, `rnd` or `trn`. bits: weights/activations as in `8/4`, or `OWN`.
    layers: (requantisation, format) where it differs from the body.
    """

    name: str
    rounding: str = "rnd"
    bits: str = OWN
    layers: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def parse(text: str, rounding: str = "rnd", bits: str = OWN) -> Point:
        """Raises InputError for an unknown format."""
        name = text.strip()
        return Point(name=name if name == REAL else str(parse_format(name)), rounding=rounding, bits=bits)

    @property
    def network(self) -> tuple[str, str]:
        """Points that share it have the same real-valued constants: (bits, rounding)."""
        return self.bits, self.rounding

    @property
    def reference(self) -> Point:
        """The same network with real-valued constants."""
        return Point(name=REAL, rounding=self.rounding, bits=self.bits)

    def formats(self, edge: LiteralFormat) -> Formats:
        body: ConstantFormat = ChannelFormat(54) if self.name == REAL else parse_format(self.name)
        return Formats(
            body=body,
            edge=edge,
            rounding=Rounding(self.rounding.upper()),
            overrides=tuple((escape(op), parse_format(form)) for op, form in self.layers),
        )

    def __str__(self) -> str:
        parts = [self.name, *([f"{len(self.layers)} layers"] if self.layers else [])]
        parts += [f"w{'a'.join(self.bits.split('/'))}"] if self.bits else []
        return " ".join([*parts, *(["trn"] if self.rounding == "trn" else [])])


def grid(formats: Iterable[str], roundings: Sequence[str], bits: Sequence[str]) -> list[Point]:
    """Every combination once, those of a network together, its reference first. Raises InputError."""
    names = [REAL, *formats]
    count = len(names) * len(roundings) * len(bits)
    if count > _MAX_POINTS:
        raise InputError(f"the grid has {count:,} points; at most {_MAX_POINTS:,} are taken")
    return list(dict.fromkeys(Point.parse(name, r, b) for b, r, name in product(bits, roundings, names)))


def parse_widths(text: str) -> list[int]:
    """`8:32:2` (start:stop:step, both ends included), `8:12`, `8,12,16`, or such spans joined by commas."""
    found: list[int] = []
    for item in text.split(","):
        match = _SPAN.fullmatch(item.strip())
        if match is None:
            raise InputError(f"--widths {text}: '{item}' is not a width or a span; write 8:32:2 or 8,12,16")
        start, stop, step = (None if group is None else int(group) for group in match.groups())
        assert start is not None
        if step == 0:
            raise InputError(f"--widths {text}: the step is 0")
        last = start if stop is None else stop
        if last < start:
            raise InputError(f"--widths {text}: {item} is empty, it ends before it starts")
        for bound in (start, last):
            if not 2 <= bound <= MAX_WIDTH:
                raise InputError(f"--widths {text}: W must be 2..{MAX_WIDTH}, not {bound}")
        found += range(start, last + 1, step or 1)
    return list(dict.fromkeys(found))


def parse_rules(text: str) -> list[str]:
    """`auto,channel,4,6`: how I is found, or what it is."""
    rules = [item.strip() for item in text.split(",")]
    for rule in rules:
        if rule not in ("auto", "channel") and not re.fullmatch(r"-?\d{1,4}", rule):
            raise InputError(f"--integer {text}: '{rule}' is none of auto, channel, or a number of bits")
    return list(dict.fromkeys(rule if rule in ("auto", "channel") else str(int(rule)) for rule in rules))


def width_formats(widths: Sequence[int], rules: Sequence[str]) -> tuple[list[str], list[str]]:
    """(formats, those left out): every width with every rule, rule by rule.

    Left out is `W,I` with I >= W, which has no fraction bit and makes nearly every multiplier 0, and what
    `parse_format` refuses: more fraction bits than it takes.
    """
    kept: list[str] = []
    left: list[str] = []
    for rule, width in product(rules, widths):
        name = f"{width},{rule}"
        useful = rule in ("auto", "channel") or int(rule) < width
        try:
            parse_format(name)
        except InputError:
            useful = False
        (kept if useful else left).append(name)
    if not kept:
        raise InputError(f"no format is left: {', '.join(left)} have no fraction bits, or too many")
    return kept, left


def parse_roundings(text: str) -> list[str]:
    """`rnd`, `trn`, or both."""
    found = [item.strip().lower() for item in text.split(",")]
    for item in found:
        if item not in ("rnd", "trn"):
            raise InputError(f"--round {text}: '{item}' is none of rnd, trn")
    return list(dict.fromkeys(found))


def parse_bits(text: str) -> list[str]:
    """`8,6,4`, `8/4` (weights/activations), and `own`, the network as it is."""
    found = []
    for item in (part.strip() for part in text.split(",")):
        if item == "own":
            found.append(OWN)
            continue
        match = re.fullmatch(r"(\d{1,4})(?:/(\d{1,4}))?", item)
        if match is None:
            raise InputError(f"--bits {text}: '{item}' is no width; write 8,6,4 or 8/4 (weights/activations)")
        pair = [int(n) for n in (match[1], match[2] or match[1])]
        if not all(1 <= n <= _MAX_BITS for n in pair):
            raise InputError(f"--bits {text}: widths are 1..{_MAX_BITS}, not {item}")
        found.append("/".join(map(str, pair)))
    return list(dict.fromkeys(found))
