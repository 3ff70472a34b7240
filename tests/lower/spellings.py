"""One tiny network for every way to write an operation that respelling takes."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm

SHAPE = (8, 8, 3)
"""(H, W, C) of the images of all of them."""


class Net(nn.Module):
    """conv - BN - `body` - `head`; layers by name, so that a forward can be a lambda."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.side = nn.Conv2d(3, 4, 3, padding=1)
        self.next, self.fc = nn.Conv2d(4, 6, 3, padding=1), nn.Linear(6, 5)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.used = forward

    def forward(self, x: Tensor) -> Any:
        return self.used(self, x)

    def stem(self, x: Tensor) -> Tensor:
        """(N, 4, 8, 8), not activated, well beyond -1..2 once `randomised`."""
        y: Tensor = self.norm(self.conv(x))
        return y

    def head(self, x: Tensor) -> Tensor:
        """(N, 4, ...) -> (N, 5)."""
        y: Tensor = self.fc(self.next(x).mean((2, 3)))
        return y


def activated(act: Callable[[Tensor], Tensor]) -> Callable[[], Net]:
    """The activation between two convolutions."""
    return lambda: Net(lambda s, x: s.head(act(s.stem(x))))


def layered(layer: Callable[[], nn.Module]) -> Callable[[], Net]:
    """The same of a layer."""
    return lambda: Net(lambda s, x: s.head(s.act(s.stem(x))), act=layer())


def pooled(pool: Callable[[Tensor], Tensor]) -> Callable[[], Net]:
    """ReLU, then what makes vectors of maps, then a linear layer."""
    return lambda: Net(lambda s, x: s.fc(pool(F.relu(s.next(F.relu(s.stem(x)))))))


def ended(end: Callable[[Tensor], Any]) -> Callable[[], Net]:
    """What comes after the logits."""
    return lambda: Net(lambda s, x: end(s.head(F.relu(s.stem(x)))))


def built(change: Callable[[Net], object]) -> Callable[[], Net]:
    """A network whose layers were wrapped."""

    def make() -> Net:
        net = Net(lambda s, x: s.head(F.relu(s.stem(x))))
        change(net)
        return net

    return make


CLAMPS: dict[str, Callable[[], nn.Module]] = {
    "nn.ReLU": layered(nn.ReLU),
    "nn.ReLU6": layered(nn.ReLU6),
    "nn.Hardtanh(0, 6)": layered(lambda: nn.Hardtanh(0, 6)),
    "nn.Hardtanh(0, 1.5)": layered(lambda: nn.Hardtanh(0.0, 1.5)),
    "nn.Hardtanh()": layered(nn.Hardtanh),
    "nn.Threshold": layered(lambda: nn.Threshold(0, 0)),
    "nn.LeakyReLU(0)": layered(lambda: nn.LeakyReLU(0.0)),
    "torch.relu": activated(torch.relu),
    "torch.relu_": activated(torch.relu_),
    "F.relu": activated(F.relu),
    "F.relu in place": activated(lambda x: F.relu(x, inplace=True)),
    "x.relu": activated(lambda x: x.relu()),
    "x.relu_": activated(lambda x: x.relu_()),
    "F.relu6": activated(F.relu6),
    "F.relu6 by name": activated(lambda x: F.relu6(input=x, inplace=False)),
    "F.hardtanh(0, 6)": activated(lambda x: F.hardtanh(x, 0, 6)),
    "F.hardtanh by name": activated(lambda x: F.hardtanh(x, min_val=-0.5, max_val=1.25)),
    "F.threshold": activated(lambda x: F.threshold(x, 0, 0)),
    "torch.threshold": activated(lambda x: torch.threshold(x, 0, 0)),
    "F.leaky_relu(0)": activated(lambda x: F.leaky_relu(x, 0.0)),
    "torch.clamp(0, 6)": activated(lambda x: torch.clamp(x, 0, 6)),
    "torch.clamp by name": activated(lambda x: torch.clamp(x, min=0, max=0.75)),
    "torch.clip": activated(lambda x: torch.clip(x, 0, 1)),
    "torch.clamp_min": activated(lambda x: torch.clamp_min(x, 0)),
    "torch.clamp_max": activated(lambda x: torch.clamp_max(x, 1.5)),
    "x.clamp(min=0)": activated(lambda x: x.clamp(min=0)),
    "x.clamp(0)": activated(lambda x: x.clamp(0)),
    "x.clamp(0, 6)": activated(lambda x: x.clamp(0, 6)),
    "x.clamp_": activated(lambda x: x.clamp_(0, 2)),
    "x.clip": activated(lambda x: x.clip(0.0, 2.0)),
    "x.clip_": activated(lambda x: x.clip_(0.0, 2.0)),
    "x.clamp_min": activated(lambda x: x.clamp_min(0.0)),
    "x.clamp_min_": activated(lambda x: x.clamp_min_(0.0)),
    "x.clamp_max": activated(lambda x: x.clamp_max(1.0)),
    "x.clamp_max_": activated(lambda x: x.clamp_max_(1.0)),
    "min, then max": activated(lambda x: x.clamp(min=0).clamp(max=1.5)),
    "max, then min": activated(lambda x: F.relu(x.clamp_max(1.5))),
}
"""A clamp of sums."""

