"""The scales that a network ended up with: what training, or calibration, chose for every tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from hwq.quant.methods.contract import ActQuantizer, WeightQuantizer
from hwq.quant.methods.dsq import DsqAct, DsqWeight
from hwq.quant.placing.describe import describe


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """One scale. kind: 'weight' or 'activation'. channel: of a weight with one scale a channel, else None.

    method: as in recipes. type: 's4', 'u8'. scale: the real value of code 1. clip: the largest value that
    codes show, scale * R or scale * U. alpha: what DSQ learned, None for others. Of weights alone: low and
    high of the floats; used, the share of the codes -R..R that occur; saturated, the share of the weights
    that clamping moved (None with 1 bit, where codes are signs).
    """

    name: str
    kind: str
    method: str
    bits: int
    type: str
    channel: int | None
    scale: float
    clip: float
    alpha: float | None = None
    low: float | None = None
    high: float | None = None
    used: float | None = None
    saturated: float | None = None


@torch.no_grad()
def scales(model: nn.Module) -> list[Scale]:
    """Every scale in the order of `describe`, channels in theirs. Tensors that are off have none."""
    found: list[Scale] = []
    for row in describe(model):
        if row.type == "float":
            continue
        module = model.get_submodule(row.name)
        quantizer = module.weight_quant if row.kind == "weight" else module
        assert isinstance(quantizer, WeightQuantizer | ActQuantizer)
        common: dict[str, Any] = {
            "name": row.name,
            "kind": row.kind,
            "method": row.method,
            "bits": quantizer.bits,
            "type": row.type,
            "alpha": float(quantizer.alpha()) if isinstance(quantizer, DsqWeight | DsqAct) else None,
        }
        if isinstance(quantizer, ActQuantizer):
            s = quantizer.scale()
            found.append(Scale(**common, channel=None, scale=s, clip=s * quantizer.type.hi))
        else:
            weight = module.weight
            assert isinstance(weight, Tensor)
            found += [Scale(**common, **facts) for facts in _of_weights(quantizer, weight)]
    return found


def tensors(rows: list[Scale]) -> list[list[Scale]]:
    """The scales of each tensor together."""
    return [list(group) for _, group in groupby(rows, key=lambda row: (row.name, row.kind))]


def _of_weights(quantizer: WeightQuantizer, weight: Tensor) -> Iterator[dict[str, Any]]:
    codes, scale = quantizer.codes(weight)
    real, _ = quantizer.normalise(weight.detach().double())
    lo, hi = quantizer.type.lo, quantizer.type.hi
    rounded = torch.floor(real + 0.5)
    clamped = (rounded < lo) | (rounded > hi)
    levels = 2 if quantizer.bits == 1 else hi - lo + 1
    parts = [(None, ...)] if scale.dim() == 0 else [(c, c) for c in range(len(scale))]
    for channel, part in parts:
        own = float(scale if channel is None else scale[channel])
        yield {
            "channel": channel,
            "scale": own,
            "clip": own * hi,
            "low": float(weight[part].min()),
            "high": float(weight[part].max()),
            "used": len(set(codes[part].flatten().tolist())) / levels,
            "saturated": None if quantizer.bits == 1 else float(clamped[part].double().mean()),
        }
