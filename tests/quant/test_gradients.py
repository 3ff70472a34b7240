"""Every method's gradients against its formula, written out for one value at a time, in float64.

Values include ties, codes, both ends of the range to the bit, and what lies outside. Tolerances are those
of float64 sums in another order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hwq.quant import ActQuantizer, WeightQuantizer
from hwq.quant.methods.dorefa import DoReFa
from hwq.quant.methods.dsq import DsqAct, DsqWeight
from hwq.quant.methods.lsq import LsqAct, LsqWeight
from hwq.quant.methods.pact import MPact
from hwq.quant.methods.table import ACT_METHODS, WEIGHT_METHODS, make_act, make_weight
from hwq.quant.methods.uniform import UniformAct, UniformWeight

Closed = tuple[list[float], float | None]
"""Gradients of the values, and of the learned parameter."""


def rd(v: float) -> int:
    return math.floor(v + 0.5)


def soft(v: float, alpha: float) -> tuple[float, float]:
    """d/dv and d/dalpha of DSQ's soft step at v codes, as the paper writes it, cell width 1."""
    k, z = math.log(2 / alpha - 1), 1 / (1 - alpha)
    u = v - math.floor(v) - 0.5
    tanh, sech2 = math.tanh(k * u), 1 / math.cosh(k * u) ** 2
    dk = -2 / (alpha * (2 - alpha))
    return z * k / 2 * sech2, (z**2 * tanh + z * sech2 * u * dk) / 2


def lsq(x: list[float], g: list[float], s: float, lo: int, hi: int) -> Closed:
    dx, ds = [], 0.0
    for value, up in zip(x, g, strict=True):
        v = value / s
        inside = lo * s < value < hi * s
        dx.append(up if inside else 0.0)
        ds += up * ((rd(v) - v) if inside else lo if v < 0 or lo == v else hi)
    return dx, ds


def pact(x: list[float], g: list[float], s: float, lo: int, hi: int) -> Closed:
    above = sum(up for value, up in zip(x, g, strict=True) if value >= hi * s)
    below = sum(up for value, up in zip(x, g, strict=True) if value <= lo * s)
    dx = [up if lo * s < value < hi * s else 0.0 for value, up in zip(x, g, strict=True)]
    return dx, above - below if lo else above


def dsq(x: list[float], g: list[float], s: float, lo: int, hi: int, alpha: float) -> Closed:
    dx, da = [], 0.0
    for value, up in zip(x, g, strict=True):
        dv, dalpha = soft(value / s, alpha) if lo * s <= value <= hi * s else (0.0, 0.0)
        dx.append(up * dv)
        da += up * s * dalpha
    return dx, da


def spots(s: float, lo: int, hi: int) -> list[float]:
    """Codes, ties, quarters, both ends with their neighbours, and beyond."""
    values = [s * k / 4 for k in range(4 * lo - 9, 4 * hi + 10)]
    for end in (lo * s, hi * s):
        values += [end, math.nextafter(end, -math.inf), math.nextafter(end, math.inf), end - 100, end + 100]
    return [*values, 1e-300, -1e-300]


def upstream(count: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(count), dtype=torch.float64)


def assert_close(got: Tensor | None, want: float | list[float]) -> None:
    assert got is not None
    assert torch.allclose(got, torch.tensor(want, dtype=torch.float64), rtol=1e-11, atol=1e-13)


# -- activations


