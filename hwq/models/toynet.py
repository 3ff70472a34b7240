"""ToyNet: ten depthwise blocks on 32x32 images, 203,626 parameters with 3 channels and 10 classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_STAGES = ((1, 16, 1), (3, 32, 2), (3, 32, 1), (3, 64, 2))
"""(blocks, channels, stride of the first block)"""


class ToyBlock(nn.Module):
    """identity + (depthwise 3x3, BN, 1x1 to 4x, ReLU, 1x1 back), none with a BN after the 1x1s.

    Where stride or channels change, first a BN on the input and a conv with kernel = stride.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.down: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, stride, stride=stride, bias=False)
            self.down = nn.Sequential(nn.BatchNorm2d(inputs), conv)
        self.depthwise = nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.expand = nn.Conv2d(outputs, 4 * outputs, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.reduce = nn.Conv2d(4 * outputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        y = self.bn(self.depthwise(x))
        out: Tensor = x + self.reduce(self.relu(self.expand(y)))
        return out


class ToyNet(nn.Module):
    """Stem 3x3 + BN, four stages of `ToyBlock`s, header 1x1 to 512 + BN, average pool, linear."""

    def __init__(self, classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        blocks: list[nn.Module] = []
        width = 16
        for count, outputs, stride in _STAGES:
            for i in range(count):
                blocks.append(ToyBlock(width, outputs, stride if i == 0 else 1))
                width = outputs
        self.blocks = nn.Sequential(*blocks)
        self.header = nn.Sequential(nn.Conv2d(width, 512, 1, bias=False), nn.BatchNorm2d(512))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(512, classes)
        self.bit_entries = ("stem", *(f"blocks.{i}" for i in range(len(blocks))), "header", "linear")

    def forward(self, x: Tensor) -> Tensor:
        x = self.header(self.blocks(self.stem(x)))
        logits: Tensor = self.linear(torch.flatten(self.pool(x), 1))
        return logits
