"""The differentiable roundings that methods share: ties go up, straight-through gradient.

`floor(x + 0.5)` is the project's rounding; `torch.round` is half-even and is not used anywhere.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

LEAST_STEP = 1e-8
"""The smallest learned scale."""


class _RoundClamp(torch.autograd.Function):
    """codes = clamp(floor(v + 1/2), lo, hi); gradient 1 inside, 0 outside, `ends` at lo and hi themselves."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, lo: int, hi: int, ends: bool) -> Tensor:
        ctx.save_for_backward(v)
        ctx.args = (lo, hi, ends)
        return torch.add(v, 0.5).floor_().clamp_(lo, hi)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (v,) = ctx.saved_tensors
        lo, hi, ends = ctx.args
        inside = (v >= lo) & (v <= hi) if ends else (v > lo) & (v < hi)
        return grads[0] * inside, None, None, None


class _Sign(torch.autograd.Function):
    """codes = +1 where v >= 0, else -1; straight-through gradient."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        return signs(v)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class _FakeQuant(torch.autograd.Function):
    """y = s * clamp(floor(x/s + 1/2), lo, hi) with a 0-dim scale s, in few passes over x.

    dx = g where lo*s < x < hi*s, else 0. ds = sum of g * lo below, g * hi above, and, when `inside` is
    set, g * (y - x)/s between (LSQ's term; PACT has none). With lo = -hi this is PACT's and mPACT's
    gradient of the clipping value a = hi*s, divided by hi. y is not kept: users may write over it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Tensor, lo: int, hi: int, inside: bool) -> Tensor:
        ctx.save_for_backward(x, s)
        ctx.args = (lo, hi, inside)
        return nearest(x, s, lo, hi)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        x, s = ctx.saved_tensors
        lo, hi, inside = ctx.args
        g = grads[0]
        dx = between(g, x, lo * s, hi * s)
        ds: Tensor | None = None
        if ctx.needs_input_grad[1]:
            work = _at_least(g, x, hi * s)
            ds = work.sum() * hi
            if lo != 0:
                ds = ds + (g * (x <= lo * s)).sum() * lo
            if inside:
                # rd(v) - v = 1/2 - frac(v + 1/2); from lo on nothing is negative, so frac is v - floor(v).
                # Written over `work`: fresh memory costs more than the arithmetic
                part = torch.div(x, s, out=work).add_(0.5 - lo).frac_()
                ds = ds + dx.sum() * 0.5 - product_sum(dx, part)
        return dx, ds, None, None, None


class _LearnedStep(torch.autograd.Function):
    """max(|raw|, LEAST_STEP); gradient times `factor`, straight-through at the least, sign(0) = 1."""

    @staticmethod
    def forward(ctx: Any, raw: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(raw)
        ctx.factor = factor
        return raw.abs().clamp_min_(LEAST_STEP)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (raw,) = ctx.saved_tensors
        return grads[0] * signs(raw).mul_(ctx.factor), None


def _on_host(x: Tensor) -> bool:
    """Whether a scale may be read as a Python number: elsewhere that stalls a device or breaks a graph."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def nearest(x: Tensor, s: Tensor, lo: int, hi: int) -> Tensor:
    """s * clamp(floor(x/s + 1/2), lo, hi), without a gradient."""
    return torch.div(x, s).add_(0.5).floor_().clamp_(lo, hi).mul_(s)


def between(g: Tensor, x: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    """g where lo < x < hi, else 0; lo, hi 0-dim. One pass on a CPU."""
    if not _on_host(x):
        return g * ((x > lo) & (x < hi))
    inside: Tensor = torch.ops.aten.hardtanh_backward(g, x, float(lo), float(hi))
    return inside


def _at_least(g: Tensor, x: Tensor, hi: Tensor) -> Tensor:
    """g where x >= hi, else 0."""
    if not _on_host(x):
        return g * (x >= hi)
    hi = hi.to(x.dtype)
    below = torch.nextafter(hi, torch.full_like(hi, -torch.inf))
    above: Tensor = torch.ops.aten.threshold_backward(g, x, float(below))
    return above


def product_sum(a: Tensor, b: Tensor) -> Tensor:
    """sum(a * b), 0-dim. One pass where both lie alike in memory."""
    # a compiler may lay them out anew, and fuses the product with the sum
    if not torch.compiler.is_compiling() and a.stride() == b.stride():
        if a.is_contiguous():
            return torch.dot(a.view(-1), b.view(-1))
        if a.is_contiguous(memory_format=torch.channels_last):
            return torch.dot(a.permute(0, 2, 3, 1).view(-1), b.permute(0, 2, 3, 1).view(-1))
    return (a * b).sum()


def signs(v: Tensor) -> Tensor:
    """-1 or +1 in v's dtype; zero counts as positive."""
    return (v >= 0).to(v.dtype).mul_(2).sub_(1)


def round_clamp(v: Tensor, lo: int, hi: int, *, ends: bool = True) -> Tensor:
    """Real-valued codes -> integers (as floats of v's dtype) in lo .. hi; ties up, straight-through.

    ends: whether a value of exactly lo or hi counts as inside, and so has a gradient.
    """
    out: Tensor = _RoundClamp.apply(v, lo, hi, ends)
    return out


def sign_codes(v: Tensor) -> Tensor:
    """Real-valued codes -> -1 or +1 (zero counts as positive), straight-through."""
    out: Tensor = _Sign.apply(v)
    return out


def gradient_factor(shared: int, levels: int) -> float:
    """LSQ's factor of a step's gradient: 1/sqrt(N Q), N values that share the step, Q the largest code."""
    return 1 / math.sqrt(max(shared * levels, 1))


def fake_quant(x: Tensor, scale: Tensor, lo: int, hi: int, *, inside: bool = False) -> Tensor:
    """x rounded to scale * (lo .. hi). `scale`: 0-dim tensor > 0; gradients as `_FakeQuant` states."""
    out: Tensor = _FakeQuant.apply(x, scale, lo, hi, inside)
    return out


def learned_step(raw: Tensor, factor: float = 1.0) -> Tensor:
    """A positive scale from a free parameter of any shape: |raw|, its gradient multiplied by `factor`.

    A step that training drives through zero comes back on the other side; it never sticks at the least.
    """
    out: Tensor = _LearnedStep.apply(raw, factor)
    return out
