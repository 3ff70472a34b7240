"""The small reference: every op in numpy, written straight from the equations in `ir.ops`.

int64 where the proved width fits 62 bits, Python integers (object arrays) beyond. No torch, no floats,
no tricks: the fast engine and the generated C++ are both held against this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq.fixed import Ints
from hwq.ir import (
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
    Padding,
    Requantize,
    SumPool,
    pooled_size,
)

SAFE_BITS = 62
"""Signed widths up to this are computed in int64, with a bit to spare."""

Pair = tuple[int, int]


def run_oracle(graph: Graph, pixels: npt.NDArray[np.uint8]) -> dict[str, Ints]:
    """Every op's output by name: (N, H, W, C) uint8 -> (N, *op.out.shape), int64 or object arrays."""
    values: dict[str, Ints] = {}
    for op in graph:
        if isinstance(op, Input):
            values[op.name] = pixels.astype(np.int64)
        else:
            values[op.name] = ORACLE[type(op)](op, [values[name] for name in op.inputs])
    return values


def _arithmetic(x: Ints, bits: int) -> Ints:
    """x as int64, or as Python integers where a result of `bits` bits could overflow."""
    return x.astype(object if bits > SAFE_BITS or x.dtype == object else np.int64)


def _width(x: Ints) -> int:
    return int(max(1, abs(x).max())).bit_length() if x.size else 1


def _windows(
    x: Ints, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair, fill: int
) -> list[tuple[int, int, Ints]]:
    """(i, j, the (N, OH, OW, C) inputs under kernel position (i, j)) for all kernel positions."""
    (sh, sw), (dh, dw) = stride, dilation
    top, bottom, left, right = padding.sides
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
    oh, ow = pooled_size((x.shape[1], x.shape[2]), kernel, stride, padding, dilation)
    found = []
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            rows = slice(i * dh, i * dh + (oh - 1) * sh + 1, sh)
            columns = slice(j * dw, j * dw + (ow - 1) * sw + 1, sw)
            found.append((i, j, padded[:, rows, columns, :]))
    return found


def conv2d(op: Conv2d, inputs: Sequence[Ints]) -> Ints:
    """acc[y,x,o] = sum_{i,j,c} w[o,i,j,c] * q[y*s + i*d - top, x*s + j*d - left, g*G + c]."""
    x = _arithmetic(inputs[0], op.out.type.bits)
    weight = op.weight.astype(x.dtype)
    acc = np.zeros((x.shape[0], *op.out.shape), dtype=x.dtype)
    outs, taken = weight.shape[0] // op.groups, weight.shape[3]
    for i, j, under in _windows(x, op.kernel, op.stride, op.padding, op.dilation, 0):
        for g in range(op.groups):
            o = slice(g * outs, (g + 1) * outs)
            acc[..., o] += under[..., g * taken : (g + 1) * taken] @ weight[o, i, j].T
    return acc


def linear(op: Linear, inputs: Sequence[Ints]) -> Ints:
    """acc[o] = sum_i w[o,i] * q[i]."""
    x = _arithmetic(inputs[0], op.out.type.bits)
    product: Ints = x @ op.weight.astype(x.dtype).T
    return product


def unclamped(op: Requantize, inputs: Sequence[Ints]) -> Ints:
    """floor((sum_i x_i * M_i * 2^a_i + B * 2^b + half) / 2^F): a requantisation without its limits."""
    r = op.requant
    a = r.alignment
    bits = r.sum_bits(tuple(1 << _width(x) for x in inputs))
    wide = max(bits, int(a.fraction.max()))
    total: Ints = _arithmetic(np.zeros(inputs[0].shape, np.int64), wide)
    kind = object if total.dtype == object or any(x.dtype == object for x in inputs) else np.int64
    total = total.astype(kind)
    for x, multiplier in zip(inputs, a.multipliers, strict=True):
        total = total + x.astype(kind) * multiplier.astype(kind)
    total = total + (a.bias + a.half).astype(kind)
    free: Ints = total >> a.fraction.astype(kind)
    return free


def requantize(op: Requantize, inputs: Sequence[Ints]) -> Ints:
    """y = clamp(floor((sum_i x_i * M_i * 2^a_i + B * 2^b + half) / 2^F), lo, hi)."""
    return _codes(np.clip(unclamped(op, inputs), op.requant.lo, op.requant.hi), op)


def _codes(x: Ints, op: Op) -> Ints:
    """Codes back in int64 where they fit."""
    return x.astype(object if op.out.type.storage_bits > SAFE_BITS else np.int64)


def max_pool(op: MaxPool, inputs: Sequence[Ints]) -> Ints:
    """Largest code of each window; padding never wins."""
    lowest = int(inputs[0].min(initial=0))
    found = _windows(inputs[0], op.kernel, op.stride, op.padding, (1, 1), lowest)
    best = found[0][2]
    for _, _, under in found[1:]:
        best = np.maximum(best, under)
    return best


def sum_pool(op: SumPool, inputs: Sequence[Ints]) -> Ints:
    """Exact sum of each window; padding adds 0."""
    x = _arithmetic(inputs[0], op.out.type.bits)
    total: Ints = np.zeros((x.shape[0], *op.out.shape), dtype=x.dtype)
    for _, _, under in _windows(x, op.kernel, op.stride, op.padding, (1, 1), 0):
        total = total + under
    return total


def pad(op: Pad, inputs: Sequence[Ints]) -> Ints:
    """y[top + i, left + j, before + c] = q[i, j, c], every other code is 0."""
    top, bottom, left, right = op.padding.sides
    return np.pad(inputs[0], ((0, 0), (top, bottom), (left, right), (op.before, op.after)))


def concat(op: Concat, inputs: Sequence[Ints]) -> Ints:
    """Inputs joined along the channels."""
    joined: Ints = np.concatenate(list(inputs), axis=-1)
    return joined


def flatten(op: Flatten, inputs: Sequence[Ints]) -> Ints:
    """(N, H, W, C) -> (N, H*W*C)."""
    return inputs[0].reshape(inputs[0].shape[0], -1)


def output(op: Output, inputs: Sequence[Ints]) -> Ints:
    """Passes its input on."""
    return inputs[0]


ORACLE: dict[type[Op], Callable[[Any, Sequence[Ints]], Ints]] = {
    Conv2d: conv2d,
    Linear: linear,
    Requantize: requantize,
    MaxPool: max_pool,
    SumPool: sum_pool,
    Pad: pad,
    Concat: concat,
    Flatten: flatten,
    Output: output,
}
"""Every op but Input, whose value is the pixels."""
