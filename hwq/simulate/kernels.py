"""One torch kernel per op class, exact in the arithmetic that `paths` chose.

Between ops a value is (N, H, W, C) or (N, C): a contiguous torch tensor of float32, float64 or int64, or
a numpy object array where values pass 62 bits. A kernel is prepared once per graph (`prepare`), which
converts constants, and then only runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from hwq.ir import (
    NO_PADDING,
    Concat,
    Conv2d,
    Flatten,
    Linear,
    MaxPool,
    Op,
    Output,
    Pad,
    Padding,
    Requantize,
    SumPool,
)
from hwq.ir.padding import MAX_PADDING
from hwq.simulate.exactness import exact_floats
from hwq.simulate.oracle import ORACLE
from hwq.simulate.paths import Arithmetic, ExactPath
from hwq.simulate.rescale import rescaler

Value = Tensor | npt.NDArray[Any]
Kernel = Callable[[Sequence[Value]], Value]

DTYPES = {
    Arithmetic.FLOAT32: torch.float32,
    Arithmetic.FLOAT64: torch.float64,
    Arithmetic.INT64: torch.int64,
}


class Source(NamedTuple):
    """An input of an op: what computes it, and how it is stored."""

    op: Op
    path: ExactPath


Sources = Sequence[Source]


def prepare(op: Op, path: ExactPath, sources: Sources, device: torch.device) -> Kernel:
    """The kernel of an op (not Input); `sources` are its inputs."""
    big = Arithmetic.WIDE in (path.work, path.store, *(s.path.store for s in sources))
    if big or type(op) not in KERNELS:
        return _by_oracle(op, path, device)
    kernel: Kernel | None = KERNELS[type(op)](op, path, sources, device)
    return _by_oracle(op, path, device) if kernel is None else kernel


def to_numpy(value: Value) -> npt.NDArray[Any]:
    """Exact integers: int64, or the object array itself."""
    if isinstance(value, Tensor):
        return value.to("cpu", torch.int64).numpy()
    return value


def from_numpy(value: npt.NDArray[Any], store: Arithmetic, device: torch.device) -> Value:
    """A numpy integer array in the form `store` says."""
    if store is Arithmetic.WIDE:
        return value.astype(object)
    return torch.from_numpy(np.ascontiguousarray(value.astype(np.int64))).to(device, DTYPES[store])


def _by_oracle(op: Op, path: ExactPath, device: torch.device) -> Kernel:
    """The slow exact path: the reference itself."""
    compute = ORACLE[type(op)]

    def run(inputs: Sequence[Value]) -> Value:
        return from_numpy(compute(op, [to_numpy(x) for x in inputs]), path.store, device)

    return run


def _map(x: Tensor) -> Tensor:
    """(N, H, W, C) contiguous as torch's (N, C, H, W) in channels-last memory; a view."""
    return x.permute(0, 3, 1, 2)


def _rows(x: Tensor) -> Tensor:
    """Back to contiguous (N, H, W, C); a view where torch kept channels-last memory."""
    return x.permute(0, 2, 3, 1).contiguous()


def _padded(x: Tensor, padding: Padding, fill: float = 0.0) -> Tensor:
    """x (N, C, H, W) with `fill` around it."""
    top, bottom, left, right = padding.sides
    return F.pad(x, (left, right, top, bottom), value=fill) if padding else x


def _split(
    padding: Padding, most: tuple[int, int] = (MAX_PADDING, MAX_PADDING)
) -> tuple[Padding, tuple[int, int]]:
    """(what is to be padded before, (vertical, horizontal) that a torch kernel can do itself)."""
    own = (padding.top, padding.left)
    if padding.is_even and own[0] <= most[0] and own[1] <= most[1]:
        return NO_PADDING, own
    return padding, (0, 0)


def _conv2d(op: Conv2d, path: ExactPath, sources: Sources, device: torch.device) -> Kernel | None:
    if path.work is Arithmetic.INT64:
        return None
    kernel = _float_conv(op, DTYPES[path.work], DTYPES[path.store], device)
    if path.work is Arithmetic.FLOAT64:
        return kernel
    # float64 takes torch's own im2col route: no backend's idea of a fast float32 convolution
    plain = _float_conv(op, torch.float64, DTYPES[path.store], device)
    return kernel if _well_trodden(op) and _agree(sources[0], kernel, plain, device) else plain


def _well_trodden(op: Conv2d) -> bool:
    """False for what oneDNN 3.13 gets wrong: reads past the row when one input channel meets a stride over
    a single output column. Single rows and columns cost little, so all strided ones are left out."""
    return all(size > 1 or step == 1 for size, step in zip(op.out.shape[:2], op.stride, strict=True))