MOVED: dict[str, Callable[[], nn.Module]] = {
    "relu6 of relu": activated(lambda x: F.relu6(F.relu(x))),
    "relu of relu6": activated(lambda x: F.relu(F.relu6(x))),
    "clamp of dropout of relu": lambda: Net(
        lambda s, x: s.head(s.drop(F.relu(s.stem(x))).clamp(max=1.5)), drop=nn.Dropout(0.1)
    ),
    "relu6 of a max pool": activated(lambda x: F.hardtanh(F.max_pool2d(x, 2), 0, 1.5)),
    "relu6 of a max pool of relu": activated(lambda x: F.hardtanh(F.max_pool2d(F.relu(x), 2), 0, 1.5)),
    "relu of a max pool of relu6": activated(lambda x: F.relu(F.max_pool2d(F.relu6(x), 2))),
    "max pool of relu of a max pool": activated(lambda x: F.max_pool2d(F.relu(F.max_pool2d(x, 2)), 2)),
    "relu6 of an average pool": activated(lambda x: F.hardtanh(F.avg_pool2d(x, 2), 0, 0.75)),
    "average pool of relu6": activated(lambda x: F.avg_pool2d(F.relu6(x), 2)),
    "relu6 of concat": lambda: Net(
        lambda s, x: s.fc2(F.hardtanh(torch.cat([s.stem(x), s.side(x)], 1), 0, 1.5).mean((2, 3))),
        fc2=nn.Linear(8, 5),
    ),
    "max pool of relu6 of concat": lambda: Net(
        lambda s, x: s.fc2(
            F.max_pool2d(F.hardtanh(torch.cat([F.relu(s.stem(x)), s.side(x)], 1), 0, 1.5), 2).flatten(1)
        ),
        fc2=nn.Linear(8 * 16, 5),
    ),
    "relu6 of an addition": lambda: Net(
        lambda s, x: s.head(F.hardtanh(s.stem(x) + s.side(x), 0, 1.5)),
    ),
    "addition of moved clamps": lambda: Net(
        lambda s, x: s.head(F.max_pool2d(s.stem(x), 2).clamp(0, 1) + F.max_pool2d(s.side(x), 2).clamp(0, 2)),
    ),
    "concat of moved clamps": lambda: Net(
        lambda s, x: s.fc2(
            torch.cat([F.max_pool2d(s.stem(x), 2).clamp(0, 1), F.relu(F.max_pool2d(s.side(x), 2))], 1).mean(
                (2, 3)
            )
        ),
        fc2=nn.Linear(8, 5),
    ),
    "batch norm of relu6 of relu6": lambda: Net(
        lambda s, x: s.head(s.norm2(s.act(F.relu(s.act(s.stem(x)))))),
        act=nn.Hardtanh(0, 1.5),
        norm2=nn.BatchNorm2d(4),
    ),
    "clamped image": lambda: Net(lambda s, x: s.head(F.relu(s.stem(x.clamp(-1, 1))))),
    "clamped logits": lambda: Net(lambda s, x: s.head(F.relu(s.stem(x))).clamp(-0.5, 0.5)),
    "clamp below 0 of codes": activated(lambda x: F.max_pool2d(x, 2).clamp(-0.5, 1)),
}
"""A clamp of what moved, or of a clamp."""

