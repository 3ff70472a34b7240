"""Random residual CNNs of plain torch modules, for the route prepare -> lower -> emit -> compile -> run."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from hwq.fixed import Rounding, parse_edge, parse_format
from hwq.ir import Graph
from hwq.lower import Formats, lower
from hwq.quant import ACT_METHODS, WEIGHT_METHODS, Policy, calibrate, prepare
from tests.graphs import SeededSource


class ConvUnit(nn.Module):
    """conv, or depthwise, with or without bias, BN, activation; even kernels pad one side more."""

    def __init__(self, source: SeededSource, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        kernel = source.choice([1, 2, 3, 3, 3, 4])
        dilation = source.choice([1, 1, 2]) if kernel > 1 else 1
        groups = inputs if inputs == outputs and source.integer(0, 3) == 0 else 1
        if groups == 1 and inputs % 2 == 0 and outputs % 2 == 0 and source.integer(0, 3) == 0:
            groups = 2
        reach = dilation * (kernel - 1)
        padding: str | int = "same" if stride == 1 and source.integer(0, 1) else reach // 2
        self.zeros: nn.Module = nn.Identity()
        if reach % 2 and padding != "same":
            self.zeros = nn.ZeroPad2d(source.choice([(0, 1, 0, 1), (1, 0, 1, 0), (0, 1, 1, 0)]))
        bias = source.integer(0, 1) == 1
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias)
        self.bn = nn.BatchNorm2d(outputs) if source.integer(0, 3) else nn.Identity()
        acts: list[nn.Module] = [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Identity()]
        self.act = source.choice(acts)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.bn(self.conv(self.zeros(x))))
        return y


class OptionA(nn.Module):
    """Subsample, then channels of zeros around."""

    def __init__(self, stride: int, extra: int) -> None:
        super().__init__()
        self.stride, self.before, self.after = stride, extra // 2, extra - extra // 2

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(x, (0, 0, 0, 0, self.before, self.after))


class Residual(nn.Module):
    """Two convs and a shortcut: identity, 1x1 conv with BN, or option A."""

    def __init__(self, source: SeededSource, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = ConvUnit(source, inputs, outputs, stride)
        self.conv = nn.Conv2d(outputs, outputs, 3, padding=1, bias=source.integer(0, 1) == 1)
        self.bn = nn.BatchNorm2d(outputs) if source.integer(0, 3) else nn.Identity()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            if outputs >= inputs and source.integer(0, 1):
                self.shortcut = OptionA(stride, outputs - inputs)
            else:
                conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
                self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))
        self.relu = source.integer(0, 2) > 0

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(self.first(x))) + self.shortcut(x)
        return torch.relu(y) if self.relu else y


class Join(nn.Module):
    """Two units side by side, concatenated."""

    def __init__(self, source: SeededSource, inputs: int, outputs: int) -> None:
        super().__init__()
        half = max(1, outputs // 2)
        self.left, self.right = ConvUnit(source, inputs, half), ConvUnit(source, inputs, half)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.left(x), self.right(x)], 1)


class NormFirst(nn.Module):
    """A BN that stands before its conv."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(self.bn(x))
        return y


