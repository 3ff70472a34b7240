"""A float network as one that returns logits, whatever it is written to return."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hwq.errors import UnsupportedError
from hwq.quant.tracing.compare import random_images, untouched
from hwq.quant.tracing.spelling.respell import notes
from hwq.quant.tracing.trace import trace


def logits_network(model: nn.Module, image_shape: tuple[int, int, int]) -> nn.Module:
    """The network itself where its result is one tensor of logits; else its trace, which shares parameters.

    image_shape: (H, W, C). A network that cannot be traced is taken as it is, if it returns a tensor: it
    may be a teacher that is never quantised. Raises UnsupportedError for other results of such a one.
    """
    with untouched(model), torch.no_grad():
        plain = isinstance(model.eval()(random_images(model, image_shape, 2)), Tensor)
    try:
        traced = trace(model, image_shape)
    except UnsupportedError:
        if plain:
            return model
        raise
    return model if plain and not notes(traced) else traced
