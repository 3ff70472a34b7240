"""Learning-rate curves, optimiser groups, and the moving average, against their formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import fx, nn

from hwq.errors import InputError
from hwq.models import build
from hwq.quant import Policy, Quantizer, prepare
from hwq.train import Schedule
from hwq.train.ema import Average
from hwq.train.optimise import fill_optimiser, make_optimiser, optimiser_state, set_rate
from hwq.train.schedule import learning_rate
from tests.train.runs import TINY

HALF = (1 + math.cos(math.pi / 2)) / 2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # ten epochs of ten iterations: {iterations done: rate}
        ({}, {0: 0.1, 50: 0.1 * HALF, 100: 0.0}),
        ({"final_lr": 0.02}, {0: 0.1, 50: 0.02 + 0.08 * HALF, 100: 0.02, 200: 0.02}),
        ({"warmup": 1.0}, {0: 0.1 / 11, 9: 0.1 * 10 / 11, 10: 0.1, 55: 0.1 * HALF}),
        ({"schedule": "linear"}, {0: 0.1, 25: 0.075, 100: 0.0}),
        (
            {"schedule": "linear", "warmup": 2.0, "final_lr": 0.05},
            {0: 0.1 / 21, 20: 0.1, 60: 0.075, 100: 0.05},
        ),
        (
            {"schedule": "step", "step_epochs": 3.0},
            {0: 0.1, 29: 0.1, 30: 0.01, 59: 0.01, 60: 0.001, 99: 1e-4},
        ),
        ({"schedule": "step", "step_epochs": 0.5, "gamma": 0.5}, {4: 0.1, 5: 0.05, 10: 0.025}),
        (
            {"schedule": "step", "step_epochs": 2.0, "warmup": 3.0},
            {0: 0.1 / 31, 29: 3 / 31, 30: 0.01, 40: 0.001},
        ),
        (
            {"schedule": "multistep", "milestones": (2.5, 8.0), "gamma": 0.2},
            {0: 0.1, 24: 0.1, 25: 0.02, 79: 0.02, 80: 0.004, 99: 0.004},
        ),
        ({"schedule": "multistep", "milestones": (2.0,), "warmup": 1.0}, {4: 0.5 / 11, 10: 0.1, 20: 0.01}),
        ({"schedule": "onecycle"}, {0: 0.004, 15: 0.052, 30: 0.1, 65: (0.1 + 1e-5) / 2, 100: 1e-5}),
        ({"schedule": "onecycle", "warmup": 5.0}, {0: 0.004, 25: 0.052, 50: 0.1, 100: 1e-5}),
    ],
)
def test_learning_rates(changes: dict[str, Any], expected: dict[int, float]) -> None:
    schedule = Schedule(epochs=10, lr=0.1, **changes)
    # the tolerance covers the last bits of cosines and of powers of gamma
    assert {i: learning_rate(schedule, 10, i) for i in expected} == pytest.approx(
        expected, rel=1e-12, abs=1e-17
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"optimiser": "lion"}, "optimiser must be sgd, adam, adamw, not 'lion'"),
        ({"schedule": "multistep"}, "needs milestones"),
        ({"schedule": "multistep", "milestones": (3.0, 2.0)}, "rising"),
        ({"milestones": (0.0, 2.0)}, "rising"),
        ({"step_epochs": 0.0}, "step_epochs must be 1e-06 to 1e"),
        ({"gamma": -1.0}, "gamma must be 0 to 1, not"),
        ({"gamma": 10.0}, "gamma must be 0 to 1, not"),
        ({"label_smoothing": 1.5}, "label_smoothing must be at least 0 and below 1, not 1.5"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"label_smoothing": -0.1}, "label_smoothing"),
        ({"label_smoothing": float("nan")}, "label_smoothing"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1"),
        ({"momentum": -0.9}, "momentum"),
        ({"bn_estimate": 1}, r"bn_estimate must be 0 \(none\) or at least 2 images, not 1"),
        ({"bn_estimate": -2}, "bn_estimate"),
        ({"eps": 0.0}, "eps must be 1e-30 to 1"),
        ({"beta1": -0.1}, "beta1"),
        ({"quant_lr": -1.0}, "quant_lr"),
        ({"quant_lr": float("inf")}, "quant_lr"),
        ({"weight_decay": -1e-4}, "weight_decay"),
        ({"alpha_decay": -1e-4}, "alpha_decay"),
        ({"warmup": -1.0}, "warmup"),
        ({"lr": float("nan")}, "lr"),
        ({"epochs": -1}, "epochs"),
        ({"batch": 0}, "batch"),
        ({"pad": -1}, "pad"),
        ({"pad": 100_000}, "pad must be 0 to 1,024, not 100000"),
        ({"lr": 1e300}, r"lr must be 0 to 1e\+06, not 1e\+300"),
        ({"final_lr": 1e300}, "final_lr"),
        ({"weight_decay": 1e300}, "weight_decay must be 0 to 1000"),
        ({"quant_lr": 1e300}, "quant_lr"),
        ({"alpha_decay": 1e300}, "alpha_decay"),
        ({"temperature": 1e300}, "temperature must be 0.001 to 1000"),
        ({"temperature": 1e-300}, "temperature"),
        ({"step_epochs": 1e-300}, "step_epochs"),
        ({"warmup": 1e300}, "warmup"),
        ({"epochs": 10**23}, "epochs must be 0 to 1,000,000, not 100000000000000000000000"),
        ({"epochs": 10**4000}, "epochs must be 0 to 1,000,000, not one of many digits"),
        ({"batch": 10**12}, "batch"),
        ({"calibrate": 10**12}, "calibrate"),
        ({"bn_freeze": 10**12}, "bn_freeze"),
        ({"seed": 1 << 32}, "seed must be -4,294,967,295 to 4,294,967,295, not 4294967296"),
        ({"ema": 1.0}, "ema must be at least 0 and below 1"),
        ({"beta2": 1.0}, "beta2"),
        ({"distill": 1.5}, "distill must be 0 to 1, not 1.5"),
        ({"distill": 0.5, "temperature": 0.0}, "temperature"),
        ({"teacher": "x.pt"}, "a teacher needs its share of the loss"),
        ({"amp": "fp8"}, "amp must be off, bf16, fp16"),
        ({"checkpoint_every": float("nan")}, "checkpoint_every"),
        ({"quant_decay": -0.1}, "quant_decay"),
    ],
)
def test_schedules_that_make_no_sense(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Schedule(**changes)


def _model(policy: Policy | None = None) -> fx.GraphModule:
    torch.manual_seed(0)
    return prepare(build(TINY, (8, 8, 1), 10), policy or Policy(), (8, 8, 1))


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_quantiser_parameters_have_their_own_rate_and_decay(kind: str) -> None:
    model = _model()
    schedule = Schedule(optimiser=kind, weight_decay=0.3, quant_lr=0.5, quant_decay=0.2, beta1=0.8)
    optimiser = make_optimiser(model, schedule)
    set_rate(optimiser, 0.25)
    found = {p: (g["lr"], g["weight_decay"]) for g in optimiser.param_groups for p in g["params"]}
    learned = {p for m in model.modules() if isinstance(m, Quantizer) for p in m.parameters()}
    assert learned
    for parameter in model.parameters():
        weight = parameter.dim() > 1
        expected = (0.125, 0.2) if parameter in learned else (0.25, 0.3 if weight else 0.0)
        assert found[parameter] == expected
    if kind != "sgd":
        assert optimiser.param_groups[0]["betas"] == (0.8, 0.999)


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_optimiser_state_goes_into_tensors_and_back(kind: str) -> None:
    first, second = _model(), _model()
    schedule = Schedule(optimiser=kind)
    optimisers = [make_optimiser(m, schedule) for m in (first, second)]

    def step(model: nn.Module, optimiser: torch.optim.Optimizer, seed: int) -> None:
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimiser.step()

    step(first, optimisers[0], 1)
    state = {k: v.clone() for k, v in optimiser_state(optimisers[0], first).items()}
    assert state
    second.load_state_dict(first.state_dict())
    fill_optimiser(optimisers[1], second, state)
    for model, optimiser in zip((first, second), optimisers, strict=True):
        step(model, optimiser, 2)
    assert all(torch.equal(v, second.state_dict()[k]) for k, v in first.state_dict().items())
    with pytest.raises(InputError, match="belongs to no parameter"):
        fill_optimiser(optimisers[1], second, {"nobody.exp_avg": torch.zeros(1)})


def test_the_average_follows_its_formula() -> None:
    model = _model()
    average = Average(model, 0.9)
    expected = model.conv.weight.detach().double().clone()
    for done in range(100):
        torch.manual_seed(done)
        with torch.no_grad():
            model.conv.weight.copy_(torch.randn_like(model.conv.weight))
            model.bn1.num_batches_tracked.add_(1)
        average.update(done)
        decay = min(0.9, (1 + done) / (10 + done))
        expected = decay * expected + (1 - decay) * model.conv.weight.detach().double()
    found = average.network.get_submodule("conv").weight
    # float32 against float64 over 100 steps
    assert torch.allclose(found.double(), expected, rtol=1e-5, atol=1e-6)
    assert int(average.network.get_submodule("bn1").num_batches_tracked) == 100
    assert not any(p.requires_grad for p in average.network.parameters())
