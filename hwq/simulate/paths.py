"""Which arithmetic computes each op exactly, chosen from proved bounds before anything runs.

A float holds every integer below 2^24 (float32) or 2^53 (float64) and adds them without error, in any
order; so a layer whose largest possible partial sum stays below that is exact in it. The cheapest
sufficient arithmetic is chosen per op (numerics, section 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from hwq.ir import Bound, Conv2d, Graph, Linear, Op, Requantize


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExactPath:
    """How one op is computed.

    work: the arithmetic of its sums. store: that of its result. bounds: max|result| of each channel.
    sum_bound: no partial sum, in any order, exceeds it (a requantisation's sum is in units of 2^-F).
    """

    work: Arithmetic
    store: Arithmetic
    bounds: Bound
    sum_bound: int

    @property
    def bound(self) -> int:
        """No |result| exceeds it."""
        return int(self.bounds.max())


def exact_paths(graph: Graph) -> dict[str, ExactPath]:
    """The exact path of every op, by name, from the bounds of the actual constants."""
    paths: dict[str, ExactPath] = {}
    for op in graph:
        inputs, own = graph.input_bounds(op), graph.bounds[op.name]
        sum_bound = _sum_bound(op, inputs, int(own.max()))
        # a result takes part in what its readers compute, so it is stored as soon as it fits
        work = Arithmetic.for_bound(sum_bound)
        store = Arithmetic.for_bound(int(own.max()))
        if isinstance(op, Requantize):
            work = _requant_work(op, inputs, work)
        paths[op.name] = ExactPath(work=work, store=store, bounds=own, sum_bound=sum_bound)
    return paths


def exact_path(graph: Graph, op: Op) -> ExactPath:
    """The exact path of one op of `graph`."""
    return exact_paths(graph)[op.name]


def _sum_bound(op: Op, inputs: Sequence[Bound], bound: int) -> int:
    """max|partial sum|, and the largest number that takes part in one; bound: max|result|."""
    peaks = [int(b.max()) for b in inputs]
    match op:
        case Conv2d() | Linear():
            # the weights themselves must be exact too, also where every input is 0
            return max(bound, int(np.abs(op.weight).max()), *peaks)
        case Requantize():
            # so must the multipliers
            reach = op.requant.reach([np.maximum(b, 1) for b in inputs])
            return max(int(max(reach)), bound, *peaks)
        case _:
            return max(bound, *peaks, 0)


def _requant_work(op: Requantize, bounds: Sequence[Bound], by_sum: Arithmetic) -> Arithmetic:
    """`by_sum` where it can also scale or shift by 2^F; else limbs, else Python integers."""
    fraction = int(op.requant.alignment.fraction.max())
    deepest = {Arithmetic.FLOAT32: 100, Arithmetic.FLOAT64: 900, Arithmetic.INT64: 62}
    if fraction <= deepest.get(by_sum, -1):
        return by_sum
    return Arithmetic.WIDE if limb_bits(op, bounds) is None else Arithmetic.LIMBS


def limb_bits(op: Requantize, bounds: Sequence[Bound]) -> npt.NDArray[np.int64] | None:
    """Bits k of the low limb, per channel, such that both limbs' sums fit int64; None if there are none.

    With M 2^a = H 2^k + L, 0 <= L < 2^k, and the same for the offset: the low sum is below
    2^k (sum_i |x_i| + 1), the high sum below (sum_i |M_i| |x_i| + offset) / 2^k + sum_i |x_i| + 1 and the
    low sum's carry. k <= F, so that only the high limb is shifted afterwards.
    """
    a = op.requant.alignment
    reach = 1 + sum(int(b.max()) for b in bounds)
    bits = np.minimum(a.fraction, 61 - reach.bit_length())
    if reach.bit_length() >= 61 or int((a.fraction - bits).max()) > 62:
        return None
    at_least_one = [np.maximum(b, 1) for b in bounds]  # the multipliers' halves must fit, too
    high = (op.requant.reach(at_least_one) >> bits.astype(object)) + 3 * reach
    return bits if int(high.max()) < 1 << 62 else None
