"""Padding of every side against eager torch in float64, which is exact on integers of this size."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hwq.fixed import IntType
from hwq.ir import (
    Conv2d,
    Graph,
    Input,
    MaxPool,
    Op,
    Output,
    Pad,
    Padding,
    SumPool,
    TensorSpec,
    accumulator_type,
    pooled_size,
    verify,
)
from hwq.simulate import Simulator
from hwq.simulate.oracle import run_oracle

U8 = IntType(bits=8, signed=False)
SHAPE = (5, 7, 4)
SIDES = [
    Padding(),
    Padding.even(1, 2),
    Padding(top=1),
    Padding(bottom=2),
    Padding(left=2),
    Padding(right=1),
    Padding(top=2, bottom=1, left=0, right=2),
]
KERNELS = [
    ((3, 3), (1, 1), (1, 1)),
    ((4, 3), (2, 1), (1, 1)),
    ((3, 4), (3, 2), (1, 1)),
    ((3, 3), (1, 2), (2, 1)),
]


def images() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (3, *SHAPE), dtype=np.uint8)


def torch_pad(padding: Padding, value: float = 0.0, channels: tuple[int, int] = (0, 0)) -> Tensor:
    """The images, (N, C, H, W), with `value` around them."""
    x = torch.from_numpy(images()).double().permute(0, 3, 1, 2)
    sides = (padding.left, padding.right, padding.top, padding.bottom, *channels)
    return functional.pad(x, sides, value=value)


def assert_computes(op: Op, want: Tensor) -> None:
    """The op on the images, by both Python simulators."""
    start = Input(name="in", inputs=(), out=TensorSpec(shape=SHAPE, type=U8, scale=1.0))
    graph = Graph(name="net", ops=(start, op, Output(name="out", inputs=("op",), out=op.out)))
    verify(graph)
    expected = want.permute(0, 2, 3, 1).numpy()
    for codes in (run_oracle(graph, images()), Simulator(graph, threads=1).run(images(), keep="all").outputs):
        np.testing.assert_array_equal(codes["out"], expected)


def window(padding: Padding, kernel: Any, stride: Any, dilation: Any, out: TensorSpec) -> Any:
    """What convolutions and pools have in common; `out` but for its size."""
    size = pooled_size(SHAPE[:2], kernel, stride, padding, dilation)
    spec = replace(out, shape=(*size, *out.shape))
    return {"name": "op", "inputs": ("in",), "stride": stride, "padding": padding, "out": spec}


@pytest.mark.parametrize("padding", [*SIDES, Padding(top=9, right=4)], ids=str)
@pytest.mark.parametrize(("kernel", "stride", "dilation"), KERNELS)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_convolution(padding: Padding, kernel: Any, stride: Any, dilation: Any, groups: int) -> None:
    weight = np.random.default_rng(groups).integers(-127, 128, (8, *kernel, 4 // groups))
    kind = accumulator_type(weight, U8)
    op = Conv2d(
        **window(padding, kernel, stride, dilation, TensorSpec(shape=(8,), type=kind)),
        weight=weight,
        weight_type=IntType(bits=8, signed=True),
        dilation=dilation,
        groups=groups,
    )
    real = torch.from_numpy(weight).double().permute(0, 3, 1, 2)
    assert_computes(op, functional.conv2d(torch_pad(padding), real, None, stride, 0, dilation, groups))


@pytest.mark.parametrize("padding", SIDES, ids=str)
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [k for k in KERNELS if k[2] == (1, 1)])
def test_pools(padding: Padding, kernel: Any, stride: Any, dilation: Any) -> None:
    common = window(padding, kernel, stride, dilation, TensorSpec(shape=(4,), type=U8, scale=1.0))
    largest = functional.max_pool2d(torch_pad(padding, -math.inf), kernel, stride)
    assert_computes(MaxPool(**common, kernel=kernel), largest)
    total = IntType(bits=(255 * math.prod(kernel)).bit_length(), signed=False)
    common = window(padding, kernel, stride, dilation, TensorSpec(shape=(4,), type=total))
    sums = functional.avg_pool2d(torch_pad(padding), kernel, stride, divisor_override=1)
    assert_computes(SumPool(**common, kernel=kernel), sums)


@pytest.mark.parametrize("padding", SIDES, ids=str)
@pytest.mark.parametrize("channels", [(0, 0), (3, 0), (1, 2)])
def test_pad(padding: Padding, channels: tuple[int, int]) -> None:
    shape = (*padding.padded((5, 7)), 4 + sum(channels))
    op = Pad(
        name="op",
        inputs=("in",),
        out=TensorSpec(shape=shape, type=U8, scale=1.0),
        padding=padding,
        before=channels[0],
        after=channels[1],
    )
    assert_computes(op, torch_pad(padding, channels=channels))