class PaddedPool(nn.Module):
    """Zeros around a map, and in channels; then a pool of stride 1 or 2 of the same size, rounded up."""

    def __init__(self, source: SeededSource, stride: int, extra: int) -> None:
        super().__init__()
        self.sides = source.choice([(0, 2), (1, 1), (2, 0)]) + source.choice([(0, 2), (1, 1), (2, 0)])
        self.extra = (extra // 2, extra - extra // 2)
        self.pool: nn.Module = source.choice([nn.MaxPool2d(3, stride), nn.AvgPool2d(3, stride)])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pool(functional.pad(x, (*self.sides, *self.extra)))
        return y


class RandomNet(nn.Module):
    """A stem, one to three random blocks, pools between them, a head."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        source = SeededSource(seed)
        self.shape = (source.integer(4, 9), source.integer(4, 9), source.choice([1, 3]))
        width = source.choice([2, 4, 5])
        blocks: list[nn.Module] = [ConvUnit(source, self.shape[2], width)]
        sizes = list(self.shape[:2])
        for _ in range(source.integer(1, 3)):
            outputs = source.choice([width, width, 2 * width, 6])
            match source.integer(0, 6):
                case 0 | 1 | 2:
                    stride = source.choice([1, 1, 2])
                    blocks.append(Residual(source, width, outputs, stride))
                    sizes = [-(-n // stride) for n in sizes]
                case 3:
                    block = Join(source, width, outputs)
                    outputs = block.left.conv.out_channels * 2
                    blocks.append(block)
                case 4:
                    blocks.append(NormFirst(width, outputs))
                case 5:
                    stride, extra = source.choice([1, 2]), max(0, outputs - width)
                    blocks.append(PaddedPool(source, stride, extra))
                    outputs = width + extra
                    sizes = [-(-n // stride) for n in sizes]
                case _:
                    outputs = width
                    if min(sizes) >= 4:
                        pools = [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2)]
                        kind = source.integer(0, 2)
                        blocks.append(pools[kind])
                        sizes = [(n - 1) // 2 + 1 if kind == 1 else n // 2 for n in sizes]
            width = outputs
        self.blocks = nn.Sequential(*blocks)
        self.pool: nn.Module = nn.Identity()
        if source.integer(0, 1):
            self.pool, sizes = nn.AdaptiveAvgPool2d(1), [1, 1]
        features = width * sizes[0] * sizes[1]
        hidden = source.integer(3, 8)
        self.head: nn.Module = nn.Linear(features, 4)
        if source.integer(0, 2) == 0:
            self.head = nn.Sequential(
                nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, 4)
            )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(torch.flatten(self.pool(self.blocks(x)), 1))
        return y


def random_net(seed: int) -> RandomNet:
    """The network of a seed, in eval mode, with BN statistics as after training."""
    torch.manual_seed(seed)
    net = RandomNet(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.3, 2.0)
            nn.init.uniform_(module.weight, -0.4, 1.6)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return net.eval()


def random_policy(seed: int) -> Policy:
    """Bit widths of a seed: 2..8 for most, any of 1..16 sometimes."""
    source = SeededSource(seed + 1_000_000)
    bits = [2, 3, 4, 4, 6, 8, 8, 10, 16]
    return Policy(
        weight_bits=source.choice(bits),
        act_bits=source.choice(bits),
        first_bits=source.choice([None, 8]),
        last_bits=source.choice([None, 8]),
        pool_bits=source.choice([4, 8, 12]),
        branch=source.integer(0, 1) == 1,
        weight_method=source.choice(list(WEIGHT_METHODS)),
        act_method=source.choice(list(ACT_METHODS)),
        per_channel=source.integer(0, 1) == 1,
        residual_bits=source.choice([None, None, 6, 8, 12]),
    )


def random_formats(seed: int) -> Formats:
    """Constant formats of a seed."""
    source = SeededSource(seed + 2_000_000)
    body = source.choice(["32,10", "32,10", "24,12", "16,auto", "12,channel", "shift", "16,8,TRN,WRAP"])
    rounding = source.choice([Rounding.RND, Rounding.RND, Rounding.TRN])
    edge = parse_edge(source.choice(["32,16", "24,12"]))
    return Formats(body=parse_format(body), edge=edge, rounding=rounding)


def lowered_net(seed: int, formats: Formats | None = None) -> Graph:
    """The integer graph of a seed's network, calibrated on noise. formats: default those of the seed."""
    net = random_net(seed)
    prepared = prepare(net, random_policy(seed), net.shape)
    height, width, channels = net.shape
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(16, channels, height, width, generator=generator)
    calibrate(prepared, [images])
    return lower(
        prepared,
        shape=(channels, height, width),
        mean=[0.5] * channels,
        std=[0.25] * channels,
        formats=formats or random_formats(seed),
        allow_lossy=True,
        name=f"torch{seed}",
    ).graph
