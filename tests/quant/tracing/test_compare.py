"""Two networks compared: what counts as equal, which difference is named, and that nothing stays changed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hwq.quant.tracing.compare import difference, random_images

SHAPE = (6, 6, 2)


class Net(nn.Module):
    """conv - bn - dropout - `between` - linear."""

    def __init__(self, between: Callable[[nn.Module, Tensor], Tensor] = lambda net, x: torch.relu(x)) -> None:
        super().__init__()
        self.conv, self.bn, self.drop = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.fc = nn.Linear(4, 3)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(self, self.drop(self.bn(self.conv(x))))
        return self.fc(x.mean((2, 3)))


def pair(between: Callable[[nn.Module, Tensor], Tensor]) -> tuple[Net, Net]:
    torch.manual_seed(7)
    left, right = Net(), Net(between)
    right.load_state_dict(left.state_dict())
    return left, right


def images(net: nn.Module) -> Tensor:
    return random_images(net, SHAPE, 3)


def test_equal_networks_are_equal_in_both_modes() -> None:
    left, right = pair(lambda net, x: x.clamp(min=0))
    assert difference(left, right, images(left)) is None
    assert difference(left, left, images(left)) is None


DIFFERENT: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], str]] = {
    "a function": (lambda net, x: x, "in evaluation, what 'fc' reads differs"),
    "one bit": (lambda net, x: torch.relu(x) * (1 + 2**-23), "in evaluation, what 'fc' reads differs"),
    "in training": (
        lambda net, x: x if net.training else torch.relu(x),
        "in training, what 'fc' reads differs",
    ),
    "drawn numbers": (
        lambda net, x: torch.relu(x + 0 * torch.rand(1)),
        "in evaluation, how many random numbers are drawn differs",
    ),
    "nan": (lambda net, x: torch.relu(x) / 0, "in evaluation, what 'fc' reads differs"),
}


@pytest.mark.parametrize(("between", "message"), DIFFERENT.values(), ids=DIFFERENT)
def test_the_first_difference_is_named(between: Callable[[nn.Module, Tensor], Tensor], message: str) -> None:
    left, right = pair(between)
    assert str(difference(left, right, images(left))) == message


def test_a_module_that_computes_something_else_is_named() -> None:
    left, right = pair(lambda net, x: torch.relu(x))
    right.bn.eps *= 2
    assert str(difference(left, right, images(left))) == "in evaluation, what 'bn' returns differs"


def test_state_afterwards_counts() -> None:
    left, right = pair(lambda net, x: torch.relu(x))
    right.bn.momentum = 0.2
    found = difference(left, right, images(left))
    assert str(found) == "in training, 'bn.running_mean' after a forward pass differs"


def test_equal_nans_are_equal() -> None:
    left, right = pair(lambda net, x: torch.relu(x))
    for net in (left, right):
        net.fc.weight.data[0, 0] = float("nan")
    assert difference(left, right, images(left)) is None
    right.fc.weight.data[1, 0] = float("nan")
    assert str(difference(left, right, images(left))) == "in evaluation, what 'fc' returns differs"


def test_the_bound_is_relative_to_the_largest_value() -> None:
    left, right = pair(lambda net, x: torch.relu(x))
    with torch.no_grad():
        for net in (left, right):
            net.double().fc.weight.zero_()
            net.fc.bias.copy_(torch.tensor([8.0, 1.0, 0.0]))
        right.fc.bias[2] = 2.0**-40
    found = difference(left, right, images(left))
    assert found is not None
    assert found.error == 2.0**-43
    assert difference(left, right, images(left), bound=2.0**-43) is None
    assert difference(left, right, images(left), bound=2.0**-44) is not None


def test_results_may_be_packed_differently() -> None:
    left, right = pair(lambda net, x: torch.relu(x))

    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = right

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.net(x)}

    assert difference(left, Packed(), images(left)) is None


class Restless(Net):
    """Changes all that a forward can reach."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.bn.running_mean = torch.ones(4)
        self.fc.weight.data.mul_(2)
        self.drop.eval()
        return super().forward(x)


def test_nothing_stays_changed() -> None:
    torch.manual_seed(3)
    net = Restless().train()
    net.bn.eval()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    held = {name: id(tensor) for name, tensor in (*net.named_parameters(), *net.named_buffers())}
    modes = [m.training for m in net.modules()]
    generator = torch.get_rng_state()
    batch = images(net)
    kept = batch.clone()
    assert difference(net, net, batch) is None
    assert torch.equal(batch, kept)
    assert torch.equal(torch.get_rng_state(), generator)
    assert [m.training for m in net.modules()] == modes
    assert {name: id(tensor) for name, tensor in (*net.named_parameters(), *net.named_buffers())} == held
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert all(p.grad is None for p in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_nothing_stays_changed_after_a_failure() -> None:
    class Failing(Restless):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / ZeroDivisionError  # type: ignore[operator]

    net = Failing()
    with pytest.raises(TypeError):
        difference(net, net, images(net))
    assert int(net.calls) == 0
    assert net.drop.training
