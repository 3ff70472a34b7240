"""Copies and conversions that change nothing, and views of maps in any memory format."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hwq.errors import UnsupportedError
from hwq.quant import Policy, calibrate, prepare
from hwq.quant.tracing.trace import trace
from tests.quant.tracing.networks import SHAPE, Between, Net, both_modes

NOTHING: dict[str, Between] = {
    "clone": lambda net, x: x.clone(),
    "torch.clone": lambda net, x: torch.clone(x),
    "clone in a format": lambda net, x: x.clone(memory_format=torch.contiguous_format),
    "contiguous": lambda net, x: x.contiguous(),
    "channels last": lambda net, x: x.contiguous(memory_format=torch.channels_last),
    "float": lambda net, x: x.float(),
    "to float": lambda net, x: x.to(torch.float32),
    "to dtype": lambda net, x: x.to(dtype=x.dtype),
    "to its device": lambda net, x: x.to(x.device),
    "to a format": lambda net, x: x.to(memory_format=torch.channels_last),
    "to another's": lambda net, x: x.to(net.fc.weight),
    "type": lambda net, x: x.type(torch.float32),
    "type_as": lambda net, x: x.type_as(net.fc.weight),
    "all": lambda net, x: x.float().clone().contiguous().to(x.dtype),
}


FORMATS = ("channels last", "to a format")
"""The mean of another memory format adds in another order, so its last bits differ."""


@pytest.mark.parametrize("case", NOTHING)
def test_nothing_is_nothing(case: str) -> None:
    net = Net(NOTHING[case])
    module = trace(net, SHAPE)
    assert [n.name for n in module.graph.nodes] == ["x", "conv", "bn", "mean", "fc", "output"]
    images = torch.linspace(-2, 2, 5 * 3 * 64).sin().reshape(5, 3, 8, 8)
    for eager, traced in zip(both_modes(net, images), both_modes(module, images), strict=True):
        if case in FORMATS:
            torch.testing.assert_close(eager, traced)
        else:
            assert torch.equal(eager, traced)


def test_in_another_type_another_conversion_is_nothing() -> None:
    module = trace(Net(lambda net, x: x.double()).double(), SHAPE)
    assert [n.name for n in module.graph.nodes] == ["x", "conv", "bn", "mean", "fc", "output"]


REFUSED: dict[str, tuple[Between, str]] = {
    "half": (lambda net, x: x.half().float(), r"Tensor\.half is not supported"),
    "double": (lambda net, x: x.double().float(), r"Tensor\.double is not supported"),
    "detach": (lambda net, x: x.detach(), r"Tensor\.detach is not supported"),
    "a device by name": (lambda net, x: x.to("cpu"), r"Tensor\.to is not supported"),
    "other bits": (lambda net, x: x.view(torch.int32).view(torch.float32), r"x\.view is supported only"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_its_line(case: str) -> None:
    between, message = REFUSED[case]
    with pytest.raises(UnsupportedError, match=rf"'\w+' \(test_redundant\.py:\d+\): {message}"):
        prepare(Net(between), Policy(), SHAPE)


class Flat(nn.Module):
    """One linear layer for each way to flatten the same map of 4 x 6 x 6."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.heads = nn.ModuleList(nn.Linear(144, 3) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        a, b, c, d, e, f = self.heads
        sizes = (x.shape[0], x.size(1) * x.size(2) * x.size(3))
        return (
            a(x.view(x.size(0), -1))
            + b(x.view(-1, 144))
            + c(x.view(x.shape[0], 144))
            + d(x.view(sizes))
            + e(x.contiguous().view(x.size(0), -1))
            + f(x.view(x.size(0), 4, -1, 6).view(-1, 144))
        )


def test_views_take_maps_in_channels_last() -> None:
    torch.manual_seed(1)
    model = prepare(Flat(), Policy(), SHAPE)
    images = torch.randn(4, 3, 8, 8)
    calibrate(model, [images])
    plain = model(images)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    logits = model(images.contiguous(memory_format=torch.channels_last))
    logits.sum().backward()
    # the convolution of another memory format adds in another order
    torch.testing.assert_close(logits, plain, rtol=1e-4, atol=1e-4)
