"""Two small networks: a residual CNN for 8x8 digits, and a perceptron."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hwq.models.resnet import Block


class DigitsNet(nn.Module):
    """Stem 3x3 + BN + ReLU, three residual blocks (16, 32, 32 channels), average pool, linear."""

    def __init__(self, classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.block1 = Block(16, 16, 1, "A")
        self.block2 = Block(16, 32, 2, "B")
        self.block3 = Block(32, 32, 1, "B")
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.stem(x)))
        x = self.block3(self.block2(self.block1(x)))
        logits: Tensor = self.linear(torch.flatten(self.pool(x), 1))
        return logits


class MLP(nn.Module):
    """Flatten, two hidden layers with BN and ReLU, linear."""

    def __init__(self, features: int, classes: int = 10, hidden: int = 128) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(features, hidden, bias=False)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.relu1 = nn.ReLU(inplace=True)
        self.fc2 = nn.Linear(hidden, hidden, bias=False)
        self.bn2 = nn.BatchNorm1d(hidden)
        self.relu2 = nn.ReLU(inplace=True)
        self.fc3 = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.fc1(self.flatten(x))))
        x = self.relu2(self.bn2(self.fc2(x)))
        logits: Tensor = self.fc3(x)
        return logits
