"""The two differentiable roundings every method shares: ties go up, straight-through gradient.

`floor(x + 0.5)` is the project's rounding; `torch.round` is half-even and is not used anywhere.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _RoundClamp(torch.autograd.Function):
    """codes = clamp(floor(v + 1/2), lo, hi); gradient 1 inside [lo, hi], 0 outside."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, lo: int, hi: int) -> Tensor:
        ctx.save_for_backward(v)
        ctx.limits = (lo, hi)
        return torch.add(v, 0.5).floor_().clamp_(lo, hi)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (v,) = ctx.saved_tensors
        lo, hi = ctx.limits
        return grads[0] * ((v >= lo) & (v <= hi)), None, None


class _Sign(torch.autograd.Function):
    """codes = +1 where v >= 0, else -1; straight-through gradient."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        return torch.where(v >= 0, 1.0, -1.0).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class _FakeQuant(torch.autograd.Function):
    """y = s * clamp(floor(x/s + 1/2), lo, hi) with a 0-dim scale s, in few passes over x.

    dx = g where lo*s < x < hi*s, else 0. ds = sum of g * lo below, g * hi above, and, when `inside` is
    set, g * (y - x)/s between (LSQ's term; PACT has none). With lo = -hi this is PACT's and mPACT's
    gradient of the clipping value a = hi*s, divided by hi.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Tensor, lo: int, hi: int, inside: bool) -> Tensor:
        ctx.save_for_backward(x, s)
        ctx.args = (lo, hi, inside)
        return torch.div(x, s).add_(0.5).floor_().clamp_(lo, hi).mul_(s)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        x, s = ctx.saved_tensors
        lo, hi, inside = ctx.args
        g = grads[0]
        dx = _between(g, x, lo * s, hi * s)
        ds: Tensor | None = None
        if ctx.needs_input_grad[1]:
            ds = _at_least(g, x, hi * s).sum() * hi
            if lo != 0:
                ds = ds + (g * (x <= lo * s)).sum() * lo
            if inside:
                v = torch.div(x, s)
                ds = ds + (dx * (torch.add(v, 0.5).floor_() - v)).sum()
        return dx, ds, None, None, None


class _ScaleGradient(torch.autograd.Function):
    """The value itself; its gradient times a constant."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return s.view_as(s)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.factor, None


def _between(g: Tensor, x: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    """g where lo < x < hi, else 0; lo, hi 0-dim. One pass on a CPU."""
    if x.is_cuda:  # reading a number back would stall the device
        return g * ((x > lo) & (x < hi))
    inside: Tensor = torch.ops.aten.hardtanh_backward(g, x, float(lo), float(hi))
    return inside


def _at_least(g: Tensor, x: Tensor, hi: Tensor) -> Tensor:
    """g where x >= hi, else 0."""
    if x.is_cuda:
        return g * (x >= hi)
    below = torch.nextafter(hi, torch.full_like(hi, -torch.inf))
    above: Tensor = torch.ops.aten.threshold_backward(g, x, float(below))
    return above


def round_clamp(v: Tensor, lo: int, hi: int) -> Tensor:
    """Real-valued codes -> integers (as floats of v's dtype) in lo .. hi; ties up, straight-through."""
    out: Tensor = _RoundClamp.apply(v, lo, hi)
    return out


def sign_codes(v: Tensor) -> Tensor:
    """Real-valued codes -> -1 or +1 (zero counts as positive), straight-through."""
    out: Tensor = _Sign.apply(v)
    return out


def fake_quant(x: Tensor, scale: Tensor, lo: int, hi: int, *, inside: bool = False) -> Tensor:
    """x rounded to scale * (lo .. hi). `scale`: 0-dim tensor > 0; gradients as `_FakeQuant` states."""
    out: Tensor = _FakeQuant.apply(x, scale, lo, hi, inside)
    return out


def scale_gradient(s: Tensor, factor: float) -> Tensor:
    """s unchanged to the bit; its gradient is multiplied by `factor`."""
    out: Tensor = _ScaleGradient.apply(s, factor)
    return out
