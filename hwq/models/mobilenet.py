"""MobileNetV2 for 32x32 images: 2,383,050 parameters with conv shortcuts, 3 channels, 10 classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_SETTINGS = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""(expansion, channels, blocks, stride of the first block)"""


def _conv_norm(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    pad = kernel // 2
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=pad, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class InvertedResidual(nn.Module):
    """1x1 expand, depthwise 3x3, 1x1 project, each with BN, ReLU6 after the first two.

    shortcut 'conv': every stride-1 block adds a 1x1 conv + BN of its input. 'identity': the paper's,
    only where the channels are equal.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, shortcut: str) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.body = nn.Sequential(
            *_conv_norm(inputs, hidden),
            nn.ReLU6(inplace=True),
            *_conv_norm(hidden, hidden, 3, stride, hidden),
            nn.ReLU6(inplace=True),
            *_conv_norm(hidden, outputs),
        )
        self.shortcut: nn.Module | None = None
        if stride == 1 and shortcut == "conv":
            self.shortcut = nn.Sequential(*_conv_norm(inputs, outputs))
        elif stride == 1 and inputs == outputs:
            self.shortcut = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y if self.shortcut is None else y + self.shortcut(x)


class MobileNetV2(nn.Module):
    """Stem 3x3 stride 1, 17 inverted residuals, head 1x1 to 1280, average pool, linear."""

    def __init__(self, classes: int = 10, channels: int = 3, shortcut: str = "conv") -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv_norm(channels, 32, 3), nn.ReLU(inplace=True))
        blocks: list[nn.Module] = []
        width = 32
        for expansion, outputs, count, stride in _SETTINGS:
            for i in range(count):
                step = stride if i == 0 else 1
                blocks.append(InvertedResidual(width, outputs, step, expansion, shortcut))
                width = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(*_conv_norm(width, 1280), nn.ReLU(inplace=True))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(1280, classes)
        self.bit_entries = ("stem", *(f"blocks.{i}" for i in range(len(blocks))), "head", "linear")

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.blocks(self.stem(x)))
        logits: Tensor = self.linear(torch.flatten(self.pool(x), 1))
        return logits
