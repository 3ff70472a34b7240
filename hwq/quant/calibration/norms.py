"""Batch-norm statistics that fit the network as it is now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from hwq.errors import InputError
from hwq.quant.methods.modes import activations_floating, evaluating

ESTIMATED = "hwq_estimated"
"""An attribute of a batch norm: `estimate_norms` is at it now, with the same images in every process."""


@torch.no_grad()
def estimate_norms(model: nn.Module, batches: Iterable[Tensor], *, floating: bool = False) -> None:
    """Re-estimate every BN's statistics as the plain average over the batches of images (N, C, H, W).

    Each batch is normalised by its own statistics; variances are the unbiased ones, as BN keeps them.
    floating: with activations as floats, for quantisers whose ranges are not set yet. Raises InputError
    for no batches, before anything changed.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    if not norms:
        return
    coming = iter(batches)
    first = next(coming, None)
    if first is None:
        raise InputError("batch norm statistics need at least 2 images")
    with evaluating(model), activations_floating(model, floating), _cumulative(norms):
        for batch in chain([first], coming):
            model(batch)


@contextmanager
def _cumulative(norms: list[nn.BatchNorm1d | nn.BatchNorm2d]) -> Iterator[None]:
    """Statistics from nothing, as the average of what comes inside."""
    momenta = [m.momentum for m in norms]
    try:
        for m in norms:
            m.reset_running_stats()
            m.momentum = None
            m.train()
            setattr(m, ESTIMATED, True)
        yield
    finally:
        for m, momentum in zip(norms, momenta, strict=True):
            m.momentum = momentum
            delattr(m, ESTIMATED)
