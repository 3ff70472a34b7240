"""The optimiser: its parameter groups, and its state in a checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hwq.errors import InputError
from hwq.quant import Quantizer
from hwq.train.schedule import Schedule


def make_optimiser(model: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """SGD, Adam or AdamW in three groups: weights, BN and biases, quantiser parameters.

    Weights decay by `weight_decay`, quantiser parameters by `quant_decay`, the others not. Each group's
    'relative' is its rate over the schedule's: `quant_lr` for quantiser parameters, else 1.
    """
    learned = {p for m in model.modules() if isinstance(m, Quantizer) for p in m.parameters()}
    others = [p for p in model.parameters() if p not in learned]
    quantizers = [p for p in model.parameters() if p in learned]
    groups = [
        {"params": [p for p in others if p.dim() > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0},
        {"params": quantizers, "weight_decay": schedule.quant_decay, "relative": schedule.quant_lr},
    ]
    chosen = [{"relative": 1.0, **g} for g in groups if g["params"]]
    if schedule.optimiser == "sgd":
        nesterov = schedule.nesterov and schedule.momentum > 0
        return torch.optim.SGD(chosen, lr=schedule.lr, momentum=schedule.momentum, nesterov=nesterov)
    kind = torch.optim.AdamW if schedule.optimiser == "adamw" else torch.optim.Adam
    return kind(chosen, lr=schedule.lr, betas=(schedule.beta1, schedule.beta2), eps=schedule.eps)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's learning rate to rate * its 'relative'."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["relative"]


_ADAM = ("step", "exp_avg", "exp_avg_sq")
_KEPT: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.SGD: ("momentum_buffer",),
    torch.optim.Adam: _ADAM,
    torch.optim.AdamW: _ADAM,
}
"""What each keeps of a parameter that it has updated."""


def optimiser_state(optimiser: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Every tensor the optimiser keeps, as '<parameter name>.<its key>': momenta, counts of steps."""
    return {
        f"{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimiser.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def fill_optimiser(optimiser: torch.optim.Optimizer, model: nn.Module, stored: dict[str, Tensor]) -> None:
    """The inverse of `optimiser_state`. Raises InputError for a tensor that is none of this optimiser's."""
    named = dict(model.named_parameters())
    kept = _KEPT[type(optimiser)]
    for full, tensor in stored.items():
        name, _, key = full.rpartition(".")
        if name not in named:
            raise InputError(f"its optimiser state '{full}' belongs to no parameter of the network")
        parameter = named[name]
        shape = parameter.shape if key != "step" else torch.Size()
        if key not in kept or tensor.shape != shape or not tensor.is_floating_point():
            raise InputError(f"its optimiser state '{full}' is none of {type(optimiser).__name__}'s")
        lacking = [other for other in kept if f"{name}.{other}" not in stored]
        if lacking:
            raise InputError(f"its optimiser state lacks '{name}.{lacking[0]}'")
        if tensor.shape == parameter.shape and tensor.is_floating_point() and key != "step":
            # in the parameter's memory layout, for which the update is fast
            tensor = torch.empty_like(parameter).copy_(tensor).detach()
        optimiser.state[parameter][key] = tensor
