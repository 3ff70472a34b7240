"""What works in place: traced, it computes what eager torch computes, or it is refused with its line."""

from __future__ import annotations

import operator
import re

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from hwq.errors import UnsupportedError
from hwq.quant import Policy, prepare
from hwq.quant.tracing.pure import in_place
from hwq.quant.tracing.trace import trace
from tests.quant.tracing.networks import SHAPE, Between, Net, both_modes, statement

IMAGES = torch.linspace(-2, 2, 5 * 3 * 64).sin().mul(3).reshape(5, 3, 8, 8)


def added(net: Net, x: Tensor) -> Tensor:
    identity = x
    x += net.side(x)
    return torch.relu(x + identity)


def added_twice(net: Net, x: Tensor) -> Tensor:
    first = x
    x += net.side(x)
    second = x
    x += net.side(x)
    return torch.relu(first + second + x)


def block(net: Net, x: Tensor) -> Tensor:
    identity = x
    x = net.side(x)
    x += identity
    net.relu(x)
    return x


def by_method(net: Net, x: Tensor) -> Tensor:
    y = net.side(x)
    y.add_(x)
    return y.relu_()


def into_out(net: Net, x: Tensor) -> Tensor:
    y = net.side(x)
    torch.add(y, x, out=y)
    return torch.relu(y)


def through_identity(net: Net, x: Tensor) -> Tensor:
    y = net.same(x)
    y.relu_()
    return net.side(x) + y


def a_copy(net: Net, x: Tensor) -> Tensor:
    y = x.clone()
    y.relu_()
    return net.side(x) + y


def read_before(net: Net, x: Tensor) -> Tensor:
    y = net.side(x)
    x.relu_()
    return x + y


def used_and_read(net: Net, x: Tensor) -> Tensor:
    return net.relu(x) + net.side(x)


def dropped_in_place(net: Net, x: Tensor) -> Tensor:
    y = net.drop_(x)
    return net.side(x) + y


def swapped(net: Net, x: Tensor) -> Tensor:
    y = net.side(x)
    x.relu_()
    y += x
    x += y
    return torch.relu(x + y)


def a_vector(net: Net, x: Tensor) -> Tensor:
    y = x.flatten(1)
    y.relu_()
    return y.view(x.size(0), 4, 6, 6)


EXACT: dict[str, Between] = {
    "x.relu_()": statement(lambda net, x: x.relu_()),
    "F.relu_": statement(lambda net, x: F.relu_(x)),
    "torch.relu_": statement(lambda net, x: torch.relu_(x)),
    "F.relu inplace": statement(lambda net, x: F.relu(x, inplace=True)),
    "F.relu by position": statement(lambda net, x: F.relu(x, True)),
    "F.relu6 inplace": statement(lambda net, x: F.relu6(x, inplace=True)),
    "a module": statement(lambda net, x: net.relu(x)),
    "ReLU6": statement(lambda net, x: net.relu6(x)),
    "two": statement(lambda net, x: (x.relu_(), net.relu(x))),
    "dropout": statement(lambda net, x: net.drop_(x)),
    "F.dropout": statement(lambda net, x: F.dropout(x, 0.5, net.training, inplace=True)),
    "not in place": statement(lambda net, x: torch.relu(x)),
    "y += x": block,
    "y.add_": by_method,
    "out": into_out,
    "aliased": added,
    "aliased twice": added_twice,
    "identity": through_identity,
    "clone": a_copy,
    "read before": read_before,
    "result and input": used_and_read,
    "dropout's input": dropped_in_place,
    "chained": swapped,
    "a vector": a_vector,
    "dead": lambda net, x: (net.side(x).relu_(), x.relu_())[1],
}


@pytest.mark.parametrize("case", EXACT)
def test_traced_as_in_eager_torch(case: str) -> None:
    net = Net(EXACT[case])
    module = trace(net, SHAPE)
    assert not [n for n in module.graph.nodes if in_place(module, n)]
    for eager, traced in zip(both_modes(net, IMAGES), both_modes(module, IMAGES), strict=True):
        assert torch.equal(eager, traced)
    assert net.relu.inplace  # the user's own module is left alone


