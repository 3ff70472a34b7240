"""What a run says before it trains: the network, the data, and what every tensor got."""

from __future__ import annotations

from torch import nn

from hwq.quant import Quantizer, Row, describe, summary
from hwq.train.checkpoint import Meta
from hwq.train.recipe import Recipe


def opening(recipe: Recipe, model: nn.Module, meta: Meta, images: int) -> tuple[str, list[Row]]:
    """(one line, what the tensors of the prepared network got); no rows when nothing is quantised.

    images: of the training split.
    """
    rows = [] if recipe.floating else describe(model)
    shape = " x ".join(map(str, meta.image_shape))
    parts = (
        f"{recipe.model}: {parameters(model):,} parameters",
        f"{recipe.data}: {images:,} training images of {shape}, {len(meta.classes)} classes",
        summary(rows) if rows else "float",
    )
    return "; ".join(parts), rows


def parameters(model: nn.Module) -> int:
    """Parameters of the network itself: weights, biases, batch norms; not those of quantisers."""
    learned = {p for m in model.modules() if isinstance(m, Quantizer) for p in m.parameters()}
    return sum(p.numel() for p in model.parameters() if p not in learned)
