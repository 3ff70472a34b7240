"""A network of everything that training touches, small enough for many short runs."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import parametrizations


class Tiny(nn.Module):
    """conv - BN - ReLU, a residual conv - BN, ReLU, dropout, average pool, linear."""

    def __init__(self, classes: int, drop: float) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu1 = nn.ReLU()
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.relu2 = nn.ReLU()
        self.drop = nn.Dropout(drop)
        self.pool = nn.AvgPool2d(4)
        self.linear = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.stem(x)))
        x = self.relu2(self.bn2(self.conv(x)) + x)
        return self.linear(self.pool(self.drop(x)).flatten(1))


def make(classes: int = 10) -> nn.Module:
    return Tiny(classes, 0.0)


def dropping(classes: int = 10) -> nn.Module:
    return Tiny(classes, 0.3)


class NamedLikeQuantisers(nn.Module):
    """Layers whose names end as those of quantisers do."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.pre_quant = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.norm_quant = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.pool = nn.AvgPool2d(4)
        self.post_quant = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm_quant(self.pre_quant(x)))
        return self.post_quant(self.pool(x).flatten(1))


def named_like_quantisers(classes: int = 10) -> nn.Module:
    return NamedLikeQuantisers(classes)


class Softened(nn.Module):
    """A weight that is computed, a softmax after the logits, a dict around it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = parametrizations.weight_norm(nn.Conv2d(1, 4, 3))
        self.fc = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y: Tensor = self.conv(x).relu().mean(-1).mean(-1)
        return {"p": self.fc(y).softmax(1)}


def softened() -> nn.Module:
    return Softened()