POOLS: dict[str, Callable[[], nn.Module]] = {
    "nn.AdaptiveMaxPool2d(1)": lambda: Net(
        lambda s, x: s.fc(s.pool(F.relu(s.next(s.stem(x)))).flatten(1)), pool=nn.AdaptiveMaxPool2d(1)
    ),
    "nn.AdaptiveMaxPool2d, called twice": lambda: Net(
        lambda s, x: s.head(s.pool(s.pool(F.relu(s.stem(x))))), pool=nn.AdaptiveMaxPool2d((4, None))
    ),
    "nn.AdaptiveMaxPool2d(2) of two sizes": lambda: Net(
        lambda s, x: s.head(s.pool(F.relu(s.stem(x))) + s.pool(F.relu(s.side(x[:, :, ::2, ::2])))),
        pool=nn.AdaptiveMaxPool2d(2),
    ),
    "F.adaptive_max_pool2d(1)": pooled(lambda x: F.adaptive_max_pool2d(x, 1).flatten(1)),
    "F.adaptive_max_pool2d((4, 2))": activated(lambda x: F.adaptive_max_pool2d(x, output_size=(4, 2))),
    "x.amax((2, 3))": pooled(lambda x: x.amax((2, 3))),
    "x.amax by name": pooled(lambda x: x.amax(dim=[-1, -2], keepdim=True).flatten(1)),
    "torch.amax": pooled(lambda x: torch.amax(x, (2, 3))),
    "amax, one by one": pooled(lambda x: x.amax(-1).amax(-1)),
    "amax of one, kept": activated(lambda x: F.relu(x).amax(2, keepdim=True)),
    "x.flatten(2).amax(-1)": pooled(lambda x: x.flatten(2).amax(-1)),
    "torch.mean": pooled(lambda x: torch.mean(x, (2, 3))),
    "torch.mean by name": pooled(lambda x: torch.mean(x, dim=[2, 3], keepdim=True).flatten(1)),
    "x.mean([-1, -2])": pooled(lambda x: x.mean([-1, -2])),
    "x.mean(-1).mean(-1)": pooled(lambda x: x.mean(-1).mean(-1)),
    "x.mean(2).mean(2)": pooled(lambda x: x.mean(2).mean(2)),
    "x.mean(3, True).mean(2)": pooled(lambda x: x.mean(3, True).mean(2).squeeze(-1)),
    "x.mean(2), kept": activated(lambda x: F.relu(x).mean(2, keepdim=True)),
    "mean of max": pooled(lambda x: x.amax(3, keepdim=True).mean(2, keepdim=True).flatten(1)),
    "x.flatten(2).mean(-1)": pooled(lambda x: x.flatten(2).mean(-1)),
    "nn.Flatten(2), mean": lambda: Net(
        lambda s, x: s.fc(s.flat(F.relu(s.next(s.stem(x)))).mean(2)), flat=nn.Flatten(2)
    ),
    "x.view(n, c, -1).mean(2)": pooled(lambda x: x.view(x.size(0), x.size(1), -1).mean(2)),
    "torch.reshape, mean": pooled(lambda x: torch.reshape(x, (x.shape[0], 6, 64)).mean(dim=-1)),
    "x.reshape(-1, c, h * w), mean": pooled(lambda x: x.reshape(-1, 6, 8 * 8).mean(2)),
    "mean, kept, then nn.Flatten": lambda: Net(
        lambda s, x: s.fc(s.flat(F.relu(s.next(s.stem(x))).flatten(2).mean(-1, keepdim=True))),
        flat=nn.Flatten(),
    ),
    "x.squeeze(-1).squeeze(-1)": pooled(lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1)),
    "torch.squeeze, one by one": pooled(
        lambda x: torch.squeeze(torch.squeeze(F.adaptive_avg_pool2d(x, 1), 3), dim=2)
    ),
    "x.squeeze()": pooled(lambda x: F.adaptive_avg_pool2d(x, 1).squeeze()),
    "x.squeeze((2, 3))": pooled(lambda x: x.mean((2, 3), keepdim=True).squeeze((2, 3))),
    "torch.flatten": pooled(lambda x: torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)),
    "x[:, :, 0, 0]": pooled(lambda x: F.adaptive_avg_pool2d(x, 1)[:, :, 0, 0]),
    "x[..., 0, 0]": pooled(lambda x: F.adaptive_max_pool2d(x, 1)[..., 0, 0]),
    "x[:, :, 0][:, :, -1]": pooled(lambda x: F.adaptive_avg_pool2d(x, 1)[:, :, 0][:, :, -1]),
    "x.unsqueeze": lambda: Net(
        lambda s, x: s.last(F.relu(s.stem(x)).mean((2, 3)).unsqueeze(-1).unsqueeze(-1)).flatten(1),
        last=nn.Conv2d(4, 5, 1),
    ),
    "torch.unsqueeze after one mean": activated(lambda x: torch.unsqueeze(F.relu(x).mean(3), 3)),
    "a mean that is read twice": lambda: Net(
        lambda s, x: (lambda m: s.fc(m.mean(2).squeeze(-1)) + s.fc(m.amax(2).squeeze(-1)))(
            F.relu(s.next(s.stem(x))).mean(3, keepdim=True)
        ),
    ),
}
"""Pools, and what makes a vector of them."""

