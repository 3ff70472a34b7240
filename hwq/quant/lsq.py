"""LSQ: the step itself is learned, for weights and activations (Esser et al., ICLR 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hwq.quant.contract import ActQuantizer, WeightQuantizer, spread
from hwq.quant.rounding import scale_gradient

_LEAST = 1e-8
"""A step that training drives through zero comes back on the other side: |raw|, never below this."""


class LsqWeight(WeightQuantizer):
    """q = rd(clamp(w/s, -R, R)), s learned, per tensor () or per output channel (O,).

    ds = rd(w/s) - w/s inside, -R or R outside; dw = g inside, 0 outside. The gradient of s is scaled by
    1/sqrt(N R), N the number of weights that share it; s starts at 2 mean|w| / sqrt(R).
    """

    raw: Tensor

    def __init__(self, bits: int, *, per_channel: bool = False, channels: int = 1, **_: object) -> None:
        super().__init__(bits, per_channel=per_channel)
        self.raw = nn.Parameter(torch.ones(channels) if per_channel else torch.tensor(1.0))

    def normalise(self, w: Tensor) -> tuple[Tensor, Tensor]:
        s = self.raw.abs().clamp_min(_LEAST).to(w.dtype)
        shared = w.numel() // s.numel()
        s = scale_gradient(s, 1 / math.sqrt(max(shared * self.type.hi, 1)))
        return w / spread(s, w), s

    @torch.no_grad()
    def start(self, w: Tensor) -> None:
        size = w.detach().abs()
        mean = size.flatten(1).mean(1) if self.per_channel else size.mean()
        start = mean if self.bits == 1 else 2 * mean / math.sqrt(self.type.hi)
        self.raw.copy_(start.clamp_min(_LEAST))


class LsqAct(ActQuantizer):
    """As `LsqWeight`, one step a tensor, signed or unsigned codes; N = values of one image."""

    inside = True

    def __init__(self, bits: int, *, signed: bool, init: float = 1.0) -> None:
        super().__init__(bits, signed=signed)
        self.raw = nn.Parameter(torch.tensor(float(init)))
        self.features = 1

    def step(self) -> Tensor:
        s = self.raw.abs().clamp_min(_LEAST)
        return scale_gradient(s, 1 / math.sqrt(max(self.features * self.type.hi, 1)))

    @torch.no_grad()
    def scale(self) -> float:
        return float(self.raw.double().abs().clamp_min(_LEAST))

    def forward(self, x: Tensor) -> Tensor:
        self.features = max(1, x.numel() // max(1, x.shape[0]))
        return super().forward(x)

    @torch.no_grad()
    def set_bound(self, bound: float) -> None:
        self.raw.fill_(max(bound / self.type.hi, _LEAST))
