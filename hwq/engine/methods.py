"""How the native engine holds each tensor and computes each op: chosen from proved bounds, never by trial.

The bounds are those of `hwq.simulate.exact_paths`: no value and no partial sum of an op exceeds them,
whatever the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq.errors import ToolError
from hwq.ir import (
    ChannelPad,
    Concat,
    Conv2d,
    Flatten,
    Graph,
    Input,
    Linear,
    MaxPool,
    Op,
    Output,
    Requantize,
    SumPool,
)
from hwq.simulate import ExactPath, exact_paths, storage_dtype

MAX_TERMS = 2
"""Terms of a requantisation that the vector kernel takes."""


class Stored(IntEnum):
    """The engine's `Type`: what a tensor's integers are held in between ops."""

    U8 = 0
    S8 = 1
    S16 = 2
    S32 = 3
    S64 = 4


_LIMITS = ((Stored.S8, 7), (Stored.S16, 15), (Stored.S32, 31), (Stored.S64, 63))


class Method(IntEnum):
    """The engine's `Method`."""

    NONE = 0
    PLAIN = 1
    WORDS = 2
    BYTES = 3
    WINOGRAD = 4
    DEPTHWISE = 5
    NARROW = 6
    HIGH = 7
    LONG = 8
    WIDE = 9


ALL = frozenset(Method)
FALLBACKS = frozenset({Method.NONE, Method.PLAIN, Method.LONG, Method.WIDE})
"""What takes any operands; the other methods are faster and narrower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """An op's method, how its output is held, and max|output|."""

    method: Method
    stored: Stored
    bound: int


def choose(
    graph: Graph, allowed: frozenset[Method] = ALL, *, lanes: int, has_bytes: bool
) -> dict[str, Choice]:
    """The choice for every op, by name. `allowed` must hold `FALLBACKS`.

    lanes: 32-bit lanes of a vector. has_bytes: whether the CPU path has u8 x s8 dot products. Raises
    ToolError, naming the op, where values pass 63 bits, a requantisation's sum 126, or a map all reason.
    """
    paths = exact_paths(graph)
    choices: dict[str, Choice] = {}
    positive: dict[str, bool] = {}
    for op in graph:
        if storage_dtype(op.out.type).hasobject:
            raise _too_wide(op, f"its type {op.out.type} passes 64 bits")
        _check_geometry(op, [graph[name] for name in op.inputs])
        sources = [choices[name] for name in op.inputs]
        positive[op.name] = _never_negative(op, [positive[name] for name in op.inputs])
        bound = paths[op.name].bound
        if isinstance(op, MaxPool | Flatten | Output | ChannelPad):
            stored = sources[0].stored  # the same codes, or the very same memory
        else:
            stored = _stored(op, bound, positive[op.name])
        method = Method.NONE
        if isinstance(op, Conv2d | Linear):
            method = _sum_method(op, sources[0], paths[op.name], allowed, lanes, has_bytes)
        elif isinstance(op, Requantize):
            method = _requant_method(op, [s.bound for s in sources], stored, allowed)
        choices[op.name] = Choice(method=method, stored=stored, bound=bound)
    return choices


def _check_geometry(op: Op, sources: list[Op]) -> None:
    """The C++ counts bytes in 64 bits and windows in 32: legal graphs can pass both, useful ones do not."""
    if isinstance(op, Conv2d | MaxPool | SumPool):
        (h, w, c), (ph, pw) = sources[0].out.shape, op.padding
        dilation = op.dilation if isinstance(op, Conv2d) else (1, 1)
        fields = (*op.kernel, *op.stride, *op.padding, *dilation)
        if max(fields) >= 1 << 31 or (h + 2 * ph) * (w + 2 * pw) * c >= 1 << 31:
            raise _too_wide(op, f"its padded input is {h + 2 * ph}x{w + 2 * pw}x{c}, kernel {op.kernel}")
    if op.out.size >= 1 << 31:
        raise _too_wide(op, f"its output has {op.out.size} values")


def _never_negative(op: Op, sources: list[bool]) -> bool:
    match op:
        case Input():
            return True
        case Requantize():
            return op.requant.lo >= 0
        case Conv2d() | Linear():
            return False
        case Concat() | SumPool() | _:
            return all(sources)


def _stored(op: Op, bound: int, positive: bool) -> Stored:
    if positive and bound < 1 << 8:
        return Stored.U8
    for kind, bits in _LIMITS:
        if bound < 1 << bits:
            return kind
    raise _too_wide(op, f"its values reach {bound.bit_length()} bits")


def _too_wide(op: Op, why: str) -> ToolError:
    return ToolError(f"the native engine cannot run op '{op.name}': {why}; use --engine torch")


