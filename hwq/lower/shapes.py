"""Flatten, reshape, slices, padding, and the integers read from a tensor's shape."""

from __future__ import annotations

import math
from typing import Any

from hwq.ir import Padding
from hwq.ir.padding import MAX_PADDING
from hwq.lower.context import Call, Context, torch_shape
from hwq.lower.pools import flattened, move
from hwq.lower.values import Batch, Move, PadMove, Tensor


def flatten(context: Context, call: Call) -> Tensor:
    """Everything but the batch to one vector."""
    value = call.tensor()
    rank = len(value.shape) + 1
    start, end = call.option(1, "start_dim", 0), call.option(2, "end_dim", -1)
    if start % rank != 1 or end % rank != rank - 1:
        call.fail("flatten is supported from dimension 1 to the last only, as in torch.flatten(x, 1)")
    return flattened(context, call, value, call.name)


def view(context: Context, call: Call) -> Tensor:
    """x.view(B, -1) and its kin: a flatten, or nothing."""
    value = call.tensor()
    sizes: Any = call.args[1:] or (call.kwargs.get("shape"),)
    if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
        sizes = sizes[0]
    count = math.prod(value.shape)
    sizes = tuple(sizes)
    rest = sizes[1:]
    if rest.count(-1) == 1 and isinstance(sizes[0], Batch) and all(isinstance(n, int) for n in rest):
        rest = tuple(count // -math.prod(rest) if n == -1 and math.prod(rest) else n for n in rest)
    # a first size of -1 is the batch where the others hold an image; a number would be one batch alone
    whole = bool(sizes) and (isinstance(sizes[0], Batch) or sizes[0] == -1)
    if whole and rest == torch_shape(value)[1:]:
        return value
    if not whole or rest != (count,):
        call.fail(f"{call.what} is supported as a flatten only, as in x.flatten(1) or x.view(x.size(0), -1)")
    return flattened(context, call, value, call.name)


def size(context: Context, call: Call) -> Any:
    """x.size() and x.size(dim)."""
    shape = torch_shape(call.tensor())
    dim = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim")
    return shape if dim is None else shape[dim]


def dim(context: Context, call: Call) -> int:
    """x.dim()."""
    return len(call.tensor().shape) + 1


def attribute(context: Context, call: Call) -> Any:
    """x.shape; no other attribute."""
    if call.args[1] != "shape":
        call.fail(f"the attribute '{call.args[1]}' of a tensor is not supported")
    return torch_shape(call.tensor())


def getitem(context: Context, call: Call) -> Any:
    """An entry of a shape, or x[:, :, ::s, ::t]: subsampling."""
    value, index = call.args
    if isinstance(value, tuple):
        return value[index]
    tensor = call.tensor()
    steps = _steps(index) if len(tensor.shape) == 3 else None
    if steps is None:
        call.fail("indexing is supported as subsampling only, as in x[:, :, ::2, ::2]")
    if steps == (1, 1):
        return tensor
    return move(context, call, tensor, Move(name=call.name, kernel=(1, 1), stride=steps))


def _steps(index: Any) -> tuple[int, int] | None:
    """(vertical, horizontal) steps of an index that takes every s-th row and t-th column."""
    if not isinstance(index, tuple) or not all(isinstance(i, slice) for i in index) or len(index) > 4:
        return None
    slices = (*index, *[slice(None)] * (4 - len(index)))
    if any(s.start not in (None, 0) or s.stop is not None for s in slices):
        return None
    steps = [1 if s.step is None else s.step for s in slices]
    plain = steps[:2] == [1, 1] and all(isinstance(s, int) and s >= 1 for s in steps)
    return (steps[2], steps[3]) if plain else None


def pad(context: Context, call: Call) -> Tensor:
    """F.pad with zeros, in space and in channels; nn.ZeroPad2d and nn.ConstantPad2d(.., 0)."""
    value = call.tensor()
    sizes = call.option(1, "padding" if call.module else "pad", None)
    if call.option(2, "mode", "constant") != "constant" or call.option(3, "value", 0) not in (None, 0):
        call.fail(f"{call.what} is supported with zeros only")
    if not isinstance(sizes, tuple | list) or not all(isinstance(n, int) for n in sizes):
        call.fail(f"{call.what} needs constant sizes")
    if len(sizes) % 2 or len(sizes) > 8:
        call.fail(f"{call.what} with {len(sizes)} sizes; a pair a dimension, from the last on, four at most")
    if min(sizes, default=0) < 0:
        call.fail(f"{call.what} with negative sizes cuts rows or columns off, which is not supported")
    left, right, top, bottom, before, after, *batch = (*sizes, 0, 0, 0, 0, 0, 0, 0, 0)[:8]
    if any(batch):
        call.fail(f"{call.what} of the batch dimension")
    if not any(sizes):
        return value
    if len(value.shape) != 3:
        call.fail(f"{call.what} is supported of feature maps only; pad before they are flattened")
    padding = Padding(top=top, bottom=bottom, left=left, right=right)
    if max(padding.sides) > MAX_PADDING:
        call.fail(f"{call.what} by {max(padding.sides)}; a side is padded by {MAX_PADDING} at most")
    return move(context, call, value, PadMove(name=call.name, padding=padding, before=before, after=after))
