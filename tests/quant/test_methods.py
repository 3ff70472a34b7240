"""Each method's codes, scales and gradients, from literals and from its definition."""

from __future__ import annotations

import math

import pytest
import torch

from hwq.errors import InputError
from hwq.quant import Policy
from hwq.quant.methods import ACT_METHODS, WEIGHT_METHODS, make_act, make_weight
from hwq.quant.rounding import fake_quant, round_clamp


def test_ties_go_up() -> None:
    v = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    assert round_clamp(v, -7, 7).tolist() == [-2, -1, 0, 1, 2, 3]
    assert fake_quant(v, torch.tensor(1.0), -7, 7).tolist() == [-2, -1, 0, 1, 2, 3]


@pytest.mark.parametrize("method", WEIGHT_METHODS)
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("per_channel", [False, True])
def test_weight_codes_are_what_training_sees(method: str, bits: int, per_channel: bool) -> None:
    torch.manual_seed(bits)
    w = torch.randn(6, 3, 2, 2, dtype=torch.float64) * 0.2
    for rescale in ("none", "std", "max"):
        q = make_weight(method, bits, per_channel=per_channel, channels=6, rescale=rescale)
        codes, scale = q.codes(w)
        assert codes.dtype == torch.int64
        assert scale.dtype == torch.float64
        assert scale.shape == ((6,) if per_channel else ())
        assert q.type.lo <= int(codes.min())
        assert int(codes.max()) <= q.type.hi
        shown = codes * scale.reshape(-1, 1, 1, 1)
        assert torch.equal(q(w), shown)


def test_dorefa_from_its_definition() -> None:
    w = torch.tensor([[0.9, -0.3], [0.05, -0.9]])
    codes, scale = make_weight("dorefa", 4).codes(w)
    top = math.tanh(float(w[0, 0]))
    want = [[math.floor(math.tanh(v) / top * 7 + 0.5) for v in row] for row in w.tolist()]
    assert codes.tolist() == want == [[7, -3], [0, -7]]
    assert float(scale) == 1 / 7
    _, scale = make_weight("dorefa", 4, rescale="max").codes(w)
    assert float(scale) == float(w.double().max()) / 7


def test_two_bits_are_ternary_and_one_bit_is_the_sign() -> None:
    w = torch.tensor([[-0.8, -0.1, 0.0, 0.1, 0.8]])
    assert make_weight("dorefa", 2).codes(w)[0].tolist() == [[-1, 0, 0, 0, 1]]
    codes, scale = make_weight("dorefa", 1).codes(w)
    assert codes.tolist() == [[-1, -1, 1, 1, 1]]
    assert float(scale) == 1


def test_dorefa_gradient_is_that_of_tanh_over_max() -> None:
    w = torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64, requires_grad=True)
    g = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    make_weight("dorefa", 8)(w).backward(g)
    smooth = w.detach().clone().requires_grad_()
    t = torch.tanh(smooth)
    (t / t.abs().max()).backward(g)
    assert w.grad is not None
    assert smooth.grad is not None
    assert torch.allclose(w.grad, smooth.grad, rtol=1e-12, atol=0)  # float64, another order of operations


@pytest.mark.parametrize("signed", [False, True])
def test_mpact_gradients(signed: bool) -> None:
    q = make_act("mpact", 4, signed=signed)
    q.set_bound(2.0)
    top = float(q.step().detach()) * q.type.hi
    x = torch.tensor([-3.0, -top, -1.0, 0.5, 1.0, top, 3.0], requires_grad=True)
    g = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
    q(x).backward(g)
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0, 4.0 if signed else 0, 8, 16, 0, 0]
    raw = q.raw
    assert isinstance(raw, torch.nn.Parameter)
    assert raw.grad is not None
    want = (32 + 64) - ((1 + 2) if signed else 0)
    slope = float(torch.sigmoid(raw.detach()))
    assert float(raw.grad) == pytest.approx(want * slope, rel=1e-6)


@pytest.mark.parametrize("method", ACT_METHODS)
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_activation_codes(method: str, bits: int, signed: bool) -> None:
    q = make_act(method, bits, signed=signed)
    q.set_bound(1.7)
    assert q.scale() * q.type.hi == pytest.approx(1.7, rel=1e-6)
    y = q(torch.linspace(-3, 3, 1001)).detach().double() / q.scale()
    assert (y - y.round()).abs().max() < 1e-2
    assert int(y.round().max()) == q.type.hi
    assert int(y.round().min()) == q.type.lo


def test_alpha_stays_positive() -> None:
    q = make_act("mpact", 8, signed=True)
    with torch.no_grad():
        q.raw.fill_(-30.0)  # type: ignore[union-attr, operator]
    assert q.scale() > 0


def test_off_passes_through_and_has_no_codes() -> None:
    w, x = torch.randn(2, 2), torch.randn(3)
    q, a = make_weight("dorefa", 32), make_act("pact", 32, signed=False)
    assert q(w) is w
    assert a(x) is x
    with pytest.raises(InputError, match="not quantised"):
        q.codes(w)


@pytest.mark.parametrize("bits", [0, 17, 31, 33, -1])
def test_bits_out_of_range(bits: int) -> None:
    with pytest.raises(InputError):
        make_weight("dorefa", bits)
    with pytest.raises(InputError):
        Policy(act_bits=bits)


def test_unknown_methods() -> None:
    with pytest.raises(InputError, match="known: dorefa"):
        make_weight("dorefaa", 8)
    with pytest.raises(InputError, match="known: mpact"):
        make_act("x", 8, signed=True)
