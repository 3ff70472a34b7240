"""Stored multipliers and biases: real numbers as raw integers (numerics, section 3).

A `ConstantFormat` turns float64 constants into `Constants`, once, when a graph is lowered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from hwq.errors import InputError
from hwq.fixed.types import MAX_WIDTH, FixedType, Ints, Overflow, Rounding

MAX_FRACTION = 62
"""I >= W - 62: no constant has more fraction bits, so alignments stay within a machine word."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Constants:
    """Fixed-point constants of one requantisation term, or its biases.

    raw: int64, shape (C,), or (1,) for one value shared by all channels. integer: int64, same shape: I
    per entry. Value = raw * 2^-(width - integer). `format_name` is the format as the user wrote it.
    """

    width: int
    raw: npt.NDArray[np.int64]
    integer: npt.NDArray[np.int64]
    format_name: str

    def __post_init__(self) -> None:
        if self.raw.shape != self.integer.shape or self.raw.ndim != 1:
            raise InputError("constants: raw and integer must be vectors of the same length")
        self.raw.setflags(write=False)
        self.integer.setflags(write=False)

    @property
    def fraction(self) -> npt.NDArray[np.int64]:
        """Fraction bits per entry; may be negative."""
        return self.width - self.integer

    @property
    def memory_bits(self) -> int:
        """Bits of a table that holds them: `width` an entry, and where entries have binary points of their
        own a shift each, of as many bits as tell the points apart (a zero needs none).
        """
        points = self.integer[self.raw != 0]
        spread = int(points.max() - points.min()) if points.size else 0
        return self.raw.size * (self.width + spread.bit_length())

    def values(self) -> npt.NDArray[np.float64]:
        """The constants as float64 (for reports; exact up to 53 bits)."""
        return np.ldexp(self.raw.astype(np.float64), -self.fraction)


def _half_up(value: float, fraction: int) -> int:
    """floor(value * 2^fraction + 1/2), exactly."""
    numerator, denominator = value.as_integer_ratio()
    if fraction >= 0:
        numerator <<= fraction
    else:
        denominator <<= -fraction
    return (2 * numerator + denominator) // (2 * denominator)


def _fitting_integer(values: npt.NDArray[np.float64], width: int) -> int:
    """The smallest I at which every rounded raw fits `width` signed bits; zero imposes nothing."""
    nonzero = values[values != 0]
    if nonzero.size == 0:
        return width
    top = float(np.abs(nonzero).max())
    # 2^(exponent-1) <= top < 2^exponent, so I = exponent + 1 surely fits or is one short of it
    integer = max(int(np.frexp(top)[1]), width - MAX_FRACTION)
    lo, hi = -(1 << (width - 1)), (1 << (width - 1)) - 1
    extremes = (float(nonzero.min()), float(nonzero.max()))
    while not all(lo <= _half_up(v, width - integer) <= hi for v in extremes):
        integer += 1
    return integer


class ConstantFormat(Protocol):
    """How the multipliers or biases of one requantisation are stored."""

    def quantize(self, values: npt.NDArray[np.float64], *, bias: bool) -> Constants:
        """float64 vector -> Constants of the same length. Values that do not fit saturate."""
        ...


def _check_width(width: int) -> None:
    if not 2 <= width <= MAX_WIDTH:
        raise InputError(f"W must be 2..{MAX_WIDTH}, not {width}")


@dataclass(frozen=True, slots=True)
class LiteralFormat:
    """`W,I`: ap_fixed<W,I> for multipliers and biases alike."""

    type: FixedType

    def __post_init__(self) -> None:
        _check_width(self.type.width)
        if self.type.fraction > MAX_FRACTION:
            raise InputError(
                f"I must be >= W - {MAX_FRACTION}: {self.type.width},{self.type.integer} has "
                f"{self.type.fraction} fraction bits"
            )
        if self.type.integer > 1024:
            raise InputError(f"I must be <= 1024, not {self.type.integer}")

    def quantize(self, values: npt.NDArray[np.float64], *, bias: bool) -> Constants:
        raw = np.array([self.type.quantize(v) for v in values.tolist()], dtype=np.int64)
        integer = np.full(raw.shape, self.type.integer, dtype=np.int64)
        return Constants(width=self.type.width, raw=raw, integer=integer, format_name=str(self))

    def __str__(self) -> str:
        name = f"{self.type.width},{self.type.integer}"
        if (self.type.rounding, self.type.overflow) != (Rounding.RND, Overflow.SAT):
            name += f",{self.type.rounding.value},{self.type.overflow.value}"
        return name