MAYBE = ("identity", "clone")
"""Without an image: whether these copy, a name does not say."""


@pytest.mark.parametrize("case", EXACT)
def test_without_an_image_names_decide(case: str) -> None:
    net = Net(EXACT[case])
    if case in MAYBE:
        with pytest.raises(UnsupportedError, match=r"'\w+' \(test_inplace\.py:\d+\): works in place"):
            trace(net)
        return
    module = trace(net)
    for eager, traced in zip(both_modes(net, IMAGES), both_modes(module, IMAGES), strict=True):
        assert torch.equal(eager, traced)


def test_names_alone_would_not_do() -> None:
    """torch.fx records `x += y` as a sum: what else has the name x then keeps the old values."""
    differ = set()
    for case, between in EXACT.items():
        net = Net(between).eval()
        with torch.no_grad():
            if not torch.equal(net(IMAGES.clone()), fx.symbolic_trace(net).eval()(IMAGES.clone())):
                differ.add(case)
    assert differ == {"aliased", "aliased twice"}


def view_then_source(net: Net, x: Tensor) -> Tensor:
    x.flatten(2).relu_()
    return net.side(x)


def source_then_view(net: Net, x: Tensor) -> Tensor:
    y = x.flatten(2)
    x.relu_()
    return net.side(x) + y.view(x.shape)


def slice_of(net: Net, x: Tensor) -> Tensor:
    x[:, :2].relu_()
    return x


def after_dropout(net: Net, x: Tensor) -> Tensor:
    y = net.drop(x)
    y.relu_()
    return x + y


def assigned(net: Net, x: Tensor) -> Tensor:
    x[:, 0] = 0
    return x


def detached(net: Net, x: Tensor) -> Tensor:
    x.data.relu_()
    return x


REFUSED: dict[str, tuple[Between, str]] = {
    "a view was changed": (view_then_source, "works in place on a tensor of which another view is read"),
    "the source was changed": (source_then_view, "works in place on a tensor of which another view is read"),
    "a slice": (slice_of, "works in place on a tensor of which another view is read"),
    "data": (detached, "works in place on a tensor of which another view is read"),
    "contiguous": (
        lambda net, x: (lambda y: (y.relu_(), x + y)[1])(x.contiguous()),
        "works in place on a tensor of which another view is read",
    ),
    "dropout copies in training": (after_dropout, "was changed in place: in training that is a copy"),
    "setitem": (assigned, "assigns to a part of a tensor"),
    "mul_": (statement(lambda net, x: x.mul_(2)), r"Tensor\.mul is not supported"),
    "zero_": (statement(lambda net, x: x.zero_()), r"Tensor\.zero_ is not supported"),
    "copy_": (statement(lambda net, x: x.copy_(net.side(x))), r"Tensor\.copy_ is not supported"),
    "isub": (statement(lambda net, x: operator.isub(x, net.side(x))), "sub is not supported"),
    "out of another op": (statement(lambda net, x: torch.mul(x, x, out=x)), "mul is not supported"),
    "a buffer": (
        statement(lambda net, x: net.bn.running_mean.add_(x.mean())),  # type: ignore[union-attr,operator]
        r"changes 'bn\.running_mean' in place",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_its_line(case: str) -> None:
    between, message = REFUSED[case]
    with pytest.raises(UnsupportedError, match=message) as caught:
        prepare(Net(between), Policy(), SHAPE)
    text = str(caught.value)
    assert "\n" not in text
    assert re.match(r"'[\w.]+' \(test_inplace\.py:\d+\): ", text), text


def test_a_function_of_a_user_that_hides_an_in_place_call_counts() -> None:
    """What a leaf does in its own code is seen by what happens to memory, not by names."""

    class Hidden(nn.ReLU):
        def forward(self, x: Tensor) -> Tensor:
            x.add_(1)
            return x

    with pytest.raises(UnsupportedError, match="has a forward of its own"):
        prepare(Net(statement(lambda net, x: net.act(x)), act=Hidden()), Policy(), SHAPE)  # type: ignore[operator]