SUMS: dict[str, Callable[[], nn.Module]] = {
    "sum([a, b])": lambda: Net(lambda s, x: s.head(F.relu(sum([s.stem(x), s.side(x)])))),
    "sum of a generator": lambda: Net(lambda s, x: s.head(F.relu(sum(m(x) for m in (s.conv, s.side))))),
    "torch.add(alpha=1)": lambda: Net(lambda s, x: s.head(F.relu(torch.add(s.stem(x), s.side(x), alpha=1)))),
    "torch.add by name": lambda: Net(
        lambda s, x: s.head(F.relu(torch.add(input=s.stem(x), other=s.side(x))))
    ),
    "x.add": lambda: Net(lambda s, x: s.head(F.relu(s.stem(x).add(s.side(x), alpha=1)))),
    "x.add_": lambda: Net(lambda s, x: s.head(F.relu(s.stem(x).add_(s.side(x))))),
    "a += b": lambda: Net(lambda s, x: s.head(F.relu(operator.iadd(s.stem(x), s.side(x))))),
    "a + b": lambda: Net(lambda s, x: s.head(F.relu(s.stem(x) + s.side(x)))),
    "torch.cat": lambda: Net(
        lambda s, x: s.fc2(torch.cat(dim=1, tensors=[F.relu(s.stem(x)), F.relu(s.side(x))]).mean((2, 3))),
        fc2=nn.Linear(8, 5),
    ),
    "torch.concat": lambda: Net(
        lambda s, x: s.fc2(torch.concat((F.relu(s.stem(x)), F.relu(s.side(x))), -3).mean((2, 3))),
        fc2=nn.Linear(8, 5),
    ),
    "torch.concatenate": lambda: Net(
        lambda s, x: s.fc2(torch.concatenate((F.relu(s.stem(x)), F.relu(s.side(x))), axis=1).mean((2, 3))),
        fc2=nn.Linear(8, 5),
    ),
    "torch.hstack": lambda: Net(
        lambda s, x: s.fc2(torch.hstack((F.relu(s.stem(x)), F.relu(s.side(x)))).mean((2, 3))),
        fc2=nn.Linear(8, 5),
    ),
}
"""Additions and concatenations."""

DROPOUTS: dict[str, Callable[[], nn.Module]] = {
    "nn.Dropout1d": lambda: Net(
        lambda s, x: s.fc(s.drop(F.relu(s.next(s.stem(x))).mean((2, 3)))), drop=nn.Dropout1d(0.1)
    ),
    "nn.Dropout, nn.Dropout2d": lambda: Net(
        lambda s, x: s.fc(s.drop(s.next(s.whole(F.relu(s.stem(x)))).mean((2, 3)))),
        drop=nn.Dropout(0.1),
        whole=nn.Dropout2d(0.1),
    ),
    "F.dropout, F.dropout1d": lambda: Net(
        lambda s, x: s.fc(
            F.dropout1d(F.dropout(s.next(F.relu(s.stem(x))).mean((2, 3)), 0.1, s.training), 0.1, s.training)
        )
    ),
    "F.dropout2d": lambda: Net(lambda s, x: s.head(F.dropout2d(F.relu(s.stem(x)), 0.1, s.training))),
    "nn.Dropout3d": lambda: Net(lambda s, x: s.head(s.drop(F.relu(s.stem(x)))), drop=nn.Dropout3d(0.1)),
    "nn.AlphaDropout": lambda: Net(lambda s, x: s.head(s.drop(F.relu(s.stem(x)))), drop=nn.AlphaDropout(0.1)),
    "nn.FeatureAlphaDropout": lambda: Net(
        lambda s, x: s.head(s.drop(F.relu(s.stem(x)))), drop=nn.FeatureAlphaDropout(0.1)
    ),
    "F.alpha_dropout": lambda: Net(lambda s, x: s.head(F.alpha_dropout(F.relu(s.stem(x)), 0.1, s.training))),
    "F.feature_alpha_dropout": lambda: Net(
        lambda s, x: s.head(F.feature_alpha_dropout(F.relu(s.stem(x)), 0.1, training=s.training))
    ),
    "F.dropout3d": lambda: Net(lambda s, x: s.head(F.dropout3d(F.relu(s.stem(x)), 0.1, s.training))),
}
"""What does nothing in evaluation."""

