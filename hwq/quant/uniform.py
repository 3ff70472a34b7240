"""The plain uniform quantisers: s = max|w|/R for weights, a calibrated range for activations."""

from __future__ import annotations

import torch
from torch import Tensor

from hwq.quant.contract import ActQuantizer, WeightQuantizer, spread


class UniformWeight(WeightQuantizer):
    """q = rd(w / s), s = max|w| / R, per tensor or per output channel. 1 bit: sign(w), s = mean|w|."""

    def __init__(self, bits: int, *, per_channel: bool = False, **_: object) -> None:
        super().__init__(bits, per_channel=per_channel)

    def normalise(self, w: Tensor) -> tuple[Tensor, Tensor]:
        if self.bits == 1:
            size = w.detach().abs()
            s = (size.flatten(1).mean(1) if self.per_channel else size.mean()).clamp_min(1e-12)
        else:
            s = self.reduced(w.detach()) / self.type.hi
        return w / spread(s, w), s


class UniformAct(ActQuantizer):
    """A fixed range, set by calibration and kept in a buffer; gradient 1 inside, 0 outside."""

    top: Tensor

    def __init__(self, bits: int, *, signed: bool, init: float = 1.0) -> None:
        super().__init__(bits, signed=signed)
        self.register_buffer("top", torch.tensor(float(init)))

    def step(self) -> Tensor:
        return self.top / self.type.hi

    @torch.no_grad()
    def scale(self) -> float:
        return float(self.top.double()) / self.type.hi

    def set_bound(self, bound: float) -> None:
        self.top.fill_(bound)
