"""Number types and their rounding and overflow rules, on exact integers.

A raw integer r of a format with F fraction bits stands for
r * 2^-F. Nothing here goes through floating point: reals enter as exact binary fractions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq.errors import InputError

Ints = npt.NDArray[Any]
"""An integer array: int64 where every value fits, else object (Python integers)."""

MAX_WIDTH = 64
"""Widest constant: a raw value must fit an int64 table in the emitted C++."""
MAX_CAST_WIDTH = 1024
"""AMD's AP_INT_MAX_W; wider types compile and run without a word, so they are refused here."""


class Rounding(Enum):
    """AMD's seven quantisation modes; the value is the name after `AP_`."""

    RND = "RND"  # half up: floor(x + 1/2)
    RND_ZERO = "RND_ZERO"  # half towards zero
    RND_MIN_INF = "RND_MIN_INF"  # half down
    RND_INF = "RND_INF"  # half away from zero
    RND_CONV = "RND_CONV"  # half to even
    TRN = "TRN"  # floor
    TRN_ZERO = "TRN_ZERO"  # towards zero


class Overflow(Enum):
    """AMD's five overflow modes; the value is the name after `AP_`."""

    SAT = "SAT"
    SAT_ZERO = "SAT_ZERO"  # overflow becomes 0
    SAT_SYM = "SAT_SYM"  # -max .. max
    WRAP = "WRAP"
    WRAP_SM = "WRAP_SM"  # sign-magnitude wrap, no saturated bits


@dataclass(frozen=True, slots=True, kw_only=True)
class IntType:
    """Integer codes of a quantised tensor (numerics, section 1): symmetric, zero is code 0.

    Signed b bits hold -R .. R with R = 2^(b-1) - 1; signed 1 bit is the binary code {-1, 0, 1}, stored
    in two bits. Unsigned b bits hold 0 .. 2^b - 1.
    """

    bits: int
    signed: bool

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MAX_CAST_WIDTH:
            raise InputError(f"an integer type has 1..{MAX_CAST_WIDTH} bits, not {self.bits}")

    @property
    def hi(self) -> int:
        return max(1, (1 << (self.bits - 1)) - 1) if self.signed else (1 << self.bits) - 1

    @property
    def lo(self) -> int:
        return -self.hi if self.signed else 0

    @property
    def storage_bits(self) -> int:
        """Bits of the two's-complement register that holds the codes."""
        return max(2, self.bits) if self.signed else self.bits

    @staticmethod
    def holding(lo: int, hi: int) -> IntType:
        """The smallest symmetric type that holds lo .. hi."""
        if lo >= 0:
            return IntType(bits=max(1, hi.bit_length()), signed=False)
        return IntType(bits=max(hi, -lo).bit_length() + 1, signed=True)

    def __str__(self) -> str:
        return f"{'s' if self.signed else 'u'}{self.bits}"


def shift_right(raw: Ints, shift: int, rounding: Rounding) -> Ints:
    """raw / 2^shift, rounded to an integer; shift >= 0, shift < 63 for int64 input."""
    if shift == 0:
        return raw
    floor: Ints = raw >> shift
    up: Ints
    match rounding:
        case Rounding.TRN:
            return floor
        case Rounding.TRN_ZERO:
            up = (raw < 0) & (raw != floor << shift)
            return floor + up
        case _:
            rest, half = raw - (floor << shift), 1 << (shift - 1)
    match rounding:
        case Rounding.RND:
            up = rest >= half
        case Rounding.RND_MIN_INF:
            up = rest > half
        case Rounding.RND_ZERO:
            up = (rest > half) | ((rest == half) & (raw < 0))
        case Rounding.RND_INF:
            up = (rest > half) | ((rest == half) & (raw >= 0))
        case Rounding.RND_CONV:
            up = (rest > half) | ((rest == half) & (floor % 2 == 1))
    return floor + up