@dataclass(frozen=True, slots=True)
class AutoFormat:
    """`W,auto`: one I for the term's multipliers, one for the biases, each the smallest that fits."""

    width: int

    def __post_init__(self) -> None:
        _check_width(self.width)

    def quantize(self, values: npt.NDArray[np.float64], *, bias: bool) -> Constants:
        integer = np.full(values.shape, _fitting_integer(values, self.width), dtype=np.int64)
        return _with_integers(values, self.width, integer, str(self))

    def __str__(self) -> str:
        return f"{self.width},auto"


@dataclass(frozen=True, slots=True)
class ChannelFormat:
    """`W,channel`: every constant is a W-bit signed mantissa with its own I."""

    width: int

    def __post_init__(self) -> None:
        _check_width(self.width)

    def quantize(self, values: npt.NDArray[np.float64], *, bias: bool) -> Constants:
        own = [_fitting_integer(values[i : i + 1], self.width) for i in range(values.size)]
        return _with_integers(values, self.width, np.array(own, dtype=np.int64), str(self))

    def __str__(self) -> str:
        return f"{self.width},channel"


@dataclass(frozen=True, slots=True)
class ShiftFormat:
    """`shift`: every multiplier the nearest signed power of two; biases `16,auto`.

    Stored as a 2-bit mantissa (-1, 0 or 1) with its own I, so hardware needs no multiplier.
    """

    def quantize(self, values: npt.NDArray[np.float64], *, bias: bool) -> Constants:
        if bias:
            return AutoFormat(16).quantize(values, bias=True)
        mantissa, exponent = np.frexp(np.abs(values))
        # |v| = mantissa * 2^exponent, mantissa in [1/2, 1): up to the next power from 3/4 on
        power = exponent.astype(np.int64) - (mantissa < 0.75)
        # at most MAX_FRACTION fraction bits: smaller multipliers vanish
        power = np.where(values == 0, 0, power)
        raw = np.where(power < -MAX_FRACTION, 0, np.sign(values)).astype(np.int64)
        integer = np.where(raw == 0, 2, power + 2).astype(np.int64)
        return Constants(width=2, raw=raw, integer=integer, format_name=str(self))

    def __str__(self) -> str:
        return "shift"


def _with_integers(values: npt.NDArray[np.float64], width: int, integer: Ints, name: str) -> Constants:
    pairs = zip(values.tolist(), (width - integer).tolist(), strict=True)
    raw = np.array([_half_up(v, f) for v, f in pairs], dtype=np.int64)
    return Constants(width=width, raw=raw, integer=integer.astype(np.int64), format_name=name)


_FORMS = "write W,I as in 32,10 (or 32,10,RND,SAT), W,auto, W,channel, or shift"


def _number(text: str, what: str, whole: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f"'{whole}': {what} is '{text}', not an integer; {_FORMS}") from None


_Mode = TypeVar("_Mode", Rounding, Overflow)


def _mode(kind: type[_Mode], text: str) -> _Mode:
    name = text.strip().upper().removeprefix("AP_")
    try:
        return kind[name]
    except KeyError:
        known = ", ".join(m.name for m in kind)
        raise InputError(f"unknown {kind.__name__.lower()} name '{text}'; known: {known}") from None


def parse_format(text: str) -> ConstantFormat:
    """Parse `--fixed`: `W,I[,ROUNDING[,OVERFLOW]]`, `W,auto`, `W,channel` or `shift`.

    Rounding and overflow are those of the constants' ap_fixed type. Raises InputError.
    """
    parts = [p.strip() for p in text.split(",")]
    if parts == ["shift"]:
        return ShiftFormat()
    if not 2 <= len(parts) <= 4:
        raise InputError(f"'{text}' is not a fixed-point format; {_FORMS}")
    width = _number(parts[0], "W", text)
    match parts[1:]:
        case ["auto"]:
            return AutoFormat(width)
        case ["channel"]:
            return ChannelFormat(width)
        case [integer, *modes]:
            _check_width(width)
            rounding = _mode(Rounding, modes[0]) if modes else Rounding.RND
            overflow = _mode(Overflow, modes[1]) if len(modes) > 1 else Overflow.SAT
            number = _number(integer, "I", text)
            return LiteralFormat(FixedType(width=width, integer=number, rounding=rounding, overflow=overflow))
    raise AssertionError(text)


def parse_edge(text: str) -> LiteralFormat:
    """Parse `--edge-fixed W,I`: the input's constants and the type of the logits (W <= 32)."""
    form = parse_format(text)
    if not isinstance(form, LiteralFormat) or form.type.width > 32:
        raise InputError(f"--edge-fixed takes W,I with W at most 32, not '{text}'")
    return form
