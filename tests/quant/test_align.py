"""Scales that suit a format: multipliers become numbers that it stores, and the network stays what it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from hwq.fixed import Rounding, parse_edge, parse_format
from hwq.lower import Formats
from hwq.quant import WEIGHT_METHODS, Policy, QuantConv2d, QuantLinear, prepare
from hwq.quant.calibration.align import align, settle
from hwq.quant.fixedpoint.folded import FoldedNetwork
from hwq.quant.fixedpoint.requantise import ActScale
from hwq.quant.placing.steps import own_steps, with_steps
from tests.lower.reference import prepared

MEAN, STD = [0.5], [0.25]


class Net(nn.Module):
    """A residual block with an identity, a pool, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv, self.bn2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.pool, self.linear = nn.AvgPool2d(8), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        x = torch.relu(self.bn2(self.conv(x)) + x)
        return self.linear(self.pool(x).flatten(1))


def network(policy: Policy, seed: int = 1) -> fx.GraphModule:
    return prepared(Net(), (8, 8, 1), policy, seed)


def images(seed: int = 0, count: int = 64) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed)).clamp(-2, 2)


def chosen(body: str, rounding: Rounding = Rounding.RND) -> Formats:
    return Formats(body=parse_format(body), edge=parse_edge("32,16"), rounding=rounding)


def view_of(model: fx.GraphModule, formats: Formats) -> FoldedNetwork:
    return FoldedNetwork(model, formats, MEAN, STD).eval()


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("method", list(WEIGHT_METHODS))
def test_own_steps_keep_every_code(method: str, per_channel: bool, bits: int) -> None:
    policy = Policy(weight_bits=bits, act_bits=8, weight_method=method, per_channel=per_channel)
    model = network(policy)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, QuantConv2d | QuantLinear)}
    before = {n: m.weight_quant.codes(m.weight) for n, m in layers.items()}
    own_steps(model)
    for name, layer in layers.items():
        codes, scale = layer.weight_quant.codes(layer.weight)
        # weights and steps are float32 again: at 16 bits a code in so many thousands lies that near a tie
        moved = (codes != before[name][0]).double().mean()
        assert moved == 0 if bits < 16 else moved < 0.01
        torch.testing.assert_close(scale, before[name][1].expand_as(scale), rtol=1e-7, atol=0)
    # a checkpoint's policy builds the same network
    again = prepare(Net(), with_steps(policy), (8, 8, 1))
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }


BODIES = ("16,8", "16,6", "6,channel", "4,channel", "shift", "8,auto", "14,6,TRN,WRAP", "32,10")


@pytest.mark.parametrize("method", ["uniform", "dorefa"])
@pytest.mark.parametrize("body", BODIES)
def test_multipliers_become_stored_numbers(body: str, method: str) -> None:
    model = network(Policy(weight_method=method, act_method="uniform"))
    own_steps(model)
    view = view_of(model, chosen(body))
    align(view, [images()])
    for requantisation in view.requantisations:
        if not isinstance(requantisation.end, ActScale):
            continue
        stored = requantisation.stored()
        assert stored is not None
        scale = requantisation.end().detach()
        for term, constants in zip(requantisation.terms, stored, strict=False):
            real = term.multiplier(scale).reshape(-1).numpy()
            live = real != 0  # one channel's gamma is 0
            assert constants.raw[live].all()
            # scales are float32, and a step is nudged by 2^-20 where constants truncate
            np.testing.assert_allclose(constants.values(), real, rtol=2e-6, atol=0)


@pytest.mark.parametrize(("body", "share"), [("16,8", 0.75), ("5,channel", 0.5), ("shift", 0.5)])
def test_outputs_stay_close_where_they_were_lost(body: str, share: float) -> None:
    """Weights of 8 bits leave room for coarser steps: logits stay, which the plain format destroys.

    Of five networks the middle one: where a format happens to suit the weights there is little to win.
    """
    errors = torch.tensor([_errors(body, seed) for seed in range(5)])
    plain, aligned = errors.median(0).values
    assert aligned < 0.25
    assert aligned < share * plain


def _errors(body: str, seed: int) -> tuple[float, float]:
    """Of the logits of one network, in their standard deviations: as it is, and aligned."""
    torch.manual_seed(seed)
    model = network(Policy(weight_method="uniform", act_method="uniform", per_channel=True), seed)
    # gains as small as trained networks have them against their weights
    with torch.no_grad():
        model.get_submodule("stem").weight.mul_(0.02)
        model.get_submodule("bn").running_var.mul_(0.0004)
    own_steps(model)
    view = view_of(model, chosen(body))
    x = images(3)
    with torch.no_grad():
        view.compare(real=True)
        want = view(x)
        view.compare(real=False)
        plain = (view(x) - want).square().mean().sqrt() / want.std()
        align(view, [images()])
        aligned = (view(x) - want).square().mean().sqrt() / want.std()
    return float(plain), float(aligned)


def test_floor_is_made_up_for_by_the_biases() -> None:
    model = network(Policy(weight_method="lsq", act_method="uniform", weight_bits=4, act_bits=4))
    own_steps(model)
    view = view_of(model, chosen("32,10", Rounding.TRN))
    x = images(3)
    with torch.no_grad():
        view.compare(real=True)
        want = view(x)
        view.compare(real=False)
        before = (view(x) - want).mean(0).abs().max()
        align(view, [images()])
        after = (view(x) - want).mean(0).abs().max()
    assert after < before / 4
    beta = (
        model.get_submodule("bn").bias - network(Policy(weight_bits=4, act_bits=4)).get_submodule("bn").bias
    )
    step = view.requantisations[0].end()
    # half a code, but for what the images' sums round to
    torch.testing.assert_close(beta, torch.full_like(beta, float(step) / 2), rtol=0.2, atol=float(step) / 50)


def test_biases_stay_in_range_of_a_literal_format() -> None:
    """At 12,4 biases beyond 8 codes saturate: the activation's scale grows until they matter less."""
    model = network(Policy(weight_method="uniform", act_method="uniform"))
    with torch.no_grad():
        model.get_submodule("bn").bias.add_(1.0)
    own_steps(model)
    view = view_of(model, chosen("12,4"))
    end = view.requantisations[0].end
    assert isinstance(end, ActScale)
    before, bias = end.quantizer.scale(), view.requantisations[0].bias().detach()
    assert float((bias / before).abs().max()) > 8
    align(view, [images()])
    assert end.quantizer.scale() > 2 * before


def test_settle_leaves_weights_and_biases() -> None:
    model = network(Policy(weight_method="lsq", act_method="lsq"))
    own_steps(model)
    settle(view_of(model, chosen("16,8")))
    learning = {n for n, p in model.named_parameters() if p.requires_grad}
    layers = {"stem.weight", "conv.weight", "linear.weight", "linear.bias"}
    assert learning == layers | {"bn.bias", "bn2.bias"}
