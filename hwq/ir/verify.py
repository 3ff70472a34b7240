"""What is legal in a graph, as a table: op class -> rules. Runs before and after every pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from hwq.errors import VerifyError
from hwq.fixed import MAX_WIDTH, Constants, IntType, Rounding
from hwq.ir.bounds import Bound, output_bound, sum_type
from hwq.ir.graph import Graph
from hwq.ir.ops import (
    Concat,
    Conv2d,
    Flatten,
    Input,
    Linear,
    MaxPool,
    Op,
    Output,
    Pad,
    Requantize,
    SumPool,
    TensorSpec,
)
from hwq.ir.padding import MAX_PADDING, Padding, pooled_size

MAX_CODES = 1 << 26
"""Of one tensor, or of a map with its padding: a gigabyte in no simulator, and no count passes 31 bits."""

_Rule = Callable[[Any, tuple[TensorSpec, ...]], "str | None"]


def verify(graph: Graph) -> None:
    """Raise VerifyError, naming the op and the broken rule, unless the graph is legal."""
    if not graph.ops or not isinstance(graph.ops[0], Input) or not isinstance(graph.ops[-1], Output):
        raise VerifyError(f"graph '{graph.name}': must start with Input and end with Output")
    seen: dict[str, Op] = {}
    bounds: dict[str, Bound] = {}
    for position, op in enumerate(graph.ops):
        if op.name in seen:
            raise VerifyError(f"op '{op.name}': the name is used twice")
        for name in op.inputs:
            if name not in seen:
                raise VerifyError(f"op '{op.name}': input '{name}' is not an earlier op")
        if (isinstance(op, Input) and position > 0) or (isinstance(op, Output) and op is not graph.ops[-1]):
            raise VerifyError(f"op '{op.name}': one Input, first, and one Output, last")
        specs = tuple(seen[name].out for name in op.inputs)
        if type(op) not in RULES:
            raise VerifyError(f"op '{op.name}': unknown class {type(op).__name__}")
        low, high = ARITY[type(op)]
        if not low <= len(specs) <= high:
            raise VerifyError(f"op '{op.name}': takes {low}..{high} inputs, has {len(specs)}")
        for rule in (_positive_shape, *RULES[type(op)]):
            fault = rule(op, specs)
            if fault:
                raise VerifyError(f"op '{op.name}' ({type(op).__name__}): {fault}")
        bounds[op.name] = output_bound(op, [bounds[name] for name in op.inputs])
        fault = _holds_sums(op, bounds[op.name])
        if fault:
            raise VerifyError(f"op '{op.name}' ({type(op).__name__}): {fault}")
        seen[op.name] = op
    unread = [n for n, readers in graph.consumers.items() if not readers and n != graph.output.name]
    if unread:
        raise VerifyError(f"op '{unread[0]}': nothing reads it")


def _expect(what: str, got: object, want: object) -> str | None:
    return None if got == want else f"{what} is {got}, must be {want}"


def _positive_shape(op: Op, specs: tuple[TensorSpec, ...]) -> str | None:
    shape = op.out.shape
    if len(shape) not in (1, 3) or min(shape) < 1:
        return f"shape {shape} is neither (H, W, C) nor (N,) of positive sizes"
    return _sensible(f"shape {shape}", shape)


def _sensible(what: str, shape: tuple[int, ...]) -> str | None:
    count = math.prod(shape)
    return None if count <= MAX_CODES else f"{what} has {count:,} codes; a tensor has {MAX_CODES:,} at most"


def _is_map(op: Op, specs: tuple[TensorSpec, ...]) -> str | None:
    return None if all(len(s.shape) == 3 for s in specs) else "takes feature maps (H, W, C)"


def _pixels(op: Input, specs: tuple[TensorSpec, ...]) -> str | None:
    return _expect("type", op.out.type, IntType(bits=8, signed=False))


def _codes(weight: np.ndarray[Any, Any], kind: IntType) -> str | None:
    lo, hi = int(weight.min()), int(weight.max())
    inside = kind.lo <= lo and hi <= kind.hi
    return None if inside else f"weights {lo}..{hi} leave {kind} ({kind.lo}..{kind.hi})"


def _window(op: Conv2d | MaxPool | SumPool, spec: TensorSpec, channels: int) -> str | None:
    """Of a sliding window over `spec` that yields `channels`."""
    dilation = op.dilation if isinstance(op, Conv2d) else (1, 1)
    steps = (*op.kernel, *op.stride, *dilation)
    if min(steps) < 1 or max(steps) > MAX_CODES:
        return f"kernel {op.kernel}, stride {op.stride}, dilation {dilation} must be 1..{MAX_CODES}"
    fault = _padding(op.padding, spec)
    if fault:
        return fault
    size = pooled_size((spec.shape[0], spec.shape[1]), op.kernel, op.stride, op.padding, dilation)
    return _expect("shape", op.out.shape, (*size, channels))


def _padding(padding: Padding, spec: TensorSpec) -> str | None:
    if min(padding.sides) < 0 or max(padding.sides) > MAX_PADDING:
        return f"padding of {padding}; a side has 0..{MAX_PADDING}"
    return _sensible("the padded map", (*padding.padded((spec.shape[0], spec.shape[1])), spec.channels))


def _conv(op: Conv2d, specs: tuple[TensorSpec, ...]) -> str | None:
    if op.weight.ndim != 4:
        return f"weight has {op.weight.ndim} dimensions, must have 4"
    outs, per_group = op.weight.shape[0], op.weight.shape[3]
    channels = specs[0].channels
    if op.groups < 1 or channels != per_group * op.groups or outs % op.groups:
        return f"weight {op.weight.shape} in {op.groups} groups does not take {channels} channels"
    return _window(op, specs[0], outs) or _codes(op.weight, op.weight_type)


def _linear(op: Linear, specs: tuple[TensorSpec, ...]) -> str | None:
    if op.weight.ndim != 2 or specs[0].shape != (op.weight.shape[1],):
        return f"weight {op.weight.shape} does not take an input of shape {specs[0].shape}"
    return _codes(op.weight, op.weight_type) or _expect("shape", op.out.shape, (op.weight.shape[0],))


def _holds_sums(op: Op, bound: Bound) -> str | None:
    """The type of exact sums against what the actual weights, limits and areas let them reach."""
    if not isinstance(op, Conv2d | Linear | SumPool):
        return None
    need = sum_type(bound, signed=op.out.type.signed)
    ok = op.out.type.bits >= need.bits
    return None if ok else f"accumulator {op.out.type} cannot hold every sum, {need} can"


def _accumulates(op: Conv2d | Linear, specs: tuple[TensorSpec, ...]) -> str | None:
    return None if op.out.type.signed else f"accumulator {op.out.type} has no sign"


def _requant(op: Requantize, specs: tuple[TensorSpec, ...]) -> str | None:
    r = op.requant
    if len(r.terms) != len(specs):
        return f"{len(r.terms)} terms for {len(specs)} inputs"
    for constants in (*r.terms, r.bias):
        fault = _constants(constants, op.out.channels)
        if fault:
            return fault
    if not r.out.lo <= r.lo <= r.hi <= r.out.hi:
        return f"limits {r.lo}..{r.hi} leave {r.out}"
    if r.rounding not in (Rounding.RND, Rounding.TRN):
        return f"rounding {r.rounding.name}: a requantisation takes RND or TRN"
    for spec in specs:
        if spec.shape != op.out.shape:
            return f"input shape {spec.shape} differs from {op.out.shape}"
    return _expect("type", op.out.type, r.out)


def _constants(constants: Constants, channels: int) -> str | None:
    if constants.raw.size not in (1, channels):
        return f"{constants.raw.size} constants for {channels} channels"
    width = constants.width
    if not 2 <= width <= MAX_WIDTH:
        return f"constants of {width} bits, must be 2..{MAX_WIDTH}"
    lo, hi = -(1 << (width - 1)), (1 << (width - 1)) - 1
    if int(constants.raw.min()) < lo or int(constants.raw.max()) > hi:
        return f"a constant leaves {width} bits"
    return None


def _pool(op: MaxPool | SumPool, specs: tuple[TensorSpec, ...]) -> str | None:
    fault = _window(op, specs[0], specs[0].channels)
    if fault is None and not op.padding.within(op.kernel):
        return f"padding of {op.padding}: a window of kernel {op.kernel} may hold nothing else"
    return fault


def _keeps_sign(op: SumPool, specs: tuple[TensorSpec, ...]) -> str | None:
    ok = op.out.type.signed == specs[0].type.signed
    return None if ok else f"sums of {specs[0].type} cannot be {op.out.type}: one of them has no sign"


def _same_codes(op: Op, specs: tuple[TensorSpec, ...]) -> str | None:
    for spec in specs:
        if (spec.type, spec.scale) != (op.out.type, op.out.scale):
            return f"codes {spec.type} * {spec.scale} become {op.out.type} * {op.out.scale}"
    return None


def _pads(op: Pad, specs: tuple[TensorSpec, ...]) -> str | None:
    h, w, channels = specs[0].shape
    if min(op.before, op.after) < 0:
        return "pads a negative number of channels"
    shape = (*op.padding.padded((h, w)), op.before + channels + op.after)
    return _padding(op.padding, specs[0]) or _expect("shape", op.out.shape, shape)


def _joins(op: Concat, specs: tuple[TensorSpec, ...]) -> str | None:
    if len({s.shape[:-1] for s in specs}) != 1:
        return f"sizes differ: {[s.shape for s in specs]}"
    return _expect("shape", op.out.shape, (*specs[0].shape[:-1], sum(s.channels for s in specs)))


def _flattens(op: Flatten, specs: tuple[TensorSpec, ...]) -> str | None:
    return _expect("shape", op.out.shape, (specs[0].size,))


def _passes_on(op: Output, specs: tuple[TensorSpec, ...]) -> str | None:
    return _expect("result", op.out, specs[0])


_MANY = 1 << 30
ARITY: dict[type[Op], tuple[int, int]] = {
    Input: (0, 0),
    Conv2d: (1, 1),
    Linear: (1, 1),
    Requantize: (1, _MANY),
    MaxPool: (1, 1),
    SumPool: (1, 1),
    Pad: (1, 1),
    Concat: (2, _MANY),
    Flatten: (1, 1),
    Output: (1, 1),
}
RULES: dict[type[Op], tuple[_Rule, ...]] = {
    Input: (_pixels,),
    Conv2d: (_is_map, _conv, _accumulates),
    Linear: (_linear, _accumulates),
    Requantize: (_requant,),
    MaxPool: (_is_map, _pool, _same_codes),
    SumPool: (_is_map, _pool, _keeps_sign),
    Pad: (_is_map, _pads, _same_codes),
    Concat: (_joins, _same_codes),
    Flatten: (_flattens, _same_codes),
    Output: (_passes_on,),
}
