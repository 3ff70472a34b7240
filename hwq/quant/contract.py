"""What a quantisation method supplies, and what all methods share.

A weight method supplies `normalise`; an activation method supplies `step` and `set_bound`. Rounding,
clamping, codes and types are here, so that training and the lowered integers cannot drift apart.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hwq.errors import InputError
from hwq.fixed import IntType
from hwq.quant.rounding import fake_quant, round_clamp, sign_codes

OFF = 32
"""Bit width that means "not quantised"."""
MAX_BITS = 16


class Quantizer(nn.Module):
    """Bits and type of one quantised tensor. `bits` 1..16, or 32 = off (passes floats through)."""

    def __init__(self, bits: int, signed: bool) -> None:
        super().__init__()
        if bits != OFF and not 1 <= bits <= MAX_BITS:
            raise InputError(f"bit widths are 1..{MAX_BITS}, or {OFF} for off, not {bits}")
        self.bits = bits
        self.signed = signed

    @property
    def off(self) -> bool:
        """True when the tensor stays float: trainable, not lowerable."""
        return self.bits == OFF

    @property
    def type(self) -> IntType:  # type: ignore[override]  # nn.Module.type() casts; nobody casts a quantizer
        """Type of the codes. Raises InputError when off."""
        if self.off:
            raise InputError("this tensor is not quantised (32 bits); it has no codes")
        return IntType(bits=self.bits, signed=self.signed)

    def extra_repr(self) -> str:
        return "off" if self.off else str(self.type)


class WeightQuantizer(Quantizer):
    """Weights (O, ...) -> codes and a scale, per tensor or per output channel. Codes are signed.

    A method implements `normalise`. 1 bit means codes sign(w) in {-1, +1}.
    """

    def __init__(self, bits: int, *, per_channel: bool = False) -> None:
        super().__init__(bits, signed=True)
        self.per_channel = per_channel

    def normalise(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """(v, s): v real-valued codes of w's shape, differentiable; s the scale, () or (O,), w's dtype."""
        raise NotImplementedError

    def start(self, w: Tensor) -> None:
        """Set learned parameters from the weights that training starts with. Most methods have none."""

    def forward(self, w: Tensor) -> Tensor:
        """Fake-quantised weights codes * scale, in w's dtype."""
        if self.off:
            return w
        v, s = self.normalise(w)
        return self._round(v) * spread(s, w)

    @torch.no_grad()
    def codes(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """(int64 codes of w's shape, float64 scale () or (O,)), computed in float64. Raises when off."""
        _ = self.type
        v, s = self.normalise(w.detach().double())
        return self._round(v).long(), s

    def _round(self, v: Tensor) -> Tensor:
        return sign_codes(v) if self.bits == 1 else round_clamp(v, self.type.lo, self.type.hi)

    def reduced(self, w: Tensor) -> Tensor:
        """max|w| over the tensor, shape (), or over each output channel, shape (O,); never 0."""
        size = w.abs()
        top = size.flatten(1).amax(1) if self.per_channel else size.amax()
        return top.clamp_min(1e-12)


class ActQuantizer(Quantizer):
    """Activations of any shape -> scale * codes. A method implements `step` and `set_bound`.

    `calibrating` is set by `hwq.quant.calibrate`: the tensor passes through and is recorded.
    """

    inside = False
    """Whether the scale's gradient has LSQ's term inside the range."""

    def __init__(self, bits: int, *, signed: bool) -> None:
        super().__init__(bits, signed)
        self.calibrating = False
        self.samples: list[Tensor] = []
        self.peak = 0.0

    def step(self) -> Tensor:
        """The scale as a 0-dim tensor > 0 in float32, differentiable where it is learned."""
        raise NotImplementedError

    def set_bound(self, bound: float) -> None:
        """Start with codes that cover |x| <= bound."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantised activations, in x's dtype."""
        if self.calibrating:
            self._record(x)
            return x
        if self.off:
            return x
        return fake_quant(x, self.step(), self.type.lo, self.type.hi, inside=self.inside)

    @torch.no_grad()
    def scale(self) -> float:
        """The real value of code 1, float64. The number that lowering uses."""
        return float(self.step().double())

    def bound(self) -> float:
        """The largest value that codes can show."""
        return self.scale() * self.type.hi

    @torch.no_grad()
    def _record(self, x: Tensor) -> None:
        flat = x.detach().flatten()
        # an odd stride: a power of two would fall on the same channel again and again
        stride = max(1, flat.numel() // 16384) | 1
        self.samples.append(flat[::stride].float().cpu())
        low = 0.0 if not self.signed else -float(flat.min())
        self.peak = max(self.peak, float(flat.max()), low)


def spread(s: Tensor, w: Tensor) -> Tensor:
    """A scale () or (O,) shaped so that it multiplies weights (O, ...)."""
    return s.reshape(-1, *([1] * (w.dim() - 1))) if s.dim() else s
