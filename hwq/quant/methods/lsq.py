"""LSQ: the step itself is learned, for weights and activations (Esser et al., ICLR 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hwq.quant.methods.contract import WeightQuantizer, spread
from hwq.quant.methods.observing import ObservingAct, agreed_mean
from hwq.quant.methods.ranges import Ranges, Sample
from hwq.quant.methods.rounding import fake_quant, gradient_factor, learned_step, round_clamp


class LsqWeight(WeightQuantizer):
    """q = rd(clamp(w/s, -R, R)), s learned, per tensor () or per output channel (O,).

    ds = rd(w/s) - w/s inside, -R or R outside; dw = g inside, 0 outside; |w/s| = R is outside. The
    gradient of s is multiplied by 1/sqrt(N R), N weights share it; s starts at 2 mean|w| / sqrt(R). With
    1 bit q = sign(w), ds = q, and s starts at mean|w|.
    """

    def __init__(self, bits: int, *, per_channel: bool = False, channels: int = 1, **_: object) -> None:
        super().__init__(bits, per_channel=per_channel)
        self.raw = nn.Parameter(self.whole(1.0, channels), requires_grad=not self.off)

    def normalise(self, w: Tensor) -> tuple[Tensor, Tensor]:
        factor = gradient_factor(w.numel() // self.raw.numel(), self.type.hi)
        s = learned_step(self.raw.to(w.dtype), factor)
        # one bit has no rounding: only codes * s depends on s
        return w / spread(s.detach() if self.bits == 1 else s, w), s

    @torch.no_grad()
    def start(self, w: Tensor) -> None:
        ratio = 1 if self.bits == 1 else 2 / math.sqrt(self.type.hi)
        self.raw.copy_(self.mean_size(w) * ratio)

    def _round(self, v: Tensor) -> Tensor:
        if self.bits == 1:
            return super()._round(v)
        return round_clamp(v, self.type.lo, self.type.hi, ends=False)


class LsqAct(ObservingAct):
    """As `LsqWeight`, one step a tensor, codes signed or unsigned; N = values of one image.

    Without `set_bound`, s starts at 2 mean|x| / sqrt(Q) of the first training batch, Q the largest code.
    """

    def __init__(self, bits: int, *, signed: bool, init: float = 1.0) -> None:
        super().__init__(bits, signed=signed)
        self.raw = nn.Parameter(torch.tensor(float(init)), requires_grad=not self.off)

    def step(self) -> Tensor:
        return learned_step(self.raw)

    def quantise(self, x: Tensor) -> Tensor:
        s = learned_step(self.raw, gradient_factor(x[:1].numel(), self.type.hi))
        return fake_quant(x, s, self.type.lo, self.type.hi, inside=True)

    @torch.no_grad()
    def cover(self, bound: float) -> None:
        self.raw.fill_(bound / self.type.hi)

    def observe(self, x: Tensor) -> bool:
        bound = float(agreed_mean(self.first_bound(x)))
        if bound > 0:  # a batch of zeros says nothing
            self.cover(bound)
        return bound > 0

    def first_bound(self, x: Tensor) -> Tensor:
        """The clipping value that a batch suggests, 0-dim."""
        return 2 * x.abs().mean() * math.sqrt(self.type.hi)


class LsqPlusAct(LsqAct):
    """LSQ that starts at the range of least squared error on the first training batch.

    After Bhalgat et al., CVPR workshops 2020; the offset stays 0, since codes are symmetric.
    """

    def first_bound(self, x: Tensor) -> Tensor:
        sample = Sample(signed=self.signed)
        sample.add(x)
        return torch.tensor(Ranges().bound(sample, self.bits, self.type.hi), device=x.device)