ENDS: dict[str, Callable[[], nn.Module]] = {
    "a tuple": ended(lambda y: (y,)),
    "a list": ended(lambda y: [y]),
    "a dict": ended(lambda y: {"logits": y}),
    "a dict with None": ended(lambda y: {"logits": (y,), "aux": None}),
}
"""Results that hold one tensor."""


def softened(layer: Callable[[], nn.Module]) -> Callable[[], Net]:
    """A layer after the logits."""
    return lambda: Net(lambda s, x: s.end(s.head(F.relu(s.stem(x)))), end=layer())


ACTIVATED_ENDS: dict[str, Callable[[], nn.Module]] = {
    "nn.Softmax": softened(lambda: nn.Softmax(1)),
    "nn.LogSoftmax": softened(lambda: nn.LogSoftmax(dim=-1)),
    "nn.Softmax2d": lambda: Net(
        lambda s, x: s.end(s.next(F.relu(s.stem(x))).mean((2, 3), keepdim=True)).flatten(1),
        end=nn.Softmax2d(),
    ),
    "nn.Sigmoid": softened(nn.Sigmoid),
    "nn.LogSigmoid": softened(nn.LogSigmoid),
    "F.softmax": ended(lambda y: F.softmax(y, 1)),
    "F.log_softmax": ended(lambda y: F.log_softmax(y, dim=1)),
    "torch.softmax": ended(lambda y: torch.softmax(y, -1)),
    "torch.log_softmax": ended(lambda y: torch.log_softmax(y, dim=-1)),
    "x.softmax": ended(lambda y: y.softmax(1)),
    "x.log_softmax": ended(lambda y: y.log_softmax(dim=1)),
    "F.sigmoid": ended(F.sigmoid),
    "F.logsigmoid": ended(F.logsigmoid),
    "torch.sigmoid": ended(torch.sigmoid),
    "x.sigmoid": ended(lambda y: y.sigmoid()),
    "x.sigmoid_": ended(lambda y: y.sigmoid_()),
    "F.softmax of a map, in a dict": lambda: Net(
        lambda s, x: {
            "p": F.softmax(s.next(F.relu(s.stem(x))).mean((2, 3), keepdim=True), 1).flatten(1),
        }
    ),
}
"""Softmax and sigmoid at the end."""


class _Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


BAKED: dict[str, Callable[[], nn.Module]] = {
    "parametrizations.weight_norm": built(lambda net: parametrizations.weight_norm(net.next)),
    "parametrizations.spectral_norm": built(lambda net: parametrizations.spectral_norm(net.next)),
    "both, and of a linear layer": built(
        lambda net: (parametrizations.weight_norm(net.conv), parametrizations.spectral_norm(net.fc))
    ),
    "parametrize": built(lambda net: parametrize.register_parametrization(net.fc, "weight", _Halved())),
    "parametrize, of a bias": built(
        lambda net: parametrize.register_parametrization(net.fc, "bias", _Halved())
    ),
    "weight_norm": built(lambda net: weight_norm(net.next)),
    "spectral_norm": built(lambda net: spectral_norm(net.fc)),
}
"""Weights that are computed."""

ZOO = {**CLAMPS, **MOVED, **POOLS, **SUMS, **DROPOUTS, **ENDS, **ACTIVATED_ENDS, **BAKED}


@torch.no_grad()
def randomised(net: nn.Module, seed: int) -> nn.Module:
    """BN statistics and biases as after training, values beyond the clamps' ranges; in eval mode."""
    rng = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            n = module.num_features
            module.running_mean = torch.randn(n, generator=rng) * 0.2
            module.running_var = torch.rand(n, generator=rng) * 0.2 + 0.05
            module.bias.copy_(torch.randn(n, generator=rng) * 0.3)
    return net.eval()
