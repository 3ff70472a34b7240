"""DSQ: the uniform quantiser to the bit, whatever alpha and batch; what alpha does to gradients."""

from __future__ import annotations

import math

import pytest
import torch

from hwq.quant.methods.dsq import DsqAct, DsqWeight
from hwq.quant.methods.table import make_act, make_weight


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("raw", [-9.0, 0.02, 0.4, 9.0])
def test_weights_are_uniform(raw: float, per_channel: bool, bits: int) -> None:
    torch.manual_seed(bits)
    w = torch.randn(5, 3, 3, 3)
    q, plain = (make_weight(m, bits, per_channel=per_channel, channels=5) for m in ("dsq", "uniform"))
    assert isinstance(q, DsqWeight)
    with torch.no_grad():
        q.raw.fill_(raw)
    assert torch.equal(q(w), plain(w))
    for a, b in zip(q.codes(w), plain.codes(w), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bound", [0.3, 1.7, None])
def test_activations_are_uniform(bound: float | None, signed: bool, bits: int) -> None:
    """Also while both follow the batches."""
    generator = torch.Generator().manual_seed(bits)
    q, plain = make_act("dsq", bits, signed=signed), make_act("uniform", bits, signed=signed)
    if bound is not None:
        q.set_bound(bound)
        plain.set_bound(bound)
    for _ in range(3):
        x = torch.randn(4, 50, generator=generator) * 2
        assert torch.equal(q(x), plain(x))
        assert q.scale() == plain.scale()


def test_evaluation_does_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    q = make_act("dsq", 4, signed=False)
    x = torch.rand(32, 3, 4, 4) * torch.arange(1, 33).reshape(-1, 1, 1, 1)
    q(x[:8])  # training: the range follows the batch
    q.eval()
    before = {k: v.clone() for k, v in q.state_dict().items()}
    whole = q(x)
    assert torch.equal(whole, torch.cat([q(one) for one in x.split(1)]))
    assert torch.equal(whole[20:], q(x[20:]))
    assert all(torch.equal(v, before[k]) for k, v in q.state_dict().items())


def test_alpha_starts_at_a_fifth_and_stays_in_its_range() -> None:
    for q in (make_act("dsq", 4, signed=True), make_weight("dsq", 4)):
        assert isinstance(q, DsqAct | DsqWeight)
        assert float(q.alpha().detach()) == pytest.approx(0.2, rel=1e-6)  # float32
        for raw in (-1e4, -5.0, 0.0, 0.01, 0.49, 5.0, 1e4):
            with torch.no_grad():
                q.raw.fill_(raw)
            assert 0 < float(q.alpha().detach()) <= 0.5
            if 0.001 < raw < 0.5:
                assert float(q.alpha().detach()) == float(q.raw.detach())
            x = torch.linspace(-1, 1, 101, requires_grad=True)
            q(x).square().sum().backward()
            assert x.grad is not None
            assert torch.isfinite(x.grad).all()
            assert torch.isfinite(q.raw.grad).all()  # type: ignore[arg-type]


@pytest.mark.parametrize(("raw", "inwards"), [(-0.3, -1.0), (0.001, -1.0), (0.5, 1.0), (0.9, 1.0)])
def test_alpha_turns_round_at_the_ends_of_its_range(raw: float, inwards: float) -> None:
    """A gradient that would drive it out is dropped, one that leads back is kept."""
    q = make_act("dsq", 4, signed=True)
    assert isinstance(q, DsqAct)
    for sign in (1.0, -1.0):
        with torch.no_grad():
            q.raw.fill_(raw)
        q.zero_grad()
        (q.alpha() * sign * 3).backward()
        assert q.raw.grad is not None
        assert float(q.raw.grad) == (sign * 3 if sign == inwards else 0)


def test_a_small_alpha_gathers_the_gradient_at_the_ties() -> None:
    """Over one cell the gradient integrates to 1, whatever alpha is; a large alpha spreads it."""
    q = make_act("dsq", 4, signed=False).double()
    assert isinstance(q, DsqAct)
    q.set_bound(15.0)
    x = (3 + (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000).requires_grad_()
    for raw in (0.01, 0.15, 0.5):
        with torch.no_grad():
            q.raw.fill_(raw)
        x.grad = None
        q(x).sum().backward()
        assert x.grad is not None
        # the midpoint rule with 20,000 points
        assert float(x.grad.mean()) == pytest.approx(1, abs=1e-6)
        assert int(x.grad.argmax()) in (9999, 10000)
        # z k / 2, at 1/40,000 from the middle
        assert float(x.grad.max()) == pytest.approx(math.log(2 / raw - 1) / (1 - raw) / 2, abs=1e-6)
