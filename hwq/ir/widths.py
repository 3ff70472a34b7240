"""How wide exact sums are (numerics, section 4)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hwq.fixed import IntType
from hwq.ir.graph import Graph
from hwq.ir.ops import Requantize


def magnitude(kind: IntType) -> int:
    """max|x| over the codes of a type."""
    return max(kind.hi, -kind.lo)


def accumulator_bound(weight: npt.NDArray[np.int64], kind: IntType) -> int:
    """max over outputs of sum|w| * max|x|: no partial sum, in any order, exceeds it."""
    sums = np.abs(weight.reshape(weight.shape[0], -1)).sum(axis=1)
    return int(sums.max()) * magnitude(kind)


def accumulator_type(weight: npt.NDArray[np.int64], kind: IntType) -> IntType:
    """The signed type of bit_length(bound) + 1 bits (2 at least)."""
    return IntType(bits=max(2, accumulator_bound(weight, kind).bit_length() + 1), signed=True)


def requant_sum_bits(graph: Graph, op: Requantize) -> int:
    """Signed width that holds every partial sum of a requantisation."""
    return op.requant.sum_bits(tuple(magnitude(i.out.type) for i in graph.inputs_of(op)))
