"""DoReFa: weights in the hardware-friendly form, zero-centred with 2R + 1 levels; activations in 0..1."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor, nn

from hwq.quant.methods.contract import WeightQuantizer, spread
from hwq.quant.methods.rounding import gradient_factor, learned_step
from hwq.quant.methods.uniform import UniformAct


class Rescale(Enum):
    """Which real range the codes span. DoReFa's own is 1, whatever the weights were."""

    NONE = "none"  # s = 1/R: a BN that follows absorbs it
    STD = "std"  # keeps the standard deviation of the weights
    MAX = "max"  # keeps max|w|: for layers that no BN follows
    LEARNED = "learned"  # a parameter > 0 that starts at max|w|


class DoReFa(WeightQuantizer):
    """q = rd(R * t / max|t|), t = tanh(w); s = 1/R times the rescaling.

    Gradients are straight-through at the rounding, ordinary through tanh, max and the rescaling. With
    1 bit, q = sign(w), s = 1, or mean|w| with any rescaling (a learned one starts there). A learned
    range has the gradient sum g q / R, multiplied as LSQ's by 1/sqrt(N R), N weights share it.
    """

    def __init__(
        self,
        bits: int,
        *,
        per_channel: bool = False,
        channels: int = 1,
        rescale: Rescale = Rescale.NONE,
        **_: object,
    ) -> None:
        super().__init__(bits, per_channel=per_channel)
        self.rescale = rescale
        if rescale is Rescale.LEARNED:
            self.raw = nn.Parameter(self.whole(1.0, channels), requires_grad=not self.off)

    def normalise(self, w: Tensor) -> tuple[Tensor, Tensor]:
        levels = self.type.hi
        t = torch.tanh(w)
        v = (t / spread(self.reduced(t), w)) * levels
        return v, self._range(w, v) / levels

    @torch.no_grad()
    def start(self, w: Tensor) -> None:
        if self.rescale is Rescale.LEARNED:
            self.raw.copy_(self.mean_size(w) if self.bits == 1 else self.reduced(w))

    def _range(self, w: Tensor, v: Tensor) -> Tensor:
        match self.rescale:
            case Rescale.NONE:
                return torch.ones(w.shape[:1] if self.per_channel else (), dtype=w.dtype, device=w.device)
            case Rescale.LEARNED:
                factor = gradient_factor(w.numel() // self.raw.numel(), self.type.hi)
                return learned_step(self.raw.to(w.dtype), factor)
            case Rescale.MAX if self.bits > 1:
                return self.reduced(w)
            case Rescale.STD if self.bits > 1:
                codes = self._round(v.detach()) / self.type.hi
                return self._spread_of(w) / self._spread_of(codes)
            case _:
                return self.mean_size(w)

    def _spread_of(self, w: Tensor) -> Tensor:
        # root mean square, not the deviation from the mean: codes are symmetric about 0
        return self.each(self.rows(w).square().mean(1).clamp_min(1e-24).sqrt())

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rescale={self.rescale.value}"


class DoReFaAct(UniformAct):
    """A constant range, 0..1 or -1..1 unless `set_bound` gave another; straight-through inside."""

    def __init__(self, bits: int, *, signed: bool, init: float = 1.0) -> None:
        super().__init__(bits, signed=signed, init=init)
        self.settle()
