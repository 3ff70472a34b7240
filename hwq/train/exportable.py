"""Whether a network can be exported at all, asked before it is trained."""

from __future__ import annotations

import copy

import torch
from torch import fx

from hwq.errors import HwqError, UnsupportedError
from hwq.fixed import parse_format
from hwq.lower import Formats, lower
from hwq.quant import ActQuantizer
from hwq.train.checkpoint import Meta

_OFF_BITS = 8


def check_exportable(model: fx.GraphModule, meta: Meta) -> None:
    """Raise UnsupportedError for the op that an export would refuse after the last epoch.

    On a copy with ranges of 1: those of the network are not known yet, and other reasons than its ops
    (ranges, formats, what is off) are for the export to tell.
    """
    ready = copy.deepcopy(model).cpu().eval()
    for module in ready.modules():
        if isinstance(module, ActQuantizer) and not module.off:
            module.set_bound(1.0)
    height, width, channels = meta.image_shape
    images = torch.linspace(-1, 1, 2 * channels * height * width).reshape(2, channels, height, width)
    try:
        lower(
            ready,
            shape=(channels, height, width),
            mean=meta.mean,
            std=meta.std,
            formats=Formats(body=parse_format("32,auto")),
            off_bits=_OFF_BITS,
            batches=[images],
            allow_lossy=True,
        )
    except UnsupportedError:
        raise
    except HwqError:
        pass
