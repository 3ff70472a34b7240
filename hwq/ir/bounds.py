"""How large the integers of each channel can be, whatever the image (numerics, section 4).

A bound is an object array of Python integers, one a channel, (C,) of a feature map or (N,) of a vector:
no value of that channel exceeds it in magnitude. Constants alone decide: weights, limits, padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq.fixed import IntType
from hwq.ir.ops import Concat, Conv2d, Flatten, Input, Linear, Op, Pad, Requantize, SumPool

Bound = npt.NDArray[np.object_]
_SAFE = 1 << 62


def magnitude(kind: IntType) -> int:
    """max|x| over the codes of a type."""
    return max(kind.hi, -kind.lo)


def uniform(bound: int, channels: int) -> Bound:
    """The same bound for every channel, (channels,), in the memory of one."""
    return np.broadcast_to(np.array(bound, dtype=object), (channels,))


def _is_uniform(bound: Bound) -> bool:
    return bound.strides == (0,) or bool((bound == bound[0]).all())


def weighted(weight: npt.NDArray[np.int64], codes: Bound, groups: int = 1) -> Bound:
    """sum|w| * max|x| of each output, (O,): no partial sum, in any order, exceeds it.

    weight: (O, ..., C/groups). codes: the bound of the inputs, (C,), or (1,) where all are alike.
    """
    size: npt.NDArray[Any] = np.abs(weight)
    same = _is_uniform(codes)
    codes = codes[:1] if same else codes
    if int(size.max()) * int(codes.max()) * (size.size // len(size)) >= _SAFE:
        size = size.astype(object)
    each = codes.astype(size.dtype)
    if same:
        made: npt.NDArray[Any] = size.reshape(len(size), -1).sum(axis=1) * each[0]
    else:
        per_channel = size.reshape(groups, len(size) // groups, -1, size.shape[-1]).sum(axis=2)
        parts = zip(per_channel, each.reshape(groups, -1), strict=True)
        made = np.concatenate([part @ group for part, group in parts])
    found: Bound = made.astype(object)
    return found


def output_bound(op: Op, inputs: Sequence[Bound]) -> Bound:
    """The bound of what a legal op yields, from those of its inputs."""
    match op:
        case Input():
            return uniform(magnitude(op.out.type), op.out.channels)
        case Conv2d():
            return weighted(op.weight, inputs[0], op.groups)
        case Linear():
            return weighted(op.weight, inputs[0])
        case Requantize():
            return uniform(max(abs(op.requant.lo), abs(op.requant.hi)), op.out.channels)
        case SumPool():
            total: Bound = inputs[0] * (op.kernel[0] * op.kernel[1])
            return total
        case Pad():
            return np.concatenate([uniform(0, op.before), inputs[0], uniform(0, op.after)])
        case Concat():
            return np.concatenate(list(inputs))
        case Flatten():
            if _is_uniform(inputs[0]):
                return uniform(inputs[0][0], op.out.size)
            return np.tile(inputs[0], op.out.size // inputs[0].size)
        case _:  # MaxPool, Output: values of the input
            return inputs[0]


def accumulator_type(weight: npt.NDArray[np.int64], codes: IntType | Bound, groups: int = 1) -> IntType:
    """The signed type that holds every partial sum of `weight` * codes: bit_length(bound) + 1, 2 at least.

    codes: the bound of the inputs, or a type whose every code may come.
    """
    bound = uniform(magnitude(codes), 1) if isinstance(codes, IntType) else codes
    return sum_type(weighted(weight, bound, groups), signed=True)


def sum_type(bound: Bound, *, signed: bool) -> IntType:
    """The narrowest type of that sign that holds +-bound in every channel; signed has 2 bits at least."""
    bits = int(bound.max()).bit_length()
    return IntType(bits=max(2, bits + 1) if signed else max(1, bits), signed=signed)
