"""The plain uniform quantisers: for weights a range found afresh at every step, for activations a buffer."""

from __future__ import annotations

import torch
from torch import Tensor

from hwq.quant.methods.contract import WeightQuantizer, spread
from hwq.quant.methods.observing import ObservingAct, agreed_peak
from hwq.quant.methods.ranges import percentile_bounds

_PERCENTILE = 99.9
_SLOWEST = 0.01
_CANDIDATES = 33
_PER_OCTAVE = 8


class UniformWeight(WeightQuantizer):
    """q = rd(w / s), s = c / R with c = max|w|, per tensor or per output channel.

    Straight-through inside |w| <= c, no gradient outside, none through c. 1 bit: sign(w), s = mean|w|.
    """

    def __init__(self, bits: int, *, per_channel: bool = False, **_: object) -> None:
        super().__init__(bits, per_channel=per_channel)

    def normalise(self, w: Tensor) -> tuple[Tensor, Tensor]:
        if self.bits == 1:
            s = self.mean_size(w.detach())
            return w / spread(s, w), s
        top = self.clip(w.detach())
        # not w / s: max|w| must be R exactly, as it is inside
        return w / spread(top, w) * self.type.hi, top / self.type.hi

    def clip(self, w: Tensor) -> Tensor:
        """The clipping value c > 0, () or (O,), in w's dtype."""
        return self.reduced(w)


class PercentileWeight(UniformWeight):
    """c = the least value that 99.9% of |w| do not exceed."""

    def clip(self, w: Tensor) -> Tensor:
        return self.each(percentile_bounds(self.rows(w), _PERCENTILE))


class MseWeight(UniformWeight):
    """c = the one of least squared error among max|w| * 2^(-i/8), i = 0..32."""

    def clip(self, w: Tensor) -> Tensor:
        # in float64 whatever w is, so that training and export choose alike
        sizes, hi = self.rows(w).double(), self.type.hi
        peak, error = sizes.amax(1), torch.empty_like(sizes)
        best, least = torch.ones_like(peak), torch.full_like(peak, torch.inf)
        for i in range(_CANDIDATES):
            share = 2.0 ** (-i / _PER_OCTAVE)
            s = (peak * (share / hi)).clamp_min(1e-30)[:, None]
            torch.div(sizes, s, out=error).add_(0.5).floor_().clamp_(max=hi).mul_(s)
            found = error.sub_(sizes).square_().sum(1)
            best = torch.where(found < least, share, best)
            least = torch.minimum(found, least)
        return self.reduced(w) * (best if self.per_channel else best[0]).to(w.dtype)


class UniformAct(ObservingAct):
    """A range in a buffer, set by calibration; straight-through inside, no gradient outside.

    Where calibration did not set it, it is the moving average of max|x| over the training batches: the
    plain mean of the first hundred, then 1% of each new one.
    """

    top: Tensor

    def __init__(self, bits: int, *, signed: bool, init: float = 1.0) -> None:
        super().__init__(bits, signed=signed)
        self.register_buffer("top", torch.tensor(float(init)))

    def step(self) -> Tensor:
        return self.top / self.type.hi

    def exact_step(self) -> Tensor:
        return self.top.double() / self.type.hi

    def cover(self, bound: float) -> None:
        self.top.fill_(bound)

    def observe(self, x: Tensor) -> bool:
        low, high = torch.aminmax(x)
        peak = agreed_peak(torch.maximum(-low, high)).clamp_min(1e-12).to(self.top.dtype)
        weight = (1 / self.seen).clamp_min(_SLOWEST).to(peak.dtype)
        self.top.copy_(torch.lerp(self.top, peak, weight))
        return False
