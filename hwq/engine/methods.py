"""How the native engine holds each tensor and computes each op: chosen from proved bounds, never by trial.

The bounds are those of `hwq.simulate.exact_paths`: no value and no partial sum of an op exceeds them,
whatever the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from hwq.errors import ToolError
from hwq.ir import (
    Bound,
    Concat,
    Conv2d,
    Flatten,
    Graph,
    Input,
    Linear,
    MaxPool,
    Op,
    Output,
    Pad,
    Requantize,
    SumPool,
)
from hwq.simulate import ExactPath, exact_paths, storage_dtype

MAX_TERMS = 2
"""Terms of a requantisation that the vector kernel takes."""
MAX_DOUBT = 1 << 28
"""Of `Cut.doubt`, out of 2^32: past it about half of all vectors are computed twice, and LONG is as fast."""


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
    FILTERED = 8
    LONG = 9
    WIDE = 10


ALL = frozenset(Method)
FALLBACKS = frozenset({Method.NONE, Method.PLAIN, Method.LONG, Method.WIDE})
"""What takes any operands; the other methods are faster and narrower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """An op's method, how its output is held, and max|output|. cut: the constants of HIGH and FILTERED."""

    method: Method
    stored: Stored
    bound: int
    cut: Cut | None = None


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
        sources = [choices[name] for name in op.inputs]
        positive[op.name] = _never_negative(op, [positive[name] for name in op.inputs])
        bound = paths[op.name].bound
        if isinstance(op, MaxPool | Flatten | Output | Pad):
            stored = sources[0].stored  # the same codes, or the very same memory
        else:
            stored = _stored(op, bound, positive[op.name])
        method, cut = Method.NONE, None
        if isinstance(op, Conv2d | Linear):
            method = _sum_method(op, sources[0], paths[op.name], allowed, lanes, has_bytes)
        elif isinstance(op, Requantize):
            method, cut = _requant_method(op, graph.input_bounds(op), stored, allowed)
        choices[op.name] = Choice(method=method, stored=stored, bound=bound, cut=cut)
    return choices


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


def _requant_method(
    op: Requantize, bounds: Sequence[Bound], stored: Stored, allowed: frozenset[Method]
) -> tuple[Method, Cut | None]:
    a = op.requant.alignment
    largest = max(int(np.abs(m).max()) for m in a.multipliers)
    total = op.requant.reach(bounds)
    peak = max(int(b.max()) for b in bounds)
    quotient = int(max(total >> a.fraction.astype(object))) + 1
    narrow = len(bounds) <= MAX_TERMS and max(peak, quotient) < 1 << 31 and stored <= Stored.S32
    cut = Cut.of(op, bounds) if narrow else None
    if cut and not cut.doubt.any() and Method.HIGH in allowed:
        return Method.HIGH, cut
    # one bit to spare, so that no order of the terms matters
    reach = int(max(total))
    if narrow and largest < 1 << 31 and reach < 1 << 62 and Method.NARROW in allowed:
        return Method.NARROW, None
    if max(reach, largest) >= 1 << 126:
        raise _too_wide(op, f"its sums reach {reach.bit_length()} bits")
    if cut and max(cut.doubt) < MAX_DOUBT and Method.FILTERED in allowed:
        return Method.FILTERED, cut
    return (Method.LONG if max(reach, largest) < 1 << 62 else Method.WIDE), None


@dataclass(frozen=True, slots=True)
class Cut:
    """Constants whose sum's upper half is the quotient, or seldom one more: those of `Requant.alignment`
    times 2^(32 - F), in 31 and 63 bits.

    multipliers: a term each; the second one's lack a factor 2^lift, which its codes take instead.
    doubt: a channel each. Whatever the codes, the sum of the uncut constants is at least sum - doubt, and
    less than sum + 1. So their quotients are equal where the sum's lower half is at least `doubt`: taking
    `doubt` off, or adding less than 1, then leaves its upper half as it is.
    """

    multipliers: tuple[npt.NDArray[np.object_], ...]
    bias: npt.NDArray[np.object_]
    lift: int
    doubt: npt.NDArray[np.object_]

    @staticmethod
    def of(op: Requantize, bounds: Sequence[Bound]) -> Cut | None:
        """The constants for codes within +-bounds, (C,) a term; None where codes or sums grow too wide."""
        a, top = op.requant.alignment, (1 << 31) - 1
        up, down = (np.maximum(n, 0).astype(object) for n in (32 - a.fraction, a.fraction - 32))
        whole = [m << up for m in a.multipliers]  # in units of 2^-down
        lifts = [0] * len(whole)
        if len(whole) == 2:
            lifts[1] = max(0, int(max(np.abs(whole[1]) >> down)).bit_length() - 31)
        multipliers, off = [], down * 0
        for m, lift, bound in zip(whole, lifts, bounds, strict=True):
            digits = down + lift
            nearest = np.clip((m + (1 << digits >> 1)) >> digits, -top, top)
            multipliers.append(nearest)
            off = off + np.abs(m - (nearest << digits)) * bound
        # the multipliers put the sum off by at most `most`, and the bias puts it less than 1 too low
        most = -(-off >> down)
        bias = ((a.bias + a.half) << up >> down) + most
        lifted = [bound << lift for bound, lift in zip(bounds, lifts, strict=True)]
        worst = np.abs(bias)
        for m, bound in zip(multipliers, lifted, strict=True):
            worst = worst + np.abs(m) * bound
        if max(int(b.max()) for b in lifted) >= 1 << 31 or int(max(worst)) >= 1 << 62:
            return None
        return Cut(tuple(multipliers), bias, lifts[-1], 2 * most)