def _agree(source: Source, one: Kernel, other: Kernel, device: torch.device) -> bool:
    """Both kernels on random codes up to the bound: would show a backend that takes Winograd or TF32."""
    top = source.path.bound
    codes = np.random.default_rng(0).integers(-top, top, (2, *source.op.out.shape), endpoint=True)
    x = from_numpy(codes, Arithmetic.FLOAT32, device)
    with exact_floats(device):
        return torch.equal(_tensor(one([x])), _tensor(other([x])))


def _float_conv(op: Conv2d, work: torch.dtype, store: torch.dtype, device: torch.device) -> Kernel:
    weight = torch.from_numpy(op.weight.astype(np.float64)).to(device, work).permute(0, 3, 1, 2)
    weight = weight.contiguous(memory_format=torch.channels_last)
    before, own = _split(op.padding)

    def run(inputs: Sequence[Any]) -> Value:
        x = _padded(_map(inputs[0].to(work)), before)
        return _rows(F.conv2d(x, weight, None, op.stride, own, op.dilation, op.groups)).to(store)

    return run


def _linear(op: Linear, path: ExactPath, sources: Sources, device: torch.device) -> Kernel | None:
    if path.work is Arithmetic.INT64:
        return None
    dtype = DTYPES[path.work]
    weight = torch.from_numpy(op.weight.astype(np.float64)).to(device, dtype)

    def run(inputs: Sequence[Any]) -> Value:
        return F.linear(inputs[0].to(dtype), weight).to(DTYPES[path.store])

    return run


def _requantize(op: Requantize, path: ExactPath, sources: Sources, device: torch.device) -> Kernel:
    bounds = tuple(s.path.bounds for s in sources)
    rescale = rescaler(op, bounds, path.work, DTYPES[path.store], device)
    return lambda inputs: rescale([x for x in inputs if isinstance(x, Tensor)])


def _max_pool(op: MaxPool, path: ExactPath, sources: Sources, device: torch.device) -> Kernel | None:
    if path.store is Arithmetic.INT64:
        return None
    if op.kernel == (1, 1):  # subsampling; legal padding of a 1x1 kernel is 0
        rows, columns = (slice(None, None, s) for s in op.stride)
        return lambda inputs: _tensor(inputs[0])[:, rows, columns, :].contiguous()
    before, own = _split(op.padding, _half(op.kernel))

    def run(inputs: Sequence[Value]) -> Value:
        x = _padded(_map(_tensor(inputs[0])), before, -math.inf)
        return _rows(F.max_pool2d(x, op.kernel, op.stride, own))

    return run


def _half(kernel: tuple[int, int]) -> tuple[int, int]:
    """Padding that torch's pools take at most."""
    return kernel[0] // 2, kernel[1] // 2


def _sum_pool(op: SumPool, path: ExactPath, sources: Sources, device: torch.device) -> Kernel | None:
    if path.work is Arithmetic.INT64:
        return None
    dtype = DTYPES[path.work]
    if op.out.shape[:2] == (1, 1) and not op.padding:

        def total(inputs: Sequence[Any]) -> Value:
            window = inputs[0][:, : op.kernel[0], : op.kernel[1], :].to(dtype)
            result: Tensor = window.sum(dim=(1, 2), keepdim=True)
            return result

        return total

    before, own = _split(op.padding, _half(op.kernel))

    def run(inputs: Sequence[Any]) -> Value:
        x = _padded(_map(inputs[0].to(dtype)), before)
        # divided by 1: a sum
        return _rows(F.avg_pool2d(x, op.kernel, op.stride, own, divisor_override=1))

    return run


def _tensor(value: Value) -> Tensor:
    assert isinstance(value, Tensor)
    return value


def _pad(op: Pad, path: ExactPath, sources: Sources, device: torch.device) -> Kernel:
    top, bottom, left, right = op.padding.sides
    sizes = (op.before, op.after, left, right, top, bottom)  # from the last dimension on
    return lambda inputs: F.pad(_tensor(inputs[0]), sizes)


def _concat(op: Concat, path: ExactPath, sources: Sources, device: torch.device) -> Kernel:
    dtype = DTYPES[path.store]
    return lambda inputs: torch.cat([_tensor(x).to(dtype) for x in inputs], dim=-1)


def _flatten(op: Flatten, path: ExactPath, sources: Sources, device: torch.device) -> Kernel:
    return lambda inputs: inputs[0].reshape(inputs[0].shape[0], -1)


def _output(op: Output, path: ExactPath, sources: Sources, device: torch.device) -> Kernel:
    return lambda inputs: inputs[0]


KERNELS: dict[type[Op], Callable[[Any, ExactPath, Sources, torch.device], Kernel | None]] = {
    Conv2d: _conv2d,
    Linear: _linear,
    Requantize: _requantize,
    MaxPool: _max_pool,
    SumPool: _sum_pool,
    Pad: _pad,
    Concat: _concat,
    Flatten: _flatten,
    Output: _output,
}
"""Every op but Input. A maker returns None where torch has no exact kernel in that arithmetic."""