def code_limit(value: float, scale: float, rounding: Rounding) -> int:
    """The code of a real clamp bound: round(value / scale), exactly, in the requantisation's rounding.

    Rounding and clamping commute for monotone roundings, so clamping codes equals clamping reals.
    """
    exact = Fraction(value) / Fraction(scale)
    return math.floor(exact + Fraction(1, 2)) if rounding is Rounding.RND else math.floor(exact)


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedType:
    """`ap_fixed<width, integer, rounding, overflow>` (or `ap_ufixed`): value = raw * 2^-(width - integer).

    `integer` counts the sign bit, may be negative and may exceed `width`.
    """

    width: int
    integer: int
    signed: bool = True
    rounding: Rounding = Rounding.RND
    overflow: Overflow = Overflow.SAT

    def __post_init__(self) -> None:
        if not 1 <= self.width <= MAX_CAST_WIDTH:
            raise InputError(f"W must be 1..{MAX_CAST_WIDTH}, not {self.width}")
        if self.overflow is Overflow.WRAP_SM and not self.signed:
            raise InputError("ap_ufixed has no AP_WRAP_SM: it has no sign")

    @property
    def fraction(self) -> int:
        """Fraction bits F = W - I; negative when I > W."""
        return self.width - self.integer

    @property
    def hi(self) -> int:
        return (1 << (self.width - self.signed)) - 1

    @property
    def lo(self) -> int:
        return -(1 << (self.width - 1)) if self.signed else 0

    def fit(self, raw: Ints, unrounded: Ints | None = None) -> Ints:
        """Bring integers into the type's range by its overflow mode.

        unrounded: the floors of the same values before rounding; AMD's WRAP_SM looks at their bits.
        """
        lo, hi = self.lo, self.hi
        over = (raw > hi) | (raw < lo)
        match self.overflow:
            case Overflow.SAT:
                return np.clip(raw, lo, hi)
            case Overflow.SAT_SYM:
                # one signed bit has no -max: AMD keeps -1
                return np.clip(raw, -hi if self.signed and self.width > 1 else lo, hi)
            case Overflow.SAT_ZERO:
                return np.where(over, 0, raw)
            case Overflow.WRAP:
                return self._wrap(raw)
            case Overflow.WRAP_SM:
                # the lowest deleted bit becomes the sign; the rest is inverted where that changes the sign
                wrapped = self._wrap(raw)
                deleted = ((raw if unrounded is None else unrounded) >> self.width) & 1
                return np.where(over & (deleted != (wrapped < 0)), ~wrapped, wrapped)

    def _wrap(self, raw: Ints) -> Ints:
        low = raw & ((1 << self.width) - 1)
        return low - ((low >> (self.width - 1)) << self.width) if self.signed else low

    def cast(self, raw: Ints, fraction: int) -> Ints:
        """Assign raw * 2^-fraction to this type, as AMD's ap_fixed does; returns raw integers.

        Exact for any width: leaves int64 for Python integers where 62 bits could be passed.
        """
        shift = fraction - self.fraction
        top = int(np.max(np.abs(raw), initial=0)).bit_length()
        narrow = top + max(0, -shift) < 62 and shift < 62 and self.width < 62
        exact = raw.astype(np.int64 if narrow else object)
        if shift < 0:
            return self.fit(exact << -shift)
        return self.fit(shift_right(exact, shift, self.rounding), exact >> shift)

    def quantize(self, value: float) -> int:
        """The raw integer of one real, rounded on the exact real value; may saturate."""
        numerator, denominator = float(value).as_integer_ratio()
        raw = np.array([numerator], dtype=object)
        return int(self.cast(raw, denominator.bit_length() - 1)[0])

    def __str__(self) -> str:
        kind = "ap_fixed" if self.signed else "ap_ufixed"
        return f"{kind}<{self.width},{self.integer},AP_{self.rounding.value},AP_{self.overflow.value}>"