def ready(method: str, bits: int, signed: bool) -> tuple[ActQuantizer, float]:
    """A float64 quantiser and its step: 1/4, where the method lets one choose it so exactly."""
    q = make_act(method, bits, signed=signed).double()
    q.set_bound(0.25 * q.type.hi)
    return q, float(q.step().detach())


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("method", ACT_METHODS)
def test_activations(method: str, bits: int, signed: bool) -> None:
    q, s = ready(method, bits, signed)
    lo, hi = q.type.lo, q.type.hi
    values = spots(s, lo, hi)
    x = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    g = upstream(len(values))
    y = q(x)
    assert y.tolist() == [min(max(rd(v / s), lo), hi) * s for v in values]
    y.backward(g)
    match q:
        case LsqAct():
            dx, ds = lsq(values, g.tolist(), s, lo, hi)
            assert ds is not None
            assert_close(x.grad, dx)
            assert_close(q.raw.grad, ds / math.sqrt(1 * hi))  # one value an image
        case DsqAct():
            alpha = float(q.alpha().detach())
            dx, da = dsq(values, g.tolist(), s, lo, hi, alpha)
            assert da is not None
            assert_close(x.grad, dx)
            assert_close(q.raw.grad, da)
        case MPact():
            dx, da = pact(values, g.tolist(), s, lo, hi)
            assert da is not None
            assert_close(x.grad, dx)
            assert_close(q.raw.grad, da * float(torch.sigmoid(q.raw.detach())))
        case UniformAct():
            assert_close(x.grad, pact(values, g.tolist(), s, lo, hi)[0])
            assert not list(q.parameters())
        case _:
            pytest.fail(f"no formula for {method}")


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("method", ["pact", "mpact"])
def test_clipping_values_grow_where_values_are_clipped(method: str, sign: float) -> None:
    """Each sign alone: da = g at x >= a, -g at x <= -a, nothing anywhere else."""
    q, s = ready(method, 4, signed=True)
    top = s * q.type.hi
    for size, share in ((top, 1.0), (3 * top, 1.0), (math.nextafter(top, 0), 0.0), (0.4 * top, 0.0)):
        q.zero_grad()
        q(torch.tensor([sign * size, 0.1, -0.1], dtype=torch.float64)).backward(
            torch.tensor([0.7, 5.0, 11.0], dtype=torch.float64)
        )
        slope = float(torch.sigmoid(q.raw.detach()))  # type: ignore[arg-type]
        assert_close(q.raw.grad, sign * share * 0.7 * slope)  # type: ignore[arg-type, union-attr]


def test_unsigned_clipping_has_no_part_below() -> None:
    q, _ = ready("pact", 4, signed=False)
    q(torch.tensor([-5.0, 0.0, 1.0], dtype=torch.float64)).sum().backward()
    assert float(q.raw.grad) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("method", ["lsq", "lsq+"])
def test_three_forms_of_lsq(method: str, bits: int, signed: bool) -> None:
    """The paper's piecewise formula, the composition of straight-through parts, and the fused one."""
    q, s = ready(method, bits, signed)
    lo, hi = q.type.lo, q.type.hi
    generator = torch.Generator().manual_seed(bits)
    x = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64) * hi * s
    x[0, :2] = s * (torch.randint(lo, hi, (2, 5), generator=generator) + 0.5)  # ties
    x[0, 2, :2] = torch.tensor([lo * s, hi * s])
    g = upstream(x.numel()).view_as(x)
    fused = x.clone().requires_grad_()
    q(fused).backward(g)

    composed, step = x.clone().requires_grad_(), torch.tensor(s, dtype=torch.float64, requires_grad=True)
    v = composed / step
    clipped = torch.where(v >= hi, float(hi), torch.where(v <= lo, float(lo), v))
    codes = clipped + (torch.floor(clipped + 0.5) - clipped).detach()
    (codes * step).backward(g)

    dx, ds = lsq(x.flatten().tolist(), g.flatten().tolist(), s, lo, hi)
    factor = 1 / math.sqrt(20 * hi)  # 20 values an image
    assert fused.grad is not None
    assert composed.grad is not None
    assert step.grad is not None
    assert torch.allclose(fused.grad, composed.grad, rtol=1e-12, atol=1e-12)
    assert fused.grad.flatten().tolist() == dx
    raw = q.raw.grad
    assert isinstance(raw, Tensor)
    assert float(raw) == pytest.approx(float(step.grad) * factor, rel=1e-12, abs=1e-12)
    assert ds is not None
    assert float(raw) == pytest.approx(ds * factor, rel=1e-12, abs=1e-12)


# -- weights


