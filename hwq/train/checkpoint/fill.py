"""Stored tensors into a network that they fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from hwq.errors import InputError
from hwq.quant import bake
from hwq.train.checkpoint.values import check_scales

_OPTIONAL = ("num_batches_tracked", "_quant.seen")
"""What older files lack; their modules know what that means."""


def fill(
    network: nn.Module, weights: Mapping[str, Tensor], source: Path | str, name: str, *, own: bool = False
) -> None:
    """load_state_dict, strict, with one clear line for the first thing that does not fit.

    name: of the network. own: the tensors are of this very network, so that types must be equal; others may
    be floats of another width. Values are those that `check_values` let pass; scales are checked here, where
    it is known what they are of. Raises InputError.
    """
    if any(k not in weights for k in network.state_dict()):
        bake(network)  # a network of hwq's own holds the weights that weight_norm and its kin compute
    mine = network.state_dict()
    fault = misfit(mine, weights, own=own)
    if fault:
        raise InputError(f"{source}: a checkpoint of another model than {name}: {fault}")
    network.load_state_dict(dict(weights), strict=False)
    check_scales(source, network)


def misfit(mine: Mapping[str, Tensor], weights: Mapping[str, Tensor], *, own: bool = False) -> str:
    """The first thing in which stored tensors are not a network's, in words; "" where all fit."""
    missing = [k for k in mine if k not in weights and not k.endswith(_OPTIONAL)]
    extra = [k for k in weights if k not in mine]
    if missing:
        return f"'{missing[0]}' is missing ({len(missing)} tensors are)"
    if extra:
        return f"'{extra[0]}' is not part of it ({len(extra)} tensors are not)"
    for k in mine:
        if k in weights and mine[k].shape != weights[k].shape:
            return f"'{k}' has shape {tuple(weights[k].shape)}, not {tuple(mine[k].shape)}"
    for k in mine:
        if k in weights and not _fits(weights[k], mine[k].dtype, own):
            return f"'{k}' holds {_name(weights[k].dtype)}, not {_name(mine[k].dtype)}"
    return ""


def _fits(stored: Tensor, wanted: torch.dtype, own: bool) -> bool:
    if stored.dtype == wanted:
        return True
    if own or stored.is_complex():
        return False
    if wanted.is_floating_point:
        return stored.is_floating_point()
    # counters, which some programs average with the weights
    return bool((stored.double() == stored.double().round()).all())


def _name(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")
