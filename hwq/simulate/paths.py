"""Which arithmetic computes each op exactly, chosen from proved bounds before anything runs.

A float holds every integer below 2^24 (float32) or 2^53 (float64) and adds them without error, in any
order; so a layer whose largest possible partial sum stays below that is exact in it. The cheapest
sufficient arithmetic is chosen per op (numerics, section 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

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
    """An exact way of computing with integers; `limit`: magnitudes stay below it."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"
    INT64 = "int64"
    WIDE = "wide"

    @property
    def limit(self) -> int | None:
        """Exclusive bound on every partial sum; None for Python integers, which have none."""
        return {"float32": 1 << 24, "float64": 1 << 53, "int64": 1 << 62, "wide": None}[self.value]

    @staticmethod
    def for_bound(bound: int) -> Arithmetic:
        """The cheapest arithmetic that is exact while no partial sum exceeds `bound`."""
        return next(a for a in Arithmetic if a.limit is None or bound < a.limit)


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
        if isinstance(op, Requantize) and _deepest_shift(op) > 62 and work is Arithmetic.INT64:
            work = Arithmetic.WIDE
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
            rows = np.abs(op.weight.astype(object)).reshape(op.weight.shape[0], -1).sum(axis=1)
            bound = int(rows.max()) * bounds[0]
            # the weights themselves must be exact too, also where every input is 0
            return bound, max(bound, int(np.abs(op.weight).max()), bounds[0])
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


def _deepest_shift(op: Requantize) -> int:
    return int(op.requant.alignment.fraction.max())
