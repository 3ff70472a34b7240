"""DSQ: the uniform quantiser with a soft gradient (Gong et al., arXiv 1908.05033)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hwq.quant.methods.contract import Quantizer, spread
from hwq.quant.methods.rounding import between, nearest, product_sum, signs
from hwq.quant.methods.uniform import UniformAct, UniformWeight

_START, _LEAST, _MOST = 0.2, 1e-3, 0.5


class _SoftQuant(torch.autograd.Function):
    """y = s * clamp(floor(x/s + 1/2), lo, hi); gradients as if each step between two codes were a tanh.

    With u = x/s - floor(x/s) - 1/2 in a cell, k = ln(2/a - 1) and z = 1/(1 - a), the soft step is
    s/2 * z tanh(k u), which meets the codes at u = -1/2, 1/2. So

        dx = g * z k/2 * sech^2(k u) for lo <= x/s <= hi, else 0
        da = sum of g * s/2 * (z^2 tanh(k u) - z u sech^2(k u) * 2 / (a (2 - a))) over the same x

    s has no gradient. With p = sigmoid(2 k u), sech^2(k u) = 4 p (1 - p) and tanh(k u) = 2 p - 1, which is
    fewer passes over x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Tensor, a: Tensor, lo: int, hi: int) -> Tensor:
        ctx.save_for_backward(x, s, a)
        ctx.limits = (lo, hi)
        return nearest(x, s, lo, hi)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, Tensor, None, None]:
        x, s, a = ctx.saved_tensors
        lo, hi = ctx.limits
        g = _within(grads[0], x, lo * s, hi * s)
        v = torch.div(x, s)
        if lo != 0:
            v.sub_(lo)
        # from lo on nothing is negative, so frac is v - floor(v)
        dx, da = _soft(g, v.frac_().sub_(0.5), a)
        return dx, None, da * s, None, None


class _SoftSign(torch.autograd.Function):
    """The 1-bit case: codes -1 and 1 are the ends of one cell, u = v/2, for |v| <= 1."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, a: Tensor) -> Tensor:
        ctx.save_for_backward(v, a)
        return signs(v)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        v, a = ctx.saved_tensors
        dv, da = _soft(grads[0] * (v.abs() <= 1), v / 2, a)
        return dv, da * 2


class _Kept(torch.autograd.Function):
    """clamp(raw, _LEAST, _MOST); the gradient passes, but not where a step would leave the range further."""

    @staticmethod
    def forward(ctx: Any, raw: Tensor) -> Tensor:
        ctx.save_for_backward(raw)
        return raw.clamp(_LEAST, _MOST)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (raw,) = ctx.saved_tensors
        g = grads[0]
        leaves = ((raw <= _LEAST) & (g > 0)) | ((raw >= _MOST) & (g < 0))
        return torch.where(leaves, 0.0, g)


def _soft(g: Tensor, u: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """(g z k/2 sech^2(k u), sum of g/2 (z^2 tanh(k u) - z u sech^2(k u) 2 / (a (2 - a)))).

    g is masked already; g and u are written over: fresh memory costs more than the arithmetic.
    """
    k, z = torch.log(2 / a - 1), 1 / (1 - a)
    p = torch.sigmoid(u.mul_(2 * k))
    tanh = 2 * product_sum(g, p) - g.sum()
    quarter = torch.ops.aten.sigmoid_backward(g, p, grad_input=g)  # g sech^2 / 4
    da = z.square() / 2 * tanh - 2 * z / (a * (2 - a) * k) * product_sum(quarter, u)
    return quarter.mul_(2 * z * k), da


def _within(g: Tensor, x: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    """g where lo <= x <= hi, else 0."""
    lo, hi = lo.to(x.dtype), hi.to(x.dtype)
    far = torch.full_like(hi, torch.inf)
    return between(g, x, torch.nextafter(lo, -far), torch.nextafter(hi, far))


class _Soft(Quantizer):
    """The learned a of a quantiser: how much of a step between two codes the soft step leaves out."""

    def learn_alpha(self) -> None:
        """Make the parameter behind `alpha`."""
        self.raw = nn.Parameter(torch.tensor(_START), requires_grad=not self.off)

    def alpha(self) -> Tensor:
        """0-dim, differentiable, in [0.001, 0.5]; starts at 0.2."""
        kept: Tensor = _Kept.apply(self.raw)
        return kept


class DsqWeight(_Soft, UniformWeight):
    """The codes and scale of `UniformWeight`, with the soft gradient inside |w| <= max|w|."""

    def __init__(self, bits: int, *, per_channel: bool = False, **_: object) -> None:
        super().__init__(bits, per_channel=per_channel)
        self.learn_alpha()

    def normalise(self, w: Tensor) -> tuple[Tensor, Tensor]:
        v, s = super().normalise(w)
        return (v / spread(self.reduced(v.detach()), w), s) if self.bits == 1 else (v, s)

    def _round(self, v: Tensor) -> Tensor:
        a = self.alpha().to(v.dtype)
        if self.bits == 1:
            signs: Tensor = _SoftSign.apply(v, a)
            return signs
        out: Tensor = _SoftQuant.apply(v, torch.ones_like(a), a, self.type.lo, self.type.hi)
        return out


class DsqAct(_Soft, UniformAct):
    """The codes and range of `UniformAct`, with the soft gradient inside the range."""

    def __init__(self, bits: int, *, signed: bool, init: float = 1.0) -> None:
        super().__init__(bits, signed=signed, init=init)
        self.learn_alpha()

    def quantise(self, x: Tensor) -> Tensor:
        out: Tensor = _SoftQuant.apply(x, self.step(), self.alpha(), self.type.lo, self.type.hi)
        return out
