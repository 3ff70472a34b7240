"""The one requantisation of hwq (numerics, sections 2 and 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from hwq.fixed import Constants, IntType, Rounding


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Alignment:
    """Constants brought to one binary point per channel.

    All arrays have length C. fraction: F. multipliers: one array a term, M_raw * 2^a. bias: B_raw * 2^b.
    half: 2^(F-1) when rounding half up and F > 0, else 0. Object arrays of Python integers, so no
    alignment can overflow.
    """

    fraction: npt.NDArray[np.int64]
    multipliers: tuple[npt.NDArray[np.object_], ...]
    bias: npt.NDArray[np.object_]
    half: npt.NDArray[np.object_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Requant:
    """y = clamp(floor((sum_i x_i * M_i * 2^a_i + B * 2^b + half) / 2^F), lo, hi), per channel.

    With f = W - I the fraction bits of each constant: F = max(0, every f of the channel), a_i = F - f_i,
    b = F - f_B, half = 2^(F-1), or 0 when F = 0 or `rounding` is TRN. Constants have length 1 (all
    channels alike) or C. `out` is the type of y; (lo, hi) lies within it.
    """

    terms: tuple[Constants, ...]
    bias: Constants
    out: IntType
    lo: int
    hi: int
    rounding: Rounding = Rounding.RND

    @property
    def channels(self) -> int:
        """C, or 1 where every constant is shared."""
        return max(c.raw.size for c in (*self.terms, self.bias))

    @cached_property
    def alignment(self) -> Alignment:
        count = self.channels
        constants = (*self.terms, self.bias)
        fractions = [np.broadcast_to(c.fraction, (count,)) for c in constants]
        common = np.maximum(0, np.max(fractions, axis=0)).astype(np.int64)
        aligned = [
            np.broadcast_to(c.raw.astype(object), (count,)) << (common - f).astype(object)
            for c, f in zip(constants, fractions, strict=True)
        ]
        rounds = (common > 0) & (self.rounding is Rounding.RND)
        half = np.array([1 << int(f - 1) if up else 0 for f, up in zip(common, rounds, strict=True)], object)
        return Alignment(fraction=common, multipliers=tuple(aligned[:-1]), bias=aligned[-1], half=half)

    def reach(self, bounds: Sequence[npt.NDArray[np.object_] | int]) -> npt.NDArray[np.object_]:
        """What no partial sum of a channel exceeds, in units of 2^-F, whatever the order of the terms.

        bounds: max|x_i| of each term, one for all channels or (C,). Length C, or 1 where all are alike.
        """
        a = self.alignment
        worst: npt.NDArray[np.object_] = np.abs(a.bias) + a.half
        for multiplier, bound in zip(a.multipliers, bounds, strict=True):
            worst = worst + np.abs(multiplier) * bound
        return worst

    def sum_bits(self, bounds: Sequence[npt.NDArray[np.object_] | int]) -> int:
        """Signed width that holds every partial sum; bounds: as of `reach` (numerics, section 4)."""
        return int(max(self.reach(bounds))).bit_length() + 1
