"""Batch-norm statistics that fit the network as it is now."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from hwq.quant.modes import activations_floating, evaluating


@torch.no_grad()
def estimate_norms(model: nn.Module, batches: Iterable[Tensor], *, floating: bool = False) -> None:
    """Re-estimate every BN's statistics as the plain average over the batches of images (N, C, H, W).

    Each batch is normalised by its own statistics; variances are the unbiased ones, as BN keeps them.
    floating: with activations as floats, for quantisers whose ranges are not set yet.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    if not norms:
        return
    momenta = [m.momentum for m in norms]
    with evaluating(model), activations_floating(model, floating):
        for m in norms:
            m.reset_running_stats()
            m.momentum = None  # cumulative average
            m.train()
        try:
            for batch in batches:
                model(batch)
        finally:
            for m, momentum in zip(norms, momenta, strict=True):
                m.momentum = momentum
