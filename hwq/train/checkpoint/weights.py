"""Float weights to start from: of an hwq run, or a state dict of any program, under whatever names it has."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hwq.errors import InputError, note
from hwq.quant import Policy
from hwq.quant.methods.dorefa import Rescale
from hwq.quant.methods.table import ACT_METHODS, WEIGHT_METHODS, make_act, make_weight
from hwq.train.checkpoint.format import checkpoint_of, find, named_key, read_safetensors
from hwq.train.checkpoint.kinds import Kind, kind_of
from hwq.train.checkpoint.pickles import read_torch
from hwq.train.checkpoint.values import check_values

_DEEPEST = 4
"""Dictionaries within dictionaries that are looked into."""
_SPREAD = 1 << 24
"""Values of a tensor that repeats fewer stored ones."""
_BESIDE = ("n_averaged",)
"""What torch's AveragedModel keeps beside its network."""
_COUNTER = "num_batches_tracked"
"""Of batch norms; older files lack it."""


def load_weights(path: Path, network: nn.Module) -> tuple[dict[str, Tensor], Policy | None]:
    """(float parameters, the policy of a quantised run or None for a float network).

    From an hwq checkpoint, or a state dict in a safetensors file or saved by torch, which may lie in one of
    several dictionaries and have a prefix before all names: what `network` calls its tensors decides. Where
    several fit, FILE:KEY names the dictionary or the prefix. Quantiser tensors of hwq checkpoints are left
    out. Raises InputError.
    """
    key = named_key(path)[1]
    path = find(path)
    kind = kind_of(path)
    if kind is Kind.SAFETENSORS:
        stored = read_safetensors(path)
        if stored.own:
            run = checkpoint_of(path, stored)
            own = _of_quantizers()
            weights = {k: v for k, v in run.model.items() if not own.search(k)}
            return weights, None if run.meta.policy.floats else run.meta.policy
        found: Any = stored.tensors
    else:
        found = read_torch(path, kind)
    weights = _chosen(path, found, key, network.state_dict())
    _check_plain(path, weights)
    check_values(path, weights)
    return weights, None


@dataclass(frozen=True, slots=True)
class _Offer:
    """Tensors that may be the network's: in the dictionary `where`, those with `prefix`, without it."""

    where: str
    prefix: str
    weights: dict[str, Tensor]

    @property
    def key(self) -> str:
        """How a user names it."""
        return f"{self.where}.{self.prefix}".strip(".")


def _chosen(path: Path, found: Any, key: str, mine: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict that is the network's, under its names; the nearest one where none is."""
    dicts = dict(_state_dicts(found))
    if not dicts:
        raise InputError(f"{path}: holds no state dict (names -> tensors)")
    offers = [offer for where, held in dicts.items() for offer in _offers(where, held, mine)]
    if key:
        # a dictionary stands for whatever prefix its names have
        known = sorted({offer.key for offer in offers} - {""})
        offers = [o for o in offers if key in (o.key, o.where, o.prefix.rstrip("."))]
        if not offers:
            raise InputError(f"{path}: has no '{key}'; it has {', '.join(known) or 'one network alone'}")
    fitting = [o for o in offers if not _lacks(o.weights, mine)]
    # one that has more than the network is taken only where no other fits
    best = [o for o in fitting if not o.weights.keys() - mine.keys()] or fitting
    if len(best) > 1 and not _equal(best):
        keys = [offer.key for offer in best if offer.key]
        raise InputError(
            f"{path}: holds several networks that fit ({', '.join(keys)}); say which, as in {path}:{keys[-1]}"
        )
    offer = best[0] if best else max(offers, key=lambda o: len(o.weights.keys() & mine.keys()))
    left = [k for k in dicts[offer.where] if not k.startswith(offer.prefix) and k not in _BESIDE]
    if left:
        note(f"{path}: without {len(left)} tensors that are not under '{offer.prefix[:-1]}', as '{left[0]}'")
    return offer.weights


def _state_dicts(found: Any, where: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """(path of keys, its tensors by name) of every dictionary that holds tensors under names."""
    if not isinstance(found, Mapping):
        return
    tensors = {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if tensors:
        yield where, tensors
    for key, value in found.items():
        if isinstance(key, str) and depth < _DEEPEST:
            yield from _state_dicts(value, f"{where}.{key}".lstrip("."), depth + 1)


def _offers(where: str, held: dict[str, Tensor], mine: Mapping[str, Tensor]) -> Iterator[_Offer]:
    """Under the names as they are, and without each prefix that makes some of the network's."""
    yield _Offer(where, "", {k: v for k, v in held.items() if k not in _BESIDE or k in mine})
    first = next((k for k in mine if not k.endswith(_COUNTER)), None)
    for name in held if first else ():
        if name.endswith(f".{first}"):
            prefix = name[: -len(first or "")]
            part = {k.removeprefix(prefix): v for k, v in held.items() if k.startswith(prefix)}
            yield _Offer(where, prefix, part)


def _lacks(weights: Mapping[str, Tensor], mine: Mapping[str, Tensor]) -> bool:
    return any(k not in weights and not k.endswith(_COUNTER) for k in mine)


def _equal(offers: list[_Offer]) -> bool:
    """Whether all hold the same numbers, as where a file stores its network twice."""
    first = offers[0].weights

    def same(a: Tensor, b: Tensor) -> bool:
        if a is b:
            return True
        return not (_not_plain(a) or _not_plain(b)) and a.shape == b.shape and torch.equal(a, b)

    return all(
        first.keys() == o.weights.keys() and all(same(v, o.weights[k]) for k, v in first.items())
        for o in offers[1:]
    )


def _check_plain(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Raise InputError for a tensor that is no block of real numbers."""
    for name, tensor in weights.items():
        fault = _not_plain(tensor)
        if fault:
            raise InputError(f"{path}: '{name}' {fault}")


def _not_plain(tensor: Tensor) -> str:
    if tensor.is_meta:
        return "holds no numbers (it is a tensor of torch's device 'meta'): save the network with its weights"
    if tensor.is_quantized:
        return "is quantised by torch; hwq takes the float network and quantises it itself"
    if tensor.is_nested:
        return "is no dense tensor (nested)"
    if tensor.layout is not torch.strided:
        return f"is no dense tensor ({str(tensor.layout).removeprefix('torch.')}): save its to_dense()"
    if tensor.numel() > max(_SPREAD, tensor.untyped_storage().nbytes() // tensor.element_size()):
        return f"has shape {tuple(tensor.shape)}, more values than the file holds"
    if tensor.is_complex():
        return "holds complex numbers; hwq takes real ones"
    return ""


def _of_quantizers() -> re.Pattern[str]:
    """Names of quantisers' tensors. `prepare` calls every quantiser something_quant; so may users a layer."""
    made = [make_weight(name, 4, rescale=Rescale.LEARNED.value) for name in WEIGHT_METHODS]
    tensors = {
        key for q in (*made, *(make_act(n, 4, signed=True) for n in ACT_METHODS)) for key in q.state_dict()
    }
    return re.compile(rf"_quant\.({'|'.join(sorted(tensors))})$")
