"""Numbers of a checkpoint that no training yields: the accuracy behind them would be that of chance.

Every command that loads a checkpoint or float weights asks here, once, before it does anything else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from hwq.errors import InputError
from hwq.quant import ActQuantizer
from hwq.quant.methods.contract import WeightQuantizer
from hwq.quant.methods.observing import SETTLED

_LEAST = {
    "running_var": 0.0,
    "num_batches_tracked": 0.0,
    "exp_avg_sq": 0.0,
    "max_exp_avg_sq": 0.0,
    "step": 0.0,
    "seen": float(SETTLED),
}
"""The smallest value of tensors, by the last part of their names: of batch norms, optimisers, ranges."""
_RANGE = "_quant.top"
"""The end of names of what quantisers of activations clip at."""
_ONCE = {"step", "seen", "num_batches_tracked"}
"""Of those the counters, a number each; other tensors may have these names."""


def bad_tensor(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first that holds inf or nan."""
    return next((name for name, tensor in tensors.items() if not finite(tensor)), None)


def finite(value: Tensor) -> bool:
    """Whether it holds neither inf nor nan."""
    if not value.is_floating_point() or not value.numel():
        return True
    if value.element_size() == 1:  # torch has no isfinite for eight bits
        value = value.float()
    # the two ends tell of all values: nan comes through, and no copy of the tensor is made
    low, high = torch.aminmax(value)
    return bool(torch.isfinite(low) & torch.isfinite(high))


def check_values(source: Path | str, tensors: Mapping[str, Tensor]) -> None:
    """Raise InputError, which names file and tensor, for a value that cannot be."""
    bad = bad_tensor(tensors)
    if bad is not None:
        raise InputError(f"{source}: '{bad}' holds inf or nan")
    for name, tensor in tensors.items():
        if name.endswith(_RANGE) and not bool((tensor > 0).all()):
            raise InputError(f"{source}: '{name}' holds {float(tensor.min()):g}; a range must be positive")
        last = name.rpartition(".")[2]
        if last not in _LEAST or not tensor.numel() or (last in _ONCE and tensor.dim()):
            continue
        least = float(tensor.detach().double().min())
        if least < _LEAST[last]:
            raise InputError(f"{source}: '{name}' holds {least:g}; it cannot be below {_LEAST[last]:g}")


def check_scales(source: Path | str, network: nn.Module) -> None:
    """Raise InputError for a quantiser of the filled network whose scale is no positive number."""
    for name, scale in _scales(network):
        if not bool(((scale > 0) & torch.isfinite(scale)).all()):
            raise InputError(
                f"{source}: a scale of '{name}' is {float(scale.min())}; scales must be positive"
            )


@torch.no_grad()
def _scales(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(quantiser, its scale or scales) of all that are on."""
    for name, part in network.named_modules():
        if isinstance(part, ActQuantizer) and not part.off:
            yield name, part.step()
        weight = getattr(part, "weight_quant", None)
        if isinstance(weight, WeightQuantizer) and not weight.off and isinstance(part.weight, Tensor):
            yield f"{name}.weight_quant", weight.normalise(part.weight)[1]
