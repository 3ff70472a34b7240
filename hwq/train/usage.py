"""How a quantised network uses its codes: the share of each quantiser's levels that occur, and its scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hwq.quant import ActQuantizer, QuantConv2d, QuantLinear, WeightQuantizer
from hwq.quant.methods.modes import evaluating


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """name: of the layer, or of the activation's quantiser. kind: 'weights' or 'activations'.

    scale: real value of code 1, the mean over channels where each has its own. bound: that of the largest
    code, alpha in PACT's words. share: 0..1.
    """

    name: str
    kind: str
    scale: float
    bound: float
    share: float


@torch.no_grad()
def code_usage(model: nn.Module, images: Tensor) -> list[Usage]:
    """One row for each quantiser that is on; activations as they occur on the images (N, C, H, W)."""
    rows: list[Usage] = []
    quantizers: dict[str, ActQuantizer] = {}
    for name, module in model.named_modules():
        if isinstance(module, QuantConv2d | QuantLinear) and not module.weight_quant.off:
            codes, scale = module.weight_quant.codes(module.weight)
            seen = set(torch.unique(codes).tolist())
            rows.append(_row(name, module.weight_quant, float(scale.mean()), len(seen)))
        elif isinstance(module, ActQuantizer) and not module.off:
            quantizers[name] = module
    found: dict[str, set[int]] = {name: set() for name in quantizers}
    hooks = [q.register_forward_hook(_collect(found[name])) for name, q in quantizers.items()]
    try:
        with evaluating(model):
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return rows + [_row(name, q, q.scale(), len(found[name])) for name, q in quantizers.items()]


def _collect(into: set[int]) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(module: nn.Module, args: Any, out: Tensor) -> None:
        assert isinstance(module, ActQuantizer)
        into.update(torch.unique((out.double() / module.scale()).round()).long().tolist())

    return hook


def _row(name: str, q: WeightQuantizer | ActQuantizer, scale: float, used: int) -> Usage:
    weights = isinstance(q, WeightQuantizer)
    levels = 2 if weights and q.bits == 1 else q.type.hi - q.type.lo + 1
    kind = "weights" if weights else "activations"
    return Usage(name=name, kind=kind, scale=scale, bound=scale * q.type.hi, share=used / levels)
