"""Small networks whose forward is a function, for the tests of tracing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

SHAPE = (8, 8, 3)
"""(H, W, C) of their images."""

Between = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """conv - bn - `between` on a map of 4 x 6 x 6 - global average - linear.

    Further modules: a second convolution and its batch norm, and one of each kind that works in place.
    """

    conv: nn.Conv2d
    bn: nn.BatchNorm2d

    def __init__(self, between: Between, **parts: nn.Module) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu, self.relu6 = nn.ReLU(inplace=True), nn.ReLU6(inplace=True)
        self.plain, self.same = nn.ReLU(), nn.Identity()
        self.drop, self.drop_ = nn.Dropout(0.5), nn.Dropout(0.5, inplace=True)
        self.fc = nn.Linear(4, 3)
        self.between = between
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.between(self, self.bn(self.conv(x))).mean((2, 3)))

    def side(self, x: Tensor) -> Tensor:
        """The second convolution with its batch norm: a fresh tensor."""
        return self.bn2(self.conv2(x))


def statement(do: Callable[[Net, Tensor], object]) -> Between:
    """A call whose result nobody takes."""

    def between(net: Net, x: Tensor) -> Tensor:
        do(net, x)
        return x

    return between


def both_modes(net: nn.Module, images: Tensor, seed: int = 5) -> tuple[Tensor, Tensor]:
    """Results in evaluation and in training, with the statistics put back."""
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    results = []
    for training in (False, True):
        torch.manual_seed(seed)
        with torch.no_grad():
            results.append(net.train(training)(images.clone()))
    net.load_state_dict(state)
    return results[0], results[1]
