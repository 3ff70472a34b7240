"""An independent evaluation of a prepared network: torch's own layers in float64, codes noted on the way.

No part of `hwq.lower` is used: BN, adds, pools, slices and flatten are torch's, in torch's layout.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from hwq.errors import HwqError
from hwq.fixed import LiteralFormat, parse_format
from hwq.ir import Graph, Requantize
from hwq.lower import Formats, Lowered, lower
from hwq.quant import INPUT_QUANT, ActQuantizer, Policy, QuantConv2d, QuantLinear, calibrate, prepare
from hwq.simulate.oracle import run_oracle

WIDE = Formats(body=parse_format("56,auto"), edge=parse_format("56,48"))
"""Constants with so many bits that only a tie within 1e-12 could round otherwise."""


class ExactAct(nn.Module):
    """floor(x/s + 1/2) clamped, in float64; keeps the codes of every call."""

    def __init__(self, quant: ActQuantizer, codes: torch.Tensor | None = None) -> None:
        super().__init__()
        self.scale, self.kind, self.codes = quant.scale(), quant.type, codes
        self.calls: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        codes = torch.floor(x / self.scale + 0.5).clamp(self.kind.lo, self.kind.hi)
        if self.codes is not None:
            codes = self.codes
        self.calls.append(codes)
        return codes * self.scale


class Plain(nn.Module):
    """Weights fixed to codes * scale, in float64."""

    def __init__(self, layer: QuantConv2d | QuantLinear) -> None:
        super().__init__()
        codes, scale = layer.weight_quant.codes(layer.weight)
        shape = (-1, *[1] * (codes.dim() - 1)) if scale.dim() else ()
        bias = layer.bias
        self.layer: nn.Module
        if isinstance(layer, QuantConv2d):
            self.layer = nn.Conv2d(
                layer.in_channels,
                layer.out_channels,
                layer.kernel_size,
                layer.stride,
                layer.padding,
                layer.dilation,
                layer.groups,
                bias is not None,
            )
        else:
            self.layer = nn.Linear(layer.in_features, layer.out_features, bias is not None)
        self.layer.double()
        with torch.no_grad():
            self.layer.weight.copy_(codes.double() * scale.reshape(shape))
            if bias is not None:
                self.layer.bias.copy_(bias.double())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def reference(
    model: fx.GraphModule,
    pixels: npt.NDArray[np.uint8],
    mean: Sequence[float],
    std: Sequence[float],
    edge: LiteralFormat,
) -> tuple[dict[str, npt.NDArray[np.int64]], npt.NDArray[np.float64]]:
    """(codes by name of the quantiser, channels last; real-valued logits)."""
    exact = copy.deepcopy(model).double().eval()
    first = model.get_submodule(INPUT_QUANT)
    assert isinstance(first, ActQuantizer)
    start = torch.from_numpy(input_codes(first, pixels, mean, std, edge)).double()
    start = start.permute(0, 3, 1, 2).contiguous()
    for name, child in list(exact.named_modules()):
        made: nn.Module
        if isinstance(child, ActQuantizer) and not child.off:
            made = ExactAct(child, start if name == INPUT_QUANT else None)
        elif isinstance(child, QuantConv2d | QuantLinear):
            made = Plain(child)
        else:
            continue
        parent, _, last = name.rpartition(".")
        setattr(exact.get_submodule(parent), last, made)
    mean_, std_ = (torch.tensor(v, dtype=torch.float64).reshape(1, -1, 1, 1) for v in (mean, std))
    images = torch.from_numpy(pixels).double().permute(0, 3, 1, 2).contiguous()
    images = (images / 255 - mean_) / std_
    with torch.no_grad():
        logits = exact(images)
    codes: dict[str, npt.NDArray[np.int64]] = {}
    for name, child in exact.named_modules():
        if isinstance(child, ExactAct):
            for i, call in enumerate(child.calls):
                codes[name if i == 0 else f"{name}_{i + 1}"] = _channels_last(call)
    return codes, _channels_last(logits, np.float64)


def input_codes(
    quant: ActQuantizer,
    pixels: npt.NDArray[np.uint8],
    mean: Sequence[float],
    std: Sequence[float],
    edge: LiteralFormat,
) -> npt.NDArray[np.int64]:
    """round_half_up(pixel * M + B), M = 1/(255 std s), B = -mean/(std s) rounded to the edge format."""
    s, one = quant.scale(), 1 << edge.type.fraction
    out = np.empty(pixels.shape, dtype=np.int64)
    for c, (m, d) in enumerate(zip(mean, std, strict=True)):
        multiplier = math.floor(Fraction(1.0 / (255.0 * d * s)) * one + Fraction(1, 2))
        bias = math.floor(Fraction(-m / (d * s)) * one + Fraction(1, 2))
        out[..., c] = (pixels[..., c].astype(np.int64) * multiplier + bias + one // 2) // one
    return np.clip(out, quant.type.lo, quant.type.hi)


def _channels_last(x: torch.Tensor, kind: Any = np.int64) -> Any:
    return (x.permute(0, 2, 3, 1) if x.dim() == 4 else x).numpy().astype(kind)


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """BN statistics and parameters as after training: some gammas negative, one zero."""
    rng = torch.Generator().manual_seed(seed)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            n = m.num_features
            m.running_mean.copy_(torch.randn(n, generator=rng) * 0.2)
            m.running_var.copy_(torch.rand(n, generator=rng) + 0.3)
            if not m.affine:
                continue
            with torch.no_grad():
                m.weight.copy_(torch.randn(n, generator=rng) * 0.5 + 0.8)
                m.bias.copy_(torch.randn(n, generator=rng) * 0.2)
                m.weight[0] = 0.0
        elif isinstance(m, nn.Conv2d | nn.Linear) and m.bias is not None:
            with torch.no_grad():
                m.bias.copy_(torch.randn(m.bias.shape, generator=rng) * 0.1)
    return model.eval()


def prepared(
    model: nn.Module, shape: tuple[int, int, int], policy: Policy | None = None, seed: int = 0
) -> fx.GraphModule:
    """Randomised, prepared, calibrated on noise. shape: (H, W, C)."""
    torch.manual_seed(seed)
    ready = prepare(randomise(model, seed), policy or Policy(), shape).eval()
    calibrate(ready, [torch.randn(8, shape[2], shape[0], shape[1])])
    return ready


def noise(shape: tuple[int, ...], count: int = 6, seed: int = 1) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def check(
    model: fx.GraphModule,
    shape: tuple[int, int, int],
    formats: Formats = WIDE,
    count: int = 6,
    reordered: tuple[str, ...] = (),
) -> Lowered:
    """Lower, run the numpy oracle, and demand equality with torch at every quantiser and the logits.

    reordered: quantisers of flattened maps, whose codes stand in another order; what follows them counts.
    """
    channels = shape[2]
    mean, std = [0.45 + 0.03 * i for i in range(channels)], [0.21 + 0.02 * i for i in range(channels)]
    lowered = lower(model, shape=(channels, *shape[:2]), mean=mean, std=std, formats=formats)
    pixels = noise(shape, count)
    found = run_oracle(lowered.graph, pixels)
    codes, logits = reference(model, pixels, mean, std, formats.edge)
    for name, want in codes.items():
        if name not in found or name in reordered:
            continue  # it quantises codes that already are what it makes
        got = found[name]
        np.testing.assert_array_equal(got.reshape(want.shape), want, err_msg=name)
    made = {op.name for op in lowered.graph if isinstance(op, Requantize)}
    extra = {n for n in made - set(codes) if not n.endswith(".relu")}
    assert extra == {"logits"}
    kind, scale = formats.logits
    want = np.clip(np.floor(logits / scale + 0.5), kind.lo, kind.hi).astype(np.int64)
    np.testing.assert_array_equal(found[lowered.graph.output.name], want)
    return lowered


def kinds(graph: Graph) -> list[str]:
    return [type(op).__name__ for op in graph]


__all__ = ["WIDE", "HwqError", "check", "kinds", "noise", "prepared", "randomise", "reference"]
