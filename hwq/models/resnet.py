"""CIFAR ResNets (He et al. 2016, section 4.2), with the two shortcut options. No conv has a bias."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class OptionA(nn.Module):
    """Parameter-free shortcut: every second pixel, zero channels around (numerics: code 0)."""

    def __init__(self, stride: int, before: int, after: int) -> None:
        super().__init__()
        self.stride, self.before, self.after = stride, before, after

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(x, (0, 0, 0, 0, self.before, self.after))


class Block(nn.Module):
    """conv-BN-ReLU-conv-BN, plus the shortcut, ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, option: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Sequential()
        if stride != 1 or inputs != outputs:
            extra = outputs - inputs
            self.shortcut = (
                OptionA(stride, extra // 2, extra - extra // 2)
                if option == "A"
                else nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
                )
            )
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: Tensor = self.relu2(y + self.shortcut(x))
        return out


class ResNet(nn.Module):
    """6n + 2 layers: stem, three stages of n blocks (16, 32, 64 channels), average pool, linear.

    Layer names are those of the widely used public CIFAR ResNets, so their state dicts load.
    """

    def __init__(self, depth: int, option: str = "A", classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(16, 16, blocks, 1, option)
        self.layer2 = _stage(16, 32, blocks, 2, option)
        self.layer3 = _stage(32, 64, blocks, 2, option)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(m.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(torch.flatten(self.pool(x), 1))
        return logits


def _stage(inputs: int, outputs: int, blocks: int, stride: int, option: str) -> nn.Sequential:
    first = Block(inputs, outputs, stride, option)
    return nn.Sequential(first, *(Block(outputs, outputs, 1, option) for _ in range(blocks - 1)))
