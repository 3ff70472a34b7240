"""What a quantisation method supplies, and what all methods share.

A weight method supplies `normalise`; an activation method supplies `step` and `set_bound`. Rounding,
clamping, codes and types are here, so that training and the lowered integers cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hwq.errors import InputError
from hwq.fixed import IntType
from hwq.quant.methods.rounding import fake_quant, round_clamp, sign_codes

OFF = 32
"""Bit width that means "not quantised"."""
MAX_BITS = 16


class Quantizer(nn.Module):
    """Bits and type of one quantised tensor. `bits` 1..16, or 32 = off (passes floats through)."""

    method = ""
    """Its name in recipes, where `hwq.quant.methods.table` made it."""

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

    def whole(self, value: float, channels: int) -> Tensor:
        """A value for the tensor, shape (), or for each output channel, shape (channels,)."""
        return torch.full((channels,) if self.per_channel else (), value)

    def rows(self, w: Tensor) -> Tensor:
        """|w| as one row (1, N), or as a row for each output channel (O, N/O)."""
        return w.abs().flatten(1) if self.per_channel else w.abs().reshape(1, -1)

    def each(self, rows: Tensor) -> Tensor:
        """One value a row of `rows`, shape (1,) or (O,) -> shape () or (O,), never 0."""
        return (rows if self.per_channel else rows.squeeze(0)).clamp_min(1e-12)

    def reduced(self, w: Tensor) -> Tensor:
        """max|w| over the tensor, shape (), or over each output channel, shape (O,); never 0."""
        return self.each(self.rows(w).amax(1))

    def mean_size(self, w: Tensor) -> Tensor:
        """mean|w|, shapes as of `reduced`; never 0."""
        return self.each(self.rows(w).mean(1))


class ActQuantizer(Quantizer):
    """Activations of any shape -> scale * codes. A method implements `step`, `set_bound`, maybe `quantise`.

    While `observer` is set (`hwq.quant.calibration.activations`), it is shown the tensor, which passes
    through as it is.
    """

    def __init__(self, bits: int, *, signed: bool) -> None:
        super().__init__(bits, signed)
        self.observer: Callable[[Tensor], object] | None = None

    def step(self) -> Tensor:
        """The scale as a 0-dim tensor > 0 in float32, differentiable where it is learned."""
        raise NotImplementedError

    def set_bound(self, bound: float) -> None:
        """Start with codes that cover |x| <= bound."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantised activations, in x's dtype."""
        if self.observer is not None:
            self.observer(x)
            return x
        if self.off:
            return x
        if x.dtype.itemsize < 4:  # half precision cannot tell which code a value is nearest to
            return self.quantise(x.float()).to(x.dtype)
        return self.quantise(x)

    def quantise(self, x: Tensor) -> Tensor:
        """Codes * scale, with the method's gradients. float32 or float64."""
        return fake_quant(x, self.step(), self.type.lo, self.type.hi)

    def exact_step(self) -> Tensor:
        """`step` in float64, as exact as what it is stored as allows."""
        return self.step().double()

    @torch.no_grad()
    def scale(self) -> float:
        """The real value of code 1, float64. The number that lowering uses."""
        return float(self.exact_step())

    def bound(self) -> float:
        """The largest value that codes can show."""
        return self.scale() * self.type.hi


def spread(s: Tensor, w: Tensor) -> Tensor:
    """A scale () or (O,) shaped so that it multiplies weights (O, ...)."""
    return s.reshape(-1, *([1] * (w.dim() - 1))) if s.dim() else s
