"""Layers whose weight is computed in every forward pass (weight_norm, spectral_norm): the weight itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from hwq.errors import UnsupportedError
from hwq.quant.tracing.compare import untouched

_LAYERS = (nn.Conv2d, nn.Linear)
_HOOKS = (WeightNorm, SpectralNorm)


def computes_weight(hook: object) -> bool:
    """Whether a forward pre-hook of a layer is one of those that `bake` takes out."""
    return isinstance(hook, _HOOKS)


def bake(network: nn.Module) -> list[str]:
    """Put plain layers into the place of those that compute their weight, with what it is in evaluation.

    The layers themselves, and so other networks that hold them, stay as they are: the new weight is a
    parameter of its own, other parameters are shared. Returns what the user should know.
    """
    notes = []
    made: dict[nn.Module, nn.Module] = {}
    for path, child in list(network.named_modules(remove_duplicate=False)):
        if child not in made and _computes(child):
            if not isinstance(child, _LAYERS):
                raise UnsupportedError(
                    f"'{path}': its tensors are parametrized, which hwq takes of Conv2d and Linear; call "
                    "torch.nn.utils.parametrize.remove_parametrizations first"
                )
            made[child] = _plain(child)
            notes.append(
                f"{_names(child)} of '{path}' is computed once: from here on its weight is trained itself"
            )
        if child in made:
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, made[child])
    return notes


def _computes(module: nn.Module) -> bool:
    return parametrize.is_parametrized(module) or any(
        map(computes_weight, module._forward_pre_hooks.values())
    )


def _names(module: nn.Module) -> str:
    """'weight_norm', 'spectral_norm' or the names of the user's own classes."""
    found = [type(h).__name__ for h in module._forward_pre_hooks.values() if computes_weight(h)]
    if parametrize.is_parametrized(module):
        for steps in module.parametrizations.values():  # type: ignore[operator]
            found += [type(step).__name__ for step in steps]
    known = {"WeightNorm": "weight_norm", "SpectralNorm": "spectral_norm"}
    return " and ".join(dict.fromkeys(known.get(name.lstrip("_"), name.lstrip("_")) for name in found))


@torch.no_grad()
def _plain(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    """A layer with weight and bias as parameters, and the options of the other."""
    kind: Any = type(layer).__bases__[0] if parametrize.is_parametrized(layer) else type(layer)
    own = nn.Module()
    options = {k: v for k, v in vars(layer).items() if k not in vars(own) and not isinstance(v, Tensor)}
    made: nn.Module = kind.__new__(kind)
    vars(made).update({**vars(own), **options})
    learns = any(p.requires_grad for n, p in layer.named_parameters() if n != "bias")
    with untouched(layer):
        layer.eval()
        weight = layer.weight
        for hook in layer._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):
                weight = hook.compute_weight(layer)
            elif isinstance(hook, SpectralNorm):
                weight = hook.compute_weight(layer, do_power_iteration=False)
        made.weight = nn.Parameter(weight.detach().clone(), requires_grad=learns)
        bias = layer.bias
    if bias is not None and not isinstance(bias, nn.Parameter):
        bias = nn.Parameter(bias.detach().clone(), requires_grad=learns)
    made.register_parameter("bias", bias)
    return made.train(layer.training)
