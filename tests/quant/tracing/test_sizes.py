"""Sizes are known while tracing; the batch size, and what tensors hold, may decide nothing."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer

from hwq.errors import UnsupportedError
from hwq.quant import Policy, prepare
from hwq.quant.tracing.trace import trace
from tests.quant.tracing.networks import SHAPE, Between, Net, statement


def checked(net: Net, x: Tensor) -> Tensor:
    assert x.dim() == 4
    assert x.ndim == 4
    assert x.shape[1] == 4
    assert x.size(-1) == x.size(-2) == 6
    torch._assert(x.shape[1] == 4, "four channels")
    return x


def unpacked(net: Net, x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    assert (channels, height, width) == (4, 6, 6)
    assert batch == x.size(0) == x.shape[0]
    assert x.shape[1:].numel() == math.prod(x.size()[1:]) == 144
    return F.avg_pool2d(x, (height // 2, width // 2))


def compared(net: Net, x: Tensor) -> Tensor:
    y = net.side(x)
    return x + y if x.shape == y.shape and x.size() == y.size() else x


def branched(net: Net, x: Tensor) -> Tensor:
    if x.shape[2] > 4:
        x = torch.relu(x)
    while x.size(2) > 3:
        x = x[:, :, ::2, ::2]
    return x


def padded(net: Net, x: Tensor) -> Tensor:
    y = net.side(x)[:, :2]
    assert y.shape[1] == 2
    missing = x.size(1) - y.size(1)
    return x + F.pad(y, (0, 0, 0, 0, missing // 2, missing - missing // 2))


def pooled(net: Net, x: Tensor) -> Tensor:
    return F.avg_pool2d(x, x.shape[2:])


def of_a_type(net: Net, x: Tensor) -> Tensor:
    assert x.is_floating_point()
    return torch.relu(x) if x.dtype == net.fc.weight.dtype else x


def of_a_parameter(net: Net, x: Tensor) -> Tensor:
    return torch.relu(x) if net.fc.weight.shape[1] == x.shape[1] else x


def a_default(net: Net, x: Tensor, features: bool = False) -> Tensor:
    return x if features else torch.relu(x)


STATIC: dict[str, tuple[Between, list[str]]] = {
    "asserts": (checked, []),
    "unpacked": (unpacked, ["avg_pool2d"]),
    "compared": (compared, ["conv2", "bn2", "add"]),
    "branches": (branched, ["relu", "getitem"]),
    "arithmetic": (padded, ["conv2", "bn2", "getitem", "pad", "add"]),
    "a slice": (pooled, ["avg_pool2d"]),
    "of a type": (of_a_type, ["relu"]),
    "of a parameter": (of_a_parameter, ["relu"]),
    "a default": (a_default, ["relu"]),
    "parts of a result": (
        lambda net, x: torch.cat(list(x.chunk(2, 1)), 1),
        ["chunk", "getitem", "getitem_1", "cat"],
    ),
}


@pytest.mark.parametrize("case", STATIC)
def test_what_sizes_decide_is_decided(case: str) -> None:
    between, names = STATIC[case]
    nodes = list(trace(Net(between), SHAPE).graph.nodes)
    assert [n.name.removesuffix("_1") if len(names) < 4 else n.name for n in nodes[3:-3]] == names
    assert all(isinstance(a, int) for n in nodes if n.name == "avg_pool2d" for a in n.args[1])


def test_the_networks_own_default_is_taken() -> None:
    class WithFlag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net(lambda net, x: torch.relu(x))

        def forward(self, x: Tensor, features: bool = False, scale: float | None = None) -> Tensor:
            if features or scale is not None:
                return self.net.conv(x)
            return self.net(x)

    module = prepare(WithFlag(), Policy(), SHAPE)
    assert [n.name for n in module.graph.nodes if n.op == "placeholder"] == ["x"]


def value(net: Net, x: Tensor) -> Tensor:
    return x if x.max() > 0 else -x


def batched(net: Net, x: Tensor) -> Tensor:
    return x if x.size(0) > 1 else -x


def doubled(net: Net, x: Tensor) -> Tensor:
    return x if x.shape[0] * 2 == 4 else -x


BATCH, VALUES = "depends on the batch size", "depends on tensor values"
REFUSED: dict[str, tuple[Between, str]] = {
    "a value": (value, VALUES),
    "int of a value": (statement(lambda net, x: int(x.sum())), VALUES),
    "float of a value": (statement(lambda net, x: float(x[0, 0, 0, 0])), VALUES),
    "a value asserted": (statement(lambda net, x: torch._assert((x > 0).all(), "positive")), VALUES),
    "item": (statement(lambda net, x: range(x.sum().item())), VALUES),  # type: ignore[arg-type]
    "batch": (batched, BATCH),
    "batch arithmetic": (doubled, BATCH),
    "len": (lambda net, x: x if len(x) > 1 else -x, BATCH),
    "range": (lambda net, x: torch.stack([x[i] for i in range(x.size(0))]), BATCH),
    "numel": (lambda net, x: x if x.numel() > 10 else -x, BATCH),
    "of the whole shape": (lambda net, x: x if x.shape == (2, 4, 6, 6) else -x, BATCH),
    "loop": (lambda net, x: torch.stack(list(x)), "the images of a batch one by one"),
    "a failed assert": (
        statement(lambda net, x: torch._assert(x.shape[1] == 3, "colours, please")),
        "cannot trace this forward for images of 8 x 8 x 3: AssertionError: colours, please",
    ),
    "no such dimension": (statement(lambda net, x: x.size(4)), r"4 dimensions has no size\(4\)"),
    "a wrong size": (lambda net, x: net.fc(x), "the network does not take images of 8 x 8 x 3"),
    "one batch alone": (lambda net, x: x.view(2, 4, 6, 6), "fails for 3 images of 8 x 8 x 3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_its_line(case: str) -> None:
    between, message = REFUSED[case]
    with pytest.raises(UnsupportedError, match=message) as caught:
        trace(Net(between), SHAPE)
    text = str(caught.value)
    assert "\n" not in text
    assert re.search(r"'[\w.]+' \(test_sizes\.py:\d+\)", text), text


@pytest.mark.parametrize("between", [value, batched, branched], ids=["value", "batch", "size"])
def test_without_an_image_none_is_known(between: Between) -> None:
    with pytest.raises(UnsupportedError, match=r"\(test_sizes\.py:\d+\): .* on sizes, which are not"):
        trace(Net(between))


def test_a_transformer_is_refused_for_its_attention() -> None:
    network = VisionTransformer(32, 16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8, num_classes=3)
    with pytest.raises(UnsupportedError, match=r"self_attention' \(.*\): attention \(MultiheadAttention\)"):
        prepare(network, Policy(), (32, 32, 3))


def attention(net: Net, x: Tensor) -> Tensor:
    y = x.flatten(2)
    return F.scaled_dot_product_attention(y, y, y).unflatten(2, (6, 6))


def by_hand(net: Net, x: Tensor) -> Tensor:
    y = x.flatten(2)
    return ((y @ y.transpose(1, 2)).softmax(-1) @ y).unflatten(2, (6, 6))


@pytest.mark.parametrize(
    ("between", "what"), [(attention, "scaled_dot_product_attention"), (by_hand, "matmul")]
)
def test_attention_has_many_forms(between: Between, what: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"\(test_sizes\.py:\d+\): attention \({what}\)"):
        prepare(Net(between), Policy(), SHAPE)
