"""Max pooling, average pooling and means."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from hwq.ir import NO_PADDING, Padding, pooled_size
from hwq.lower.context import Call, Context
from hwq.lower.values import Codes, Move, PadMove, Pending, Pixels, Tensor, Term, flat_order

Pair = tuple[int, int]


def _pair(value: Any, call: Call) -> Pair:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) == 1:
        pair = pair * 2
    if len(pair) != 2 or not all(isinstance(n, int) for n in pair):
        call.fail(f"{call.what} with a window of {value} is not supported")
    return pair


def _window(call: Call, value: Tensor, ceil_position: int) -> tuple[Pair, Pair, Padding]:
    """(kernel, stride, padding) of a pooling call; ceil_mode only where it changes nothing."""
    if len(value.shape) != 3:
        call.fail(f"{call.what} of a vector")
    kernel = _pair(call.option(1, "kernel_size", None), call)
    stride = call.option(2, "stride", None)
    stride = kernel if stride is None or stride == [] else _pair(stride, call)
    padding = Padding.even(*_pair(call.option(3, "padding", 0), call))
    if call.option(ceil_position, "ceil_mode", False):
        size = padding.padded((value.shape[0], value.shape[1]))
        if any((n - k) % s for n, k, s in zip(size, kernel, stride, strict=True)):
            call.fail("ceil_mode=True is not supported where it adds a row or column")
    if min(pooled_size((value.shape[0], value.shape[1]), kernel, stride, padding)) < 1:
        call.fail(f"kernel {kernel} does not fit a map of {value.shape[0]} x {value.shape[1]}")
    return kernel, stride, padding


def max_pool(context: Context, call: Call) -> Tensor:
    """The largest code; before a quantiser it waits for the codes, which rounding keeps in order."""
    value = call.tensor()
    kernel, stride, padding = _window(call, value, 5)
    if _pair(call.option(4, "dilation", 1), call) != (1, 1):
        call.fail("max pooling with dilation is not supported")
    if call.option(6, "return_indices", False):
        call.fail("max pooling with return_indices is not supported")
    return move(context, call, value, Move(name=call.name, kernel=kernel, stride=stride, padding=padding))


def move(context: Context, call: Call, value: Tensor, step: Move | PadMove) -> Tensor:
    """Do a move on codes now, on a pending sum once it is rounded."""
    if isinstance(value, Pixels):
        call.fail(f"{call.what} reads the raw image; an activation quantiser must come first")
    if isinstance(value, Codes):
        return context.builder.move(value, step)
    return replace(value, moves=(*value.moves, step), shape=step.moved(value.shape))


def avg_pool(context: Context, call: Call) -> Tensor:
    """Exact sums; 1/area waits in the factors."""
    value = call.tensor()
    kernel, stride, padding = _window(call, value, 4)
    if padding and not call.option(5, "count_include_pad", True):
        call.fail("average pooling with padding and count_include_pad=False is not supported")
    divisor = call.option(6, "divisor_override", None) or kernel[0] * kernel[1]
    return _average(context, call, value, kernel, stride, padding, divisor)


def adaptive_avg_pool(context: Context, call: Call) -> Tensor:
    """Windows of equal size only: the output size must divide the map's."""
    value = call.tensor()
    if len(value.shape) != 3:
        call.fail(f"{call.what} of a vector")
    size = call.option(1, "output_size", 1)
    wanted = (size, size) if isinstance(size, int) else tuple(size)
    wanted = tuple(n if w is None else w for n, w in zip(value.shape, wanted, strict=False))
    if any(w < 1 or n % w for n, w in zip(value.shape, wanted, strict=False)):
        call.fail(f"adaptive pooling of {value.shape[0]} x {value.shape[1]} to {wanted} has unequal windows")
    kernel = (value.shape[0] // wanted[0], value.shape[1] // wanted[1])
    return _average(context, call, value, kernel, kernel, NO_PADDING, kernel[0] * kernel[1])


def mean(context: Context, call: Call) -> Tensor:
    """The mean over both map dimensions: a global average pool, flattened unless keepdim."""
    value = call.tensor()
    dims = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim")
    keep = call.args[2] if len(call.args) > 2 else call.kwargs.get("keepdim", False)
    given = sorted(d % 4 for d in dims) if isinstance(dims, tuple | list) else None
    if len(value.shape) != 3 or given != [2, 3]:
        call.fail("a mean is supported over the two map dimensions only, as in x.mean((2, 3))")
    kernel = (value.shape[0], value.shape[1])
    pooled = _average(context, call, value, kernel, kernel, NO_PADDING, kernel[0] * kernel[1])
    return pooled if keep else flattened(context, call, pooled, f"{call.name}.flatten")


def flattened(context: Context, call: Call, value: Tensor, name: str) -> Tensor:
    """(H, W, C) to a vector; of a pending sum, once it is rounded."""
    if isinstance(value, Pixels):
        call.fail(f"{call.what} reads the raw image; an activation quantiser must come first")
    if len(value.shape) == 1:
        return value
    if isinstance(value, Codes):
        return context.builder.flatten(value, name)
    return replace(
        value,
        moves=(*value.moves, Move(name=name)),
        shape=(int(np.prod(value.shape)),),
        order=flat_order(value.shape, None),
    )


def _average(
    context: Context,
    call: Call,
    value: Tensor,
    kernel: Pair,
    stride: Pair,
    padding: Padding,
    divisor: int,
) -> Tensor:
    if kernel == (1, 1) and stride == (1, 1) and not padding and divisor == 1:
        return value
    share = 1.0 / divisor
    if isinstance(value, Codes):
        op = context.builder.sum_pool(value.op, call.name, kernel, stride, padding)
        return Codes(op=op.name, spec=op.out, factors=(share, *value.factors))
    pending = context.affine(value, call)
    if pending.bias.any() and (padding or divisor != kernel[0] * kernel[1]):
        call.fail("padded average pooling reads a tensor that no quantiser rounds; insert one before it")
    ops = [context.builder.sum_pool(t.op, call.name, kernel, stride, padding) for t in pending.terms]
    terms = tuple(
        Term(op=op.name, factors=(share, *t.factors)) for op, t in zip(ops, pending.terms, strict=True)
    )
    return Pending(terms=terms, bias=pending.bias, inner=ops[0].out.shape, shape=ops[0].out.shape)