def _sum_method(
    op: Conv2d | Linear,
    source: Choice,
    path: ExactPath,
    allowed: frozenset[Method],
    lanes: int,
    has_bytes: bool,
) -> Method:
    largest = int(np.abs(op.weight).max())
    if path.sum_bound >= 1 << 63:
        raise _too_wide(op, f"its sums reach {path.sum_bound.bit_length()} bits")
    if source.stored > Stored.S16 or largest >= 1 << 15 or path.sum_bound >= 1 << 31:
        return Method.PLAIN
    fitting = []
    if isinstance(op, Conv2d) and 1 < op.groups == op.weight.shape[0] and op.weight.shape[3] == 1:
        fitting.append(Method.DEPTHWISE)
    if has_bytes and source.stored <= Stored.S8 and largest < 1 << 7:
        fitting.append(Method.BYTES)
    if isinstance(op, Conv2d) and _winograd(op, source, largest, path, lanes):
        fitting.append(Method.WINOGRAD)
    fitting += [Method.WORDS, Method.PLAIN]
    return next(method for method in fitting if method in allowed)


def _winograd(op: Conv2d, source: Choice, largest: int, path: ExactPath, lanes: int) -> bool:
    """3x3 with stride 1, and the three facts that make it exact (sim/engine/winograd.h)."""
    shape = (op.kernel, op.stride, op.dilation, op.groups) == ((3, 3), (1, 1), (1, 1), 1)
    exact = 100 * source.bound < 1 << 15 and 49 * largest < 1 << 15 and path.sum_bound < 1 << 25
    # fewer channels than vectors hold, or tiles half empty: the direct way is as fast
    worth = op.weight.shape[3] >= lanes and op.weight.shape[0] >= lanes and min(op.out.shape[:2]) >= 3
    return shape and exact and worth


def _requant_method(op: Requantize, bounds: list[int], stored: Stored, allowed: frozenset[Method]) -> Method:
    a = op.requant.alignment
    largest = max(int(np.abs(m).max()) for m in a.multipliers)
    total = _reach(a.bias + a.half, a.multipliers, bounds)
    quotient = int(max(total >> a.fraction.astype(object))) + 1
    narrow = len(bounds) <= MAX_TERMS and max(*bounds, quotient) < 1 << 31 and stored <= Stored.S32
    # one bit to spare, so that no order of the terms matters
    if narrow and Method.HIGH in allowed and _high(op, bounds):
        return Method.HIGH
    reach = int(max(total))
    if narrow and largest < 1 << 31 and reach < 1 << 62 and Method.NARROW in allowed:
        return Method.NARROW
    if max(reach, largest) < 1 << 62:
        return Method.LONG
    if max(reach, largest) < 1 << 126:
        return Method.WIDE
    raise _too_wide(op, f"its sums reach {reach.bit_length()} bits")


def _reach(bias: Any, multipliers: Sequence[Any], bounds: Sequence[int]) -> Any:
    """max|sum| of each channel, in whatever order the terms are added."""
    worst = np.abs(bias)
    for multiplier, bound in zip(multipliers, bounds, strict=True):
        worst = worst + np.abs(multiplier) * bound
    return worst


@dataclass(frozen=True, slots=True)
class High:
    """Constants whose sum's upper half is the quotient: those of `Requant.alignment` times 2^(32 - F).

    multipliers: a term each; the second one's lack a factor 2^lift, which its codes take instead.
    """

    multipliers: tuple[npt.NDArray[np.object_], ...]
    bias: npt.NDArray[np.object_]
    lift: int

    @staticmethod
    def of(op: Requantize) -> High | None:
        """The constants, or None where a quotient has more than 32 fraction bits, or M more than 31."""
        a = op.requant.alignment
        if int(a.fraction.max()) > 32:
            return None
        up = (32 - a.fraction).astype(object)
        multipliers = [m << up for m in a.multipliers]
        lift = max(0, int(np.abs(multipliers[-1]).max()).bit_length() - 31) if len(multipliers) == 2 else 0
        if lift:
            if (multipliers[1] & ((1 << lift) - 1)).any():
                return None
            multipliers[1] = multipliers[1] >> lift
        if max(int(np.abs(m).max()) for m in multipliers) >= 1 << 31:
            return None
        return High(tuple(multipliers), (a.bias + a.half) << up, lift)


def _high(op: Requantize, bounds: Sequence[int]) -> bool:
    high = High.of(op)
    if high is None:
        return False
    lifted = [*bounds[:1], *(bound << high.lift for bound in bounds[1:])]
    return max(lifted) < 1 << 31 and int(max(_reach(high.bias, high.multipliers, lifted))) < 1 << 62
