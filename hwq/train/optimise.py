"""The optimiser and its learning-rate curve."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hwq.quant import Quantizer
from hwq.quant.pact import MPact
from hwq.train.recipe import Schedule

_RISE = 0.3
"""Share of a one-cycle run in which the rate rises, from lr/25; it ends at lr/10,000."""


def learning_rate(schedule: Schedule, steps: int, done: int) -> float:
    """The rate of the iteration after `done` iterations, `steps` an epoch."""
    total = max(1, schedule.epochs * steps)
    share = min(1.0, done / total)
    if schedule.schedule == "onecycle":
        start, end = schedule.lr / 25, schedule.lr / 10_000
        if share < _RISE:
            return _between(start, schedule.lr, share / _RISE)
        return _between(schedule.lr, end, (share - _RISE) / (1 - _RISE))
    warm = schedule.warmup * steps
    if done < warm:
        return schedule.lr * (done + 1) / (warm + 1)
    return _between(schedule.lr, schedule.final_lr, (done - warm) / max(1.0, total - warm))


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, share))) / 2


def make_optimiser(model: nn.Module, schedule: Schedule) -> torch.optim.SGD:
    """SGD in three groups: weights (with decay), BN and biases (none), quantiser parameters (own rate).

    Each group's 'relative' is its rate over the schedule's.
    """
    learned = {p for m in model.modules() if isinstance(m, Quantizer) for p in m.parameters()}
    others = [p for p in model.parameters() if p not in learned]
    quantizers = [p for p in model.parameters() if p in learned]
    groups = [
        {
            "params": [p for p in others if p.dim() > 1],
            "weight_decay": schedule.weight_decay,
            "relative": 1.0,
        },
        {"params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0, "relative": 1.0},
        {"params": quantizers, "weight_decay": 0.0, "relative": schedule.quant_lr},
    ]
    return torch.optim.SGD(
        [g for g in groups if g["params"]],
        lr=schedule.lr,
        momentum=schedule.momentum,
        nesterov=schedule.nesterov and schedule.momentum > 0,
    )


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's learning rate to rate * its 'relative'."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["relative"]


def alpha_penalty(model: nn.Module) -> Tensor | None:
    """Sum of alpha^2 over PACT's and mPACT's clipping values; None without any."""
    squares = [m.alpha().square() for m in model.modules() if isinstance(m, MPact) and not m.off]
    return torch.stack(squares).sum() if squares else None
