"""Each method's codes and scales, from literals and from its definition."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from hwq.errors import InputError
from hwq.quant import Policy
from hwq.quant.methods.dorefa import Rescale
from hwq.quant.methods.rounding import fake_quant, round_clamp
from hwq.quant.methods.table import ACT_METHODS, WEIGHT_METHODS, make_act, make_weight

RESCALES = tuple(r.value for r in Rescale)
FIXED = ("pact-fixed",)
"""Methods whose range nothing changes."""


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
    for rescale in RESCALES if method == "dorefa" else ("none",):
        q = make_weight(method, bits, per_channel=per_channel, channels=6, rescale=rescale)
        q.start(w)
        codes, scale = q.codes(w)
        assert codes.dtype == torch.int64
        assert scale.dtype == torch.float64
        assert scale.shape == ((6,) if per_channel else ())
        assert q.type.lo <= int(codes.min())
        assert int(codes.max()) <= q.type.hi
        shown = codes * scale.reshape(-1, 1, 1, 1)
        assert torch.equal(q(w), shown)


@pytest.mark.parametrize("method", WEIGHT_METHODS)
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_per_channel_is_per_tensor_of_each_channel(method: str, bits: int) -> None:
    torch.manual_seed(0)
    w = torch.randn(5, 4, 3, 3, dtype=torch.float64) * torch.rand(5, 1, 1, 1)
    for rescale in RESCALES if method == "dorefa" else ("none",):
        whole = make_weight(method, bits, per_channel=True, channels=5, rescale=rescale)
        whole.start(w)
        codes, scale = whole.codes(w)
        for i in range(5):
            one = make_weight(method, bits, rescale=rescale)
            one.start(w[i : i + 1])
            got, s = one.codes(w[i : i + 1])
            assert torch.equal(got[0], codes[i])
            # means in another order of summation
            assert float(s) == pytest.approx(float(scale[i]), rel=1e-12)


def test_dorefa_from_its_definition() -> None:
    w = torch.tensor([[0.9, -0.3], [0.05, -0.9]])
    codes, scale = make_weight("dorefa", 4).codes(w)
    top = math.tanh(float(w[0, 0]))
    want = [[math.floor(math.tanh(v) / top * 7 + 0.5) for v in row] for row in w.tolist()]
    assert codes.tolist() == want == [[7, -3], [0, -7]]
    assert float(scale) == 1 / 7
    _, scale = make_weight("dorefa", 4, rescale="max").codes(w)
    assert float(scale) == float(w.double().max()) / 7


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_learned_range_starts_at_the_largest_weight(per_channel: bool) -> None:
    w = torch.randn(3, 8)
    learned, largest = (
        make_weight("dorefa", 4, per_channel=per_channel, channels=3, rescale=r) for r in ("learned", "max")
    )
    learned.start(w)
    assert torch.equal(learned(w), largest(w))
    with torch.no_grad():
        learned.raw.mul_(-2)  # type: ignore[operator, union-attr]
    assert torch.equal(learned(w), 2 * largest(w))  # positive whatever training makes of it


def test_two_bits_are_ternary_and_one_bit_is_the_sign() -> None:
    w = torch.tensor([[-0.8, -0.1, 0.0, 0.1, 0.8]])
    assert make_weight("dorefa", 2).codes(w)[0].tolist() == [[-1, 0, 0, 0, 1]]
    for method in WEIGHT_METHODS:
        q = make_weight(method, 1)
        q.start(w)
        codes, scale = q.codes(w)
        assert codes.tolist() == [[-1, -1, 1, 1, 1]]
        assert float(scale) == pytest.approx(1 if method == "dorefa" else 0.36)  # mean|w|, in float32


def test_uniform_weights_of_three_ranges() -> None:
    torch.manual_seed(1)
    w = torch.randn(50, 60, dtype=torch.float64)
    w[0, 0] = 9.0
    sizes = sorted(abs(v) for v in w.flatten().tolist())
    scale = {m: float(make_weight(m, 4).codes(w)[1]) for m in ("uniform", "percentile", "mse")}
    assert scale["uniform"] == 9 / 7
    assert scale["percentile"] == sizes[math.ceil(Fraction("0.999") * 3000) - 1] / 7
    errors = {}
    for i in range(33):
        s = 9 * 2 ** (-i / 8) / 7
        errors[s] = math.fsum((min(math.floor(v / s + 0.5), 7) * s - v) ** 2 for v in sizes)
    assert scale["mse"] == pytest.approx(min(errors, key=errors.__getitem__), rel=1e-15)
    assert 9 * 2 ** (-32 / 8) / 7 < scale["mse"] < scale["uniform"]


def test_least_error_does_not_depend_on_the_type() -> None:
    """Training works in float32, export in float64: both must choose the same range."""
    torch.manual_seed(2)
    for bits in (2, 3, 4, 8):
        for per_channel in (False, True):
            q = make_weight("mse", bits, per_channel=per_channel)
            w = torch.randn(7, 300)
            codes, scale = q.codes(w)
            shown = codes * (scale[:, None] if per_channel else scale)
            assert torch.equal(torch.sign(q(w)), torch.sign(shown).float())
            assert torch.allclose(q(w), shown.float(), rtol=1e-6, atol=0)  # the product rounds in float32


@pytest.mark.parametrize("method", ACT_METHODS)
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_activation_codes(method: str, bits: int, signed: bool) -> None:
    q = make_act(method, bits, signed=signed)
    q.set_bound(1.7)
    bound = 2.0 if method in FIXED else 1.7
    assert q.bound() == pytest.approx(bound, rel=1e-6)
    y = q(torch.linspace(-3, 3, 1001)).detach().double() / q.scale()
    assert (y - y.round()).abs().max() < 1e-2
    assert int(y.round().max()) == q.type.hi
    assert int(y.round().min()) == q.type.lo


@pytest.mark.parametrize("method", ACT_METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_codes_of_half_precision_are_those_of_the_values(method: str, dtype: torch.dtype) -> None:
    q = make_act(method, 8, signed=True)
    q.set_bound(1.7)
    x = torch.linspace(-3, 3, 1001).to(dtype)
    assert torch.equal(q(x), q(x.float()).to(dtype))


@pytest.mark.parametrize("method", [m for m in ACT_METHODS if m != "pact"])
def test_the_layout_in_memory_does_not_matter(method: str) -> None:
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        q = make_act(method, 4, signed=False).double()
        q.set_bound(1.7)
        generator = torch.Generator().manual_seed(0)
        x, g = torch.randn(2, 3, 5, 4, 6, generator=generator, dtype=torch.float64)
        x = x.to(memory_format=layout).requires_grad_()
        q(x).backward(g)  # the gradient's layout is the other one half the time
        assert x.grad is not None
        results.append([x.grad, *(p.grad for p in q.parameters())])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=0)  # sums in another order


def test_alpha_stays_positive() -> None:
    q = make_act("mpact", 8, signed=True)
    with torch.no_grad():
        q.raw.fill_(-30.0)  # type: ignore[union-attr, operator]
    assert q.scale() > 0


@pytest.mark.parametrize("method", WEIGHT_METHODS)
def test_zero_weights_stay_numbers(method: str) -> None:
    for bits in (1, 2, 8):
        for rescale in RESCALES:
            q = make_weight(method, bits, rescale=rescale)
            w = torch.zeros(3, 4, requires_grad=True)
            q.start(w)
            q(w).sum().backward()
            assert w.grad is not None
            assert torch.isfinite(w.grad).all()
            assert torch.isfinite(q(w)).all()


def test_off_passes_through_and_has_no_codes() -> None:
    w, x = torch.randn(2, 2), torch.randn(3)
    for method in WEIGHT_METHODS:
        q = make_weight(method, 32, rescale="learned")
        assert q(w) is w
        # distributed training refuses parameters without a gradient
        assert not any(p.requires_grad for p in q.parameters())
        with pytest.raises(InputError, match="not quantised"):
            q.codes(w)
    for method in ACT_METHODS:
        a = make_act(method, 32, signed=False)
        assert a.training
        assert a(x) is x
        assert not any(p.requires_grad for p in a.parameters())


@pytest.mark.parametrize("bits", [0, 17, 31, 33, -1])
def test_bits_out_of_range(bits: int) -> None:
    with pytest.raises(InputError):
        make_weight("dorefa", bits)
    with pytest.raises(InputError):
        Policy(act_bits=bits)


def test_unknown_methods() -> None:
    with pytest.raises(InputError, match="known: dorefa, dsq, lsq, mse, percentile, uniform"):
        make_weight("dorefaa", 8)
    with pytest.raises(InputError, match="known: dorefa, dsq, lsq"):
        make_act("x", 8, signed=True)


def test_the_help_names_every_method() -> None:
    from hwq.cli.train import command

    helps = {p.name: getattr(p, "help", "") for p in command.params}
    assert helps["weight_method"] == f"Weight method: {', '.join(WEIGHT_METHODS)}."
    assert helps["act_method"] == f"Activation method: {', '.join(ACT_METHODS)}."