def weight_case() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    w, g = torch.randn(2, 3, 40, generator=generator, dtype=torch.float64)
    w *= torch.tensor([[0.3], [0.1], [1.0]])
    w[:, 1] = w[:, 0]  # the same value twice
    w[:, 2] = 0.0
    return w, g


def by_channel(method: str, bits: int, per_channel: bool, **more: Any) -> WeightQuantizer:
    return make_weight(method, bits, per_channel=per_channel, channels=3, **more).double()


def closed(
    q: WeightQuantizer, w: Tensor, g: Tensor, formula: Callable[[list[float], list[float], float], Closed]
) -> tuple[Tensor, list[float]]:
    """`formula` on the whole tensor, or channel by channel."""
    scale = q.codes(w)[1]
    if not q.per_channel:
        dw, ds = formula(w.flatten().tolist(), g.flatten().tolist(), float(scale))
        return torch.tensor(dw, dtype=torch.float64).view_as(w), [ds or 0.0]
    parts = [formula(w[i].tolist(), g[i].tolist(), float(scale[i])) for i in range(len(w))]
    return torch.tensor([dw for dw, _ in parts], dtype=torch.float64), [ds or 0.0 for _, ds in parts]


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_lsq_weights(bits: int, per_channel: bool) -> None:
    w, g = weight_case()
    q = by_channel("lsq", bits, per_channel)
    assert isinstance(q, LsqWeight)
    q.start(w)
    with torch.no_grad():
        q.raw.copy_(torch.exp2(q.raw.log2().floor()))
        w[:, 3], w[:, 4] = q.raw * q.type.hi, -q.raw * q.type.hi  # both ends
        w[:, 5] = 0.5 * q.raw  # a tie
    leaf = w.clone().requires_grad_()
    q(leaf).backward(g)

    def formula(x: list[float], up: list[float], s: float) -> Closed:
        if bits == 1:
            return up, sum(u if v >= 0 else -u for v, u in zip(x, up, strict=True))
        return lsq(x, up, s, q.type.lo, q.type.hi)

    dw, ds = closed(q, w, g, formula)
    factor = 1 / math.sqrt(w.numel() / len(ds) * q.type.hi)
    assert_close(leaf.grad, dw.tolist())
    assert q.raw.grad is not None
    assert_close(q.raw.grad.reshape(-1), [v * factor for v in ds])


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_dsq_weights(bits: int, per_channel: bool) -> None:
    w, g = weight_case()
    q = by_channel("dsq", bits, per_channel)
    assert isinstance(q, DsqWeight)
    with torch.no_grad():
        q.raw.fill_(0.13)
    alpha = float(q.alpha().detach())
    leaf = w.clone().requires_grad_()
    q(leaf).backward(g)

    def formula(x: list[float], up: list[float], s: float) -> Closed:
        if bits > 1:
            # in codes, where the largest weight is R to the bit
            top = max(map(abs, x))
            dw, da = dsq([v / top * q.type.hi for v in x], up, 1.0, q.type.lo, q.type.hi, alpha)
            return dw, (da or 0.0) * s
        # one cell from -top to top, whose ends stand for -s and s
        top = max(map(abs, x))
        parts = [soft(v / top / 2 + 0.5 if abs(v) < top else 0.0, alpha) for v in x]
        dw = [u * d * s / top for u, (d, _) in zip(up, parts, strict=True)]
        return dw, sum(u * 2 * s * d for u, (_, d) in zip(up, parts, strict=True))

    dw, da = closed(q, w, g, formula)
    assert_close(leaf.grad, dw.tolist())
    assert_close(q.raw.grad, sum(da))


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("method", ["uniform", "percentile", "mse"])
def test_uniform_weights(method: str, bits: int, per_channel: bool) -> None:
    generator = torch.Generator().manual_seed(7)
    w, g = torch.randn(2, 3, 1500, generator=generator, dtype=torch.float64)
    w[:, 0] *= 5
    q = by_channel(method, bits, per_channel)
    assert isinstance(q, UniformWeight)
    leaf = w.clone().requires_grad_()
    q(leaf).backward(g)
    inside = (w.abs() <= q.clip(w).reshape(-1, 1)) | torch.tensor(bits == 1)
    clipped = int((~inside).sum())
    if bits == 1 or method == "uniform":
        assert clipped == 0
    elif method == "percentile":
        assert clipped == (3 if per_channel else 4)  # above the 1499th of 1500, the 4496th of 4500
    else:
        assert (clipped > 0) == (bits < 8)
    assert leaf.grad is not None
    # dw is g itself but for the roundings of w / c * R * s
    assert torch.allclose(leaf.grad, g * inside, rtol=1e-14, atol=0)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("rescale", ["none", "std", "max", "learned"])
