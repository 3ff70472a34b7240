"""What tracing must not lose: dropout's mode, a layer's own forward, hooks, the line of the user's code."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import mobilenet_v3_small

from hwq.errors import UnsupportedError
from hwq.quant import Policy, prepare
from hwq.quant.fixedpoint.folded import FoldedNetwork
from hwq.quant.tracing.trace import trace
from hwq.train.fixedpoint import FixedPoint

SHAPE = (8, 8, 3)
IMAGES = torch.linspace(-1, 1, 2 * 3 * 64).reshape(2, 3, 8, 8)


class Net(nn.Module):
    """conv - `between` - pool - linear."""

    def __init__(
        self, between: Callable[[nn.Module, torch.Tensor], torch.Tensor], **parts: nn.Module
    ) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
        self.between = between
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.between(self, self.conv(x)).mean((2, 3)))


DROPS: dict[str, Callable[[nn.Module, torch.Tensor], torch.Tensor]] = {
    "mode of the network": lambda net, x: F.dropout(x, 0.5, net.training),
    "by names": lambda net, x: F.dropout(input=x, p=0.5, training=net.training, inplace=False),
    "whole channels": lambda net, x: F.dropout2d(x, p=0.5, training=net.training),
    "two": lambda net, x: F.dropout(F.dropout(x, 0.5, net.training), 0.1, net.training),
}


@pytest.mark.parametrize("drop", DROPS.values(), ids=DROPS)
@pytest.mark.parametrize("training", [True, False])
def test_dropout_by_function_follows_the_mode_of_the_network(
    drop: Callable[[nn.Module, torch.Tensor], torch.Tensor], training: bool
) -> None:
    net = Net(drop, dropout=nn.Identity()).train(training)  # a name that torch.fx would give the node
    module = trace(net, SHAPE)
    assert module.training is net.training is training
    plain = Net(lambda net, x: x)
    plain.load_state_dict(net.state_dict())
    module.eval()
    assert torch.equal(module(IMAGES), plain.eval()(IMAGES))
    assert module.state_dict().keys() == net.state_dict().keys()
    module.train()
    assert not torch.equal(module(IMAGES), module(IMAGES))


@pytest.mark.parametrize("shape", [SHAPE, None])
def test_dropout_in_evaluation_is_refused_and_none_in_training_is_nothing(
    shape: tuple[int, int, int] | None,
) -> None:
    with pytest.raises(UnsupportedError, match=r"'dropout' \(test_tracing.py:\d+\): dropout drops in eval"):
        trace(Net(lambda net, x: F.dropout(x)), shape)
    module = trace(Net(lambda net, x: F.dropout(x, 0.5, training=False)), shape)
    assert [n.name for n in module.graph.nodes] == ["x", "conv", "mean", "fc", "output"]


def test_modes_of_single_modules_stay() -> None:
    net = Net(lambda net, x: net.bn(x), bn=nn.BatchNorm2d(4))  # type: ignore[operator]
    net.bn.eval()  # type: ignore[union-attr]
    module = trace(net, SHAPE)
    assert (net.training, net.bn.training, module.training) == (True, False, True)  # type: ignore[union-attr]


def test_a_forward_that_asks_for_the_mode_is_refused() -> None:
    net = Net(lambda net, x: torch.relu(x) if net.training else x)
    with pytest.raises(
        UnsupportedError, match=r"'relu' \(test_tracing.py:\d+\): .* training and in evaluation"
    ):
        trace(net, SHAPE)


class NormAct(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(super().forward(x))


class Leaky(nn.ReLU):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, x, 0.1 * x)


class Named(nn.BatchNorm2d):
    """Nothing of its own."""


@pytest.mark.parametrize("layer", [NormAct(4), Leaky()])
def test_a_layer_with_a_forward_of_its_own_is_not_the_layer(layer: nn.Module) -> None:
    net = Net(lambda net, x: net.act(x), act=layer)  # type: ignore[operator]
    with pytest.raises(UnsupportedError, match=r"'act' \(.*\): \w+ has a forward of its own"):
        prepare(net, Policy(), SHAPE)


def test_one_without_is() -> None:
    prepare(Net(lambda net, x: net.bn(x), bn=Named(4)), Policy(), SHAPE)  # type: ignore[operator]


def test_a_forward_put_on_a_layer_is_refused() -> None:
    net = Net(lambda net, x: net.act(x), act=nn.ReLU())  # type: ignore[operator]
    net.act.forward = lambda x: 2 * x  # type: ignore[union-attr,assignment,method-assign]
    with pytest.raises(UnsupportedError, match="forward of its own"):
        prepare(net, Policy(), SHAPE)


@pytest.mark.parametrize("hook", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_are_refused(hook: str) -> None:
    net = Net(lambda net, x: x)
    getattr(net.conv, hook)(lambda *_: None)
    with pytest.raises(UnsupportedError, match="'conv': has forward hooks"):
        prepare(net, Policy(), SHAPE)


READS: dict[str, Callable[[torch.Tensor], object]] = {
    "one size": lambda x: x.size(2),
    "of all sizes": lambda x: x.size()[3],
    "of the shape": lambda x: x.shape[-1],
    "two": lambda x: (x.shape[2], x.size(3)),
    "a slice": lambda x: x.shape[2:],
    "a slice of all sizes": lambda x: x.size()[-2:],
    "a slice up to the last": lambda x: x.shape[2 : x.dim()],
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_sizes_that_the_code_reads_are_constants(read: Callable[[torch.Tensor], object]) -> None:
    net = Net(lambda net, x: F.avg_pool2d(x, read(x)))  # type: ignore[arg-type]
    graph = trace(net, SHAPE).graph
    assert [n.name for n in graph.nodes if n.op != "output"] == ["x", "conv", "avg_pool2d", "mean", "fc"]
    (pool,) = (n for n in graph.nodes if n.name == "avg_pool2d")
    assert pool.args[1] in (6, (6, 6))
    model = prepare(net, Policy(), SHAPE)
    FoldedNetwork(model, FixedPoint(format="16,8").formats(), (0.5,) * 3, (0.5,) * 3)


def test_the_name_of_the_image_quantiser_is_taken() -> None:
    net = Net(lambda net, x: net.input_quant(x), input_quant=nn.ReLU())  # type: ignore[operator]
    with pytest.raises(UnsupportedError, match="'input_quant' is the image's quantiser"):
        prepare(net, Policy(), SHAPE)


def _helper(x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x)


def test_the_innermost_line_of_the_users_code_is_named() -> None:
    net = Net(lambda net, x: _helper(x))
    line = inspect.getsourcelines(_helper)[1] + 1
    with pytest.raises(UnsupportedError, match=rf"\(test_tracing.py:{line}\): tanh"):
        prepare(net, Policy(), SHAPE)


def test_no_line_is_named_where_no_user_wrote_one() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(144, 3))
    with pytest.raises(UnsupportedError, match=r"^'1': GELU is not supported"):
        prepare(net, Policy(), SHAPE)


def test_an_unknown_op_comes_before_a_forward_of_two_modes() -> None:
    net = Net(lambda net, x: torch.relu(x) if net.training else torch.tanh(x))
    with pytest.raises(UnsupportedError, match="tanh is not supported"):
        trace(net, SHAPE)


def test_torchvision_is_a_users_code() -> None:
    with pytest.raises(UnsupportedError, match=r"^'features.0.2' \(mobilenetv3.py:\d+\): Hardswish"):
        prepare(mobilenet_v3_small(num_classes=3), Policy(), (32, 32, 3))
