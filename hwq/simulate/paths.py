"""Which arithmetic computes each op exactly, chosen from proved bounds before anything runs.

A float holds every integer below 2^24 (float32) or 2^53 (float64) and adds them without error, in any
order; so a layer whose largest possible partial sum stays below that is exact in it. The cheapest
sufficient arithmetic is chosen per op (numerics, section 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from hwq.ir import (
    Conv2d,
    Graph,
    Input,
    Linear,
    Op,
    Requantize,
    SumPool,
)


class Arithmetic(Enum):
    """An exact way of computing with integers, cheapest first."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"
    INT64 = "int64"
    LIMBS = "two int64"  # a requantisation's sum as high and low part; nothing is stored so
    WIDE = "Python integers"

    @staticmethod
    def for_bound(bound: int) -> Arithmetic:
        """The cheapest arithmetic in which every magnitude up to `bound` is one exact number."""
        return next((kind for kind, bits in _LIMITS if bound < 1 << bits), Arithmetic.WIDE)


_LIMITS = ((Arithmetic.FLOAT32, 24), (Arithmetic.FLOAT64, 53), (Arithmetic.INT64, 62))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactPath:
    """How one op is computed.

    work: the arithmetic of its sums. store: that of its result. bound: no |result| exceeds it.
    sum_bound: no partial sum, in any order, exceeds it (a requantisation's sum is in units of 2^-F).
    """

    work: Arithmetic
    store: Arithmetic
    bound: int
    sum_bound: int


def exact_paths(graph: Graph) -> dict[str, ExactPath]:
    """The exact path of every op, by name, from the bounds of the actual constants."""
    paths: dict[str, ExactPath] = {}
    for op in graph:
        bounds = tuple(paths[name].bound for name in op.inputs)
        bound, sum_bound = _bounds(op, bounds)
        # a result takes part in what its readers compute, so it is stored as soon as it fits
        work = Arithmetic.for_bound(sum_bound)
        store = Arithmetic.for_bound(bound)
        if isinstance(op, Requantize):
            work = _requant_work(op, bounds, work)
        paths[op.name] = ExactPath(work=work, store=store, bound=bound, sum_bound=sum_bound)
    return paths


def exact_path(graph: Graph, op: Op) -> ExactPath:
    """The exact path of one op of `graph`."""
    return exact_paths(graph)[op.name]


def _bounds(op: Op, bounds: tuple[int, ...]) -> tuple[int, int]:
    """(max|result|, max|partial sum|) from the bounds of the inputs."""
    match op:
        case Input():
            return op.out.type.hi, op.out.type.hi
        case Conv2d() | Linear():
            weight = np.abs(op.weight).reshape(op.weight.shape[0], -1)
            largest = int(weight.max())
            safe = largest * weight.shape[1] < 1 << 63  # else the sums need Python integers
            bound = int(weight.sum(axis=1, dtype=np.int64 if safe else object).max()) * bounds[0]
            # the weights themselves must be exact too, also where every input is 0
            return bound, max(bound, largest, bounds[0])
        case SumPool():
            bound = op.kernel[0] * op.kernel[1] * bounds[0]
            return bound, bound
        case Requantize():
            bound = max(abs(op.requant.lo), abs(op.requant.hi))
            return bound, max(_requant_bound(op, bounds), bound, *bounds)
        case _:
            return max(bounds), max(bounds)


def _requant_bound(op: Requantize, bounds: tuple[int, ...]) -> int:
    """max over channels of sum_i |M_i| 2^a_i max(|x_i|, 1) + |B| 2^b + half."""
    a = op.requant.alignment
    worst = np.abs(a.bias) + a.half
    for multiplier, bound in zip(a.multipliers, bounds, strict=True):
        worst = worst + np.abs(multiplier) * max(1, bound)
    return int(max(worst))


def _requant_work(op: Requantize, bounds: tuple[int, ...], by_sum: Arithmetic) -> Arithmetic:
    """`by_sum` where it can also scale or shift by 2^F; else limbs, else Python integers."""
    fraction = int(op.requant.alignment.fraction.max())
    deepest = {Arithmetic.FLOAT32: 100, Arithmetic.FLOAT64: 900, Arithmetic.INT64: 62}
    if fraction <= deepest.get(by_sum, -1):
        return by_sum
    return Arithmetic.WIDE if limb_bits(op, bounds) is None else Arithmetic.LIMBS


def limb_bits(op: Requantize, bounds: tuple[int, ...]) -> npt.NDArray[np.int64] | None:
    """Bits k of the low limb, per channel, such that both limbs' sums fit int64; None if there are none.

    With M 2^a = H 2^k + L, 0 <= L < 2^k, and the same for the offset: the low sum is below
    2^k (sum_i |x_i| + 1), the high sum below (sum_i |M_i| |x_i| + offset) / 2^k + sum_i |x_i| + 1 and the
    low sum's carry. k <= F, so that only the high limb is shifted afterwards.
    """
    a = op.requant.alignment
    reach = sum(bounds) + 1
    bits = np.minimum(a.fraction, 61 - reach.bit_length())
    if reach.bit_length() >= 61 or int((a.fraction - bits).max()) > 62:
        return None
    worst = np.abs(a.bias) + a.half
    for multiplier, bound in zip(a.multipliers, bounds, strict=True):
        worst = worst + np.abs(multiplier) * bound
    high = (worst >> bits.astype(object)) + 3 * reach
    return bits if int(high.max()) < 1 << 62 else None
