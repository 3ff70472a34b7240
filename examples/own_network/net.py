"""Your own residual CNN: plain PyTorch, nothing of hwq in it.

Named on the command line as `examples/own_network/net.py:make`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """Depthwise 3x3, pointwise 1x1, and the input added back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.depthwise(x)))
        return torch.relu(self.norm2(self.pointwise(y)) + x)


class Net(nn.Module):
    """Stem, two residual blocks with max pooling between, linear."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 24, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(24)
        self.block1 = Residual(24)
        self.pool = nn.MaxPool2d(2)
        self.block2 = Residual(24)
        self.head = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = self.block2(self.pool(self.block1(x)))
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


def make(classes: int, channels: int) -> nn.Module:
    """Called by hwq with what the data holds."""
    return Net(channels, classes)
