"""One small function per thing a network may call, and the table that finds it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from hwq.fixed import IntType
from hwq.ir import magnitude
from hwq.lower import layers, pools, shapes
from hwq.lower.context import Call, Context, as_pending
from hwq.lower.values import Batch, Codes, Pending, Pixels, Tensor
from hwq.quant import ActQuantizer, QuantConv2d, QuantLinear
from hwq.quant.placing.placer import OF
from hwq.quant.tracing.spelling.clamps import Clamp, clamp

Handler = Callable[[Context, Call], Any]


# -- quantisers


def quantizer(context: Context, call: Call) -> Codes:
    """End a pending sum in a Requantize; codes that already are what it makes pass unchanged."""
    quant = call.module
    assert isinstance(quant, ActQuantizer)
    value = call.tensor()
    if quant.off:
        return _left_off(context, call, value)
    kind, scale = quant.type, quant.scale()
    if not (np.isfinite(scale) and scale > 0):
        call.fail(f"the quantiser's scale is {scale}; it must be positive")
    match value:
        case Pixels():
            return context.builder.normalize(value, context.mean, context.std, call.name, kind, scale)
        case Codes() if (value.spec.type, value.factors) == (kind, (scale,)):
            return value
        case _:
            of = call.node.meta.get(OF, ())
            return context.builder.requantize(as_pending(value), call.name, kind, scale, of=of)


def _left_off(context: Context, call: Call, value: Tensor) -> Codes:
    """Codes and their sums pass unrounded; for anything else note the name, and go on to find them all."""
    if isinstance(value, Codes):
        return value
    context.off.append(call.name)
    kind = IntType(bits=16, signed=True)
    if isinstance(value, Pixels):
        return context.builder.normalize(value, context.mean, context.std, call.name, kind, 1.0)
    return context.builder.requantize(value, call.name, kind, 1.0)


# -- activations


def clamp_to_range(context: Context, call: Call) -> Tensor:
    """The limits of a sum, until its quantiser makes them limits of codes."""
    value = call.tensor()
    if isinstance(value, Pixels):
        call.fail(f"{call.what} reads the raw image; an activation quantiser must come first")
    lo, hi = (float(call.option(place, name, None)) for place, name in enumerate(("lo", "hi"), 1))
    if isinstance(value, Codes) and hi == np.inf and not value.spec.type.signed:
        return value  # never below 0, as the range holds it
    pending = as_pending(value)
    return replace(pending, lo=_within(lo, pending), hi=_within(hi, pending))


def _within(bound: float, pending: Pending) -> float:
    """Clamping after a clamp: the new bound, brought into the range that is left."""
    return min(max(bound, pending.lo), pending.hi)


def add(context: Context, call: Call) -> Pending | int:
    """Terms of both sides side by side: one rounding for the sum. Also adds integers of a shape."""
    left, right = call.args
    if isinstance(left, int) and isinstance(right, int):
        return left + right
    for side in (left, right):
        if not isinstance(side, Codes | Pixels | Pending):
            call.fail("adding a constant is not supported")
    a, b = context.affine(left, call), context.affine(right, call)
    if a.shape != b.shape:
        call.fail(f"adds shapes {a.shape} and {b.shape} (channels last); broadcasting is not supported")
    if not _same_order(a, b):
        call.fail("adds a flattened feature map to a vector of another order")
    return replace(a, terms=(*a.terms, *b.terms), bias=a.bias + b.bias)


def _same_order(a: Pending | Codes, b: Pending | Codes) -> bool:
    if a.order is None or b.order is None:
        return a.order is b.order
    return bool(np.array_equal(a.order, b.order))


# -- concat


def concat(context: Context, call: Call) -> Codes:
    """Codes of one type and scale side by side; others are requantised to common codes first."""
    tensors, dim = call.args
    parts = []
    for value in tensors:
        if not isinstance(value, Codes | Pixels | Pending):
            call.fail("cat of something that is not a tensor of the network is not supported")
        parts.append(context.codes(value, call))
    if not parts or dim not in (1, -len(parts[0].shape)):
        call.fail(f"cat along dimension {dim} is not supported, only along the channels (1)")
    if len({p.shape[:-1] for p in parts}) != 1:
        call.fail(f"cat of sizes {', '.join(str(p.shape) for p in parts)} (channels last)")
    if len(parts) == 1:
        return parts[0]
    if len({(p.spec.type, p.spec.scale, p.factors) for p in parts}) > 1:
        parts = _common(context, call, parts)
    return context.builder.concat(parts, call.name)


def _common(context: Context, call: Call, parts: list[Codes]) -> list[Codes]:
    """The finest scale, in a type that holds every part: no part loses more than half its finest code."""
    units = [float(np.prod(p.factors)) for p in parts]
    scale = min(units)
    peaks = [magnitude(p.spec.type) * u / scale for p, u in zip(parts, units, strict=True)]
    top = int(np.floor(max(peaks) + 0.5))
    kind = IntType.holding(-top if any(p.spec.type.signed for p in parts) else 0, top)
    if kind.bits > 16:
        call.fail(
            f"cat of scales as far apart as {min(units):g} and {max(units):g}; quantise them alike first"
        )
    made = []
    for i, part in enumerate(parts):
        same = (part.spec.type, part.factors) == (kind, (scale,))
        name = f"{call.name}.input{i}"
        made.append(part if same else context.builder.requantize(as_pending(part), name, kind, scale))
    return made


# -- nothing at all


def passes(context: Context, call: Call) -> Tensor:
    """Dropout and identity: nothing in eval mode."""
    return call.tensor()


def _integers(function: Callable[[int, int], int]) -> Handler:
    def handler(context: Context, call: Call) -> int:
        if any(isinstance(a, Batch) for a in call.args):
            call.fail("arithmetic with the batch size is not supported")
        if len(call.args) != 2 or not all(isinstance(a, int) for a in call.args):
            call.unsupported()
        return function(*call.args)

    return handler


MODULES: dict[type[nn.Module], Handler] = {
    ActQuantizer: quantizer,
    QuantConv2d: layers.conv2d,
    QuantLinear: layers.linear,
    nn.Conv2d: layers.unprepared,
    nn.Linear: layers.unprepared,
    nn.BatchNorm2d: layers.batch_norm,
    nn.BatchNorm1d: layers.batch_norm,
    Clamp: clamp_to_range,
    nn.MaxPool2d: pools.max_pool,
    nn.AvgPool2d: pools.avg_pool,
    nn.AdaptiveAvgPool2d: pools.adaptive_avg_pool,
    nn.Flatten: shapes.flatten,
    nn.ConstantPad2d: shapes.pad,  # nn.ZeroPad2d is one
    nn.Dropout: passes,
    nn.Dropout1d: passes,
    nn.Dropout2d: passes,
    nn.Dropout3d: passes,
    nn.AlphaDropout: passes,
    nn.FeatureAlphaDropout: passes,
    nn.Identity: passes,
}
"""The first class that the module is an instance of counts: subclasses stand before their bases."""

FUNCTIONS: dict[Any, Handler] = {
    clamp: clamp_to_range,
    operator.add: add,
    torch.cat: concat,
    functional.max_pool2d: pools.max_pool,
    torch.max_pool2d: pools.max_pool,
    functional.avg_pool2d: pools.avg_pool,
    functional.adaptive_avg_pool2d: pools.adaptive_avg_pool,
    torch.flatten: shapes.flatten,
    torch.reshape: shapes.view,
    functional.pad: shapes.pad,
    operator.getitem: shapes.getitem,
    getattr: shapes.attribute,
    operator.mul: _integers(operator.mul),
    operator.floordiv: _integers(operator.floordiv),
    operator.sub: _integers(operator.sub),
}

METHODS: dict[str, Handler] = {
    "mean": pools.mean,
    "flatten": shapes.flatten,
    "view": shapes.view,
    "reshape": shapes.view,
    "size": shapes.size,
    "dim": shapes.dim,
}


def unknown(context: Context, call: Call) -> Tensor:
    """Everything else: refused with its place."""
    call.unsupported()


def handler_of(target: Any) -> Handler:
    """The handler of a module, a function or the name of a Tensor method."""
    if isinstance(target, nn.Module):
        return next((h for kind, h in MODULES.items() if isinstance(target, kind)), unknown)
    if isinstance(target, str):
        return METHODS.get(target, unknown)
    return FUNCTIONS.get(target, unknown)