def test_dorefa_weights(rescale: str, bits: int, per_channel: bool) -> None:
    """Straight-through at the rounding, otherwise torch's own derivative of the definition."""
    w, g = weight_case()
    q = by_channel("dorefa", bits, per_channel, rescale=rescale)
    assert isinstance(q, DoReFa)
    q.start(w)
    leaf = w.clone().requires_grad_()
    q(leaf).backward(g)

    plain = w.clone().requires_grad_()
    rows = plain if per_channel else plain.reshape(1, -1)
    t = torch.tanh(rows)
    v = t / t.abs().amax(1, keepdim=True) * q.type.hi
    codes = torch.where(v >= 0, 1.0, -1.0).double() if bits == 1 else torch.floor(v + 0.5)
    learned = torch.zeros(len(rows), 1, dtype=torch.float64)
    if rescale == "none":
        size = torch.ones(len(rows), 1, dtype=torch.float64)
    elif rescale == "learned":
        learned = q.raw.detach().reshape(-1, 1).clone().requires_grad_()
        size = learned
    elif bits == 1:
        size = rows.abs().mean(1, keepdim=True)
    elif rescale == "max":
        size = rows.abs().amax(1, keepdim=True)
    else:
        rms = rows.square().mean(1, keepdim=True).sqrt()
        size = rms / (codes / q.type.hi).square().mean(1, keepdim=True).sqrt()
    shown = (v + (codes - v).detach()) * size / q.type.hi
    shown.reshape(w.shape).backward(g)
    assert plain.grad is not None
    assert_close(leaf.grad, plain.grad.tolist())
    if rescale == "learned":
        assert learned.grad is not None
        assert q.raw.grad is not None
        factor = 1 / math.sqrt(rows.shape[1] * q.type.hi)
        assert_close(q.raw.grad.reshape(-1), (learned.grad.reshape(-1) * factor).tolist())


def test_every_weight_method_has_a_gradient_test() -> None:
    assert set(WEIGHT_METHODS) == {"dorefa", "dsq", "lsq", "mse", "percentile", "uniform"}


# -- the smooth part, by differences


@pytest.mark.parametrize("alpha", [0.02, 0.2, 0.45])
def test_soft_steps_are_derivatives(alpha: float) -> None:
    """`soft` above, which the tests of DSQ rest on, against differences of the paper's function."""

    def step(v: float, a: float) -> float:
        k, u = math.log(2 / a - 1), v - math.floor(v) - 0.5
        return math.floor(v) + (math.tanh(k * u) / (1 - a) + 1) / 2

    h = 1e-6
    for v in (-2.9, -0.6, 0.1, 0.35, 0.5, 0.77, 3.2):
        dv, da = soft(v, alpha)
        # central differences: accurate to h^2, and to the rounding of float64 over h
        assert dv == pytest.approx((step(v + h, alpha) - step(v - h, alpha)) / 2 / h, abs=1e-7)
        assert da == pytest.approx((step(v, alpha + h) - step(v, alpha - h)) / 2 / h, abs=1e-7)
    for code in (-1.0, 0.0, 2.0):  # the soft step goes through the codes
        assert step(code, alpha) == pytest.approx(code, abs=1e-12)
        assert step(code - 1e-12, alpha) == pytest.approx(code, abs=1e-9)
