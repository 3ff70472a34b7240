"""A float network with Brevitas's quantised layers in the places where hwq puts its own; needs Brevitas."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

EDGE_BITS = 8
"""Input image, first and last weights, after the average pool."""


@dataclass(frozen=True)
class Scales:
    """Quantisers in `brevitas.quant.scaled_int`; layers set the bit width, whatever the name says."""

    weight: str
    act: str
    signed_act: str


DEFAULT = Scales("Int8WeightPerTensorFloat", "Uint8ActPerTensorFloat", "Int8ActPerTensorFloat")
"""What Brevitas's layers take when nothing is said: weight scale max|w|, learned activation scales."""
LEARNED = Scales("Int8WeightPerTensorFloatMSE", "Uint8ActPerTensorFloatMSE", "Int8ActPerTensorFloatMSE")
"""Every scale learned, from a minimum-squared-error start: its nearest to LSQ."""


def brevitas_version() -> str | None:
    """None where Brevitas is not installed."""
    try:
        import brevitas
    except ImportError:
        return None
    return str(brevitas.__version__)


def brevitas_network(model: nn.Module, bits: int, scales: Scales = DEFAULT) -> nn.Module:
    """A copy of `model` (conv-BN-ReLU, adds followed by ReLU, `pool`) with W`bits`A`bits` and 8-bit edges.

    Layers are swapped in place, so parameters keep their names behind the prefix `1.`; the order of modules
    must be the order of execution. As in hwq's default policy the residual add takes the exact sum.
    """
    import brevitas.nn as qnn
    import brevitas.quant.scaled_int as library

    weight, act, signed = (getattr(library, name) for name in (scales.weight, scales.act, scales.signed_act))
    model = copy.deepcopy(model)
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for name, child in list(model.named_modules()):
        width = EDGE_BITS if name in (layers[0], layers[-1]) else bits
        new: nn.Module
        match child:
            case nn.Conv2d():
                new = qnn.QuantConv2d(
                    child.in_channels,
                    child.out_channels,
                    child.kernel_size,
                    stride=child.stride,
                    padding=child.padding,
                    groups=child.groups,
                    bias=child.bias is not None,
                    weight_quant=weight,
                    weight_bit_width=width,
                )
            case nn.Linear():
                new = qnn.QuantLinear(
                    child.in_features,
                    child.out_features,
                    bias=child.bias is not None,
                    weight_quant=weight,
                    weight_bit_width=width,
                )
            case nn.ReLU():
                new = qnn.QuantReLU(act_quant=act, bit_width=bits)
            case nn.AdaptiveAvgPool2d():
                new = nn.Sequential(child, qnn.QuantIdentity(act_quant=act, bit_width=EDGE_BITS))
            case _:
                continue
        if isinstance(child, nn.Conv2d | nn.Linear):
            new.load_state_dict(child.state_dict(), strict=False)  # its scales are not in there
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, new.train(child.training))
    return nn.Sequential(qnn.QuantIdentity(act_quant=signed, bit_width=EDGE_BITS), model)


@torch.no_grad()
def brevitas_calibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Activation scales from images (N, C, H, W), by Brevitas's own calibration mode."""
    from brevitas.graph.calibrate import calibration_mode

    training = model.training
    model.eval()
    with calibration_mode(model):
        for batch in batches:
            model(batch)
    model.train(training)
