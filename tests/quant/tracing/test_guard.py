"""A trace that lost something is found out, and the module named."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from hwq.errors import UnsupportedError
from hwq.models import build
from hwq.quant.tracing import trace as tracing
from hwq.quant.tracing.guard import check
from hwq.quant.tracing.trace import trace
from tests.quant.tracing.networks import SHAPE, Between, Net


def block(net: Net, x: Tensor) -> Tensor:
    y = net.side(net.plain(x))
    y = net.drop(y)
    return torch.relu(x + y)


def lose_relu(module: fx.GraphModule, node: fx.Node) -> None:
    if node.target == "plain":
        node.replace_all_uses_with(node.args[0])


def swap_operand(module: fx.GraphModule, node: fx.Node) -> None:
    if node.name == "add":
        node.args = (node.args[1], node.args[1])


def lose_dropout(module: fx.GraphModule, node: fx.Node) -> None:
    if node.target == "drop":
        node.replace_all_uses_with(node.args[0])


def lose_norm(module: fx.GraphModule, node: fx.Node) -> None:
    if node.target == "bn2":
        node.replace_all_uses_with(node.args[0])


MUTANTS = {
    lose_relu: "in evaluation, what 'conv2' reads differs",
    swap_operand: "in evaluation, what 'fc' reads differs",
    lose_norm: "in evaluation, what 'drop' reads differs",
    lose_dropout: "in training, what 'fc' reads differs",
}


@pytest.mark.parametrize("mutate", MUTANTS)
def test_a_wrong_trace_is_found(mutate: object) -> None:
    net = Net(block)
    net.bn2.running_mean.fill_(0.25)  # type: ignore[union-attr,operator]
    module = trace(net, SHAPE)
    check(net, module, SHAPE)
    for node in list(module.graph.nodes):
        mutate(module, node)  # type: ignore[operator]
    module.recompile()
    message = rf"'Net': the traced network is not this network: {MUTANTS[mutate]}; its forward"  # type: ignore[index]
    with pytest.raises(UnsupportedError, match=message):
        check(net, module, SHAPE)


def test_the_trace_asks_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass of the tracing that breaks the network does not get through."""
    monkeypatch.setattr(tracing, "_views", lambda graph: swap(graph))

    def swap(graph: fx.Graph) -> None:
        add = next(n for n in graph.nodes if n.name == "add")
        add.args = (add.args[1], add.args[1])

    with pytest.raises(UnsupportedError, match="what 'fc' reads differs"):
        trace(Net(block), SHAPE)


def test_the_first_module_is_named_in_a_deep_network() -> None:
    torch.manual_seed(0)
    net = build("resnet20", (32, 32, 3), 10)
    module = trace(net, (32, 32, 3))
    norms = [n for n in module.graph.nodes if "bn" in str(n.target)]
    norms[7].replace_all_uses_with(norms[7].args[0])
    module.recompile()
    reader = next(iter(norms[7].args[0].users))
    with pytest.raises(UnsupportedError, match=r"in evaluation, what '(.*)' reads differs") as caught:
        check(net, module, (32, 32, 3))
    assert reader is norms[7]
    path = str(caught.value).split("what '")[1].split("'")[0]
    order = [str(n.target) for n in module.graph.nodes if n.op == "call_module"]
    assert order.index(path) == order.index(str(norms[7].target)) + 1


def skipped(net: Net, x: Tensor) -> Tensor:
    return x if torch.rand(1) < 0.5 else torch.relu(x)


def drawn(net: Net, x: Tensor) -> Tensor:
    random.random()
    return torch.relu(x)


def drawn_by_numpy(net: Net, x: Tensor) -> Tensor:
    np.random.rand()
    return torch.relu(x)


DRAWN = "in evaluation, how many random numbers are drawn differs"
UNSEEN: dict[str, tuple[Between, str]] = {
    "torch": (skipped, DRAWN),
    "Python": (drawn, DRAWN),
    "numpy": (drawn_by_numpy, DRAWN),
    "a type": (lambda net, x: torch.relu(x) if isinstance(x, Tensor) else x, "what 'fc' reads differs"),
}


@pytest.mark.parametrize("case", UNSEEN)
def test_what_a_trace_cannot_see(case: str) -> None:
    between, message = UNSEEN[case]
    net = Net(between)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[union-attr]
    with pytest.raises(UnsupportedError, match=rf"the traced network is not this network: .*{message}"):
        trace(net, SHAPE)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[union-attr]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_a_network_that_remembers() -> None:
    class Alternating(Net):
        def __init__(self) -> None:
            super().__init__(lambda net, x: torch.relu(x) if net.calls > 2 else x)  # type: ignore[operator]
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x)

    with pytest.raises(UnsupportedError, match="what 'fc' reads differs"):
        trace(Alternating(), SHAPE)


def test_nothing_of_the_network_changes() -> None:
    torch.manual_seed(2)
    net = Net(block).train()
    net.bn2.eval()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    held = [id(t) for t in (*net.parameters(), *net.buffers())]
    trace(net, SHAPE)
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert [id(t) for t in (*net.parameters(), *net.buffers())] == held
    assert (net.training, net.bn.training, net.bn2.training) == (True, True, False)


def test_numbers_that_are_none_are_equal() -> None:
    net = Net(block)
    nn.init.constant_(net.fc.weight, float("nan"))
    trace(net, SHAPE)


def test_it_costs_little() -> None:
    """A ResNet-20 on CIFAR's images: well below a second; generous here, as machines are busy."""
    net = build("resnet20", (32, 32, 3), 10)
    module = trace(net, (32, 32, 3))
    start = time.process_time()
    check(net, module, (32, 32, 3))
    assert time.process_time() - start < 5
