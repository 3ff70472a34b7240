"""DoReFa weights, the hardware-friendly form: zero-centred, 2R + 1 levels."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor

from hwq.quant.contract import WeightQuantizer


class Rescale(Enum):
    """Which real range the codes span. DoReFa's own is 1, whatever the weights were."""

    NONE = "none"  # s = 1/R: a BN that follows absorbs it
    STD = "std"  # keeps the standard deviation of the weights
    MAX = "max"  # keeps max|w|: for layers that no BN follows


class DoReFa(WeightQuantizer):
    """q = rd(R * t / max|t|), t = tanh(w); s = 1/R times the rescaling.

    Gradients are straight-through at the rounding, ordinary through tanh, max and the rescaling. With
    1 bit, q = sign(w), s = 1, or mean|w| with any rescaling.
    """

    def __init__(
        self, bits: int, *, per_channel: bool = False, rescale: Rescale = Rescale.NONE, **_: object
    ) -> None:
        super().__init__(bits, per_channel=per_channel)
        self.rescale = rescale

    def normalise(self, w: Tensor) -> tuple[Tensor, Tensor]:
        levels = self.type.hi
        t = torch.tanh(w)
        top = self.reduced(t)
        shaped = top.reshape(-1, *([1] * (w.dim() - 1))) if self.per_channel else top
        v = (t / shaped) * levels
        return v, self._range(w, v) / levels

    def _range(self, w: Tensor, v: Tensor) -> Tensor:
        match self.rescale:
            case Rescale.NONE:
                return torch.ones(w.shape[:1] if self.per_channel else (), dtype=w.dtype, device=w.device)
            case Rescale.MAX if self.bits > 1:
                return self.reduced(w)
            case Rescale.STD if self.bits > 1:
                codes = self._round(v.detach()) / self.type.hi
                return self._spread_of(w) / self._spread_of(codes)
            case _:
                size = w.abs()
                return (size.flatten(1).mean(1) if self.per_channel else size.mean()).clamp_min(1e-12)

    def _spread_of(self, w: Tensor) -> Tensor:
        # root mean square, not the deviation from the mean: codes are symmetric about 0
        square = w.square()
        mean = square.flatten(1).mean(1) if self.per_channel else square.mean()
        return mean.clamp_min(1e-24).sqrt()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rescale={self.rescale.value}"
