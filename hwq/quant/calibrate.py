"""Ranges from data: before training starts, and for tensors that were left off."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from hwq.errors import InputError
from hwq.quant.contract import OFF, ActQuantizer
from hwq.quant.layers import QuantConv2d, QuantLinear
from hwq.quant.uniform import UniformAct, UniformWeight

_STEPS = 81


def best_bound(values: Tensor, peak: float, lo: int, hi: int) -> float:
    """The clipping value of least squared error among 0.20..1.00 of `peak`, for codes lo .. hi."""
    values = values.double()
    best, least = peak, float("inf")
    for share in torch.linspace(0.2, 1.0, _STEPS, dtype=torch.float64).tolist():
        s = share * peak / hi
        codes = torch.floor(values / s + 0.5).clamp_(lo, hi)
        error = float((codes * s - values).square_().mean())
        if error < least:
            best, least = share * peak, error
    return best


@torch.no_grad()
def calibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set every activation quantiser's range from images (N, C, H, W), minimum squared error.

    The network runs in eval mode with weights quantised and activations not. The 16-bit and wider keep
    their peak. Modes of the model are restored.
    """
    quantizers = [q for q in model.modules() if isinstance(q, ActQuantizer)]
    training = model.training
    model.eval()
    for q in quantizers:
        q.calibrating, q.samples, q.peak = True, [], 0.0
    try:
        for batch in batches:
            model(batch)
    finally:
        for q in quantizers:
            q.calibrating = False
        model.train(training)
    for q in quantizers:
        if not q.off and q.peak > 0:
            values = torch.cat(q.samples)
            exact = q.bits >= 12
            q.set_bound(q.peak if exact else best_bound(values, q.peak, q.type.lo, q.type.hi))
        q.samples = []


@torch.no_grad()
def estimate_norms(model: nn.Module, batches: Iterable[Tensor], *, floating: bool = False) -> None:
    """Re-estimate every BN's statistics as the plain average over the batches of images.

    floating: with activations as floats, for quantisers whose ranges are not set yet.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    if not norms:
        return
    training, momenta = {m: m.training for m in model.modules()}, [m.momentum for m in norms]
    model.eval()
    quantizers = [q for q in model.modules() if isinstance(q, ActQuantizer)] if floating else []
    for q in quantizers:
        q.calibrating = True
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # cumulative average
        m.train()
    try:
        for batch in batches:
            model(batch)
    finally:
        for q in quantizers:
            q.calibrating, q.samples = False, []
        for m, momentum in zip(norms, momenta, strict=True):
            m.momentum = momentum
        for module, mode in training.items():
            module.training = mode


def off_tensors(model: nn.Module) -> list[str]:
    """Names of the layers and activation quantisers that are not quantised (32 bits)."""
    names: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, ActQuantizer) and module.off:
            names.append(name)
        if isinstance(module, QuantConv2d | QuantLinear) and module.weight_quant.off:
            names.append(name)
    return names


@torch.no_grad()
def calibrate_off(model: nn.Module, batches: Iterable[Tensor], bits: int = 16) -> list[str]:
    """Give every tensor that is off uniform codes of `bits` bits, ranges = peaks; returns their names."""
    if not 1 <= bits < OFF:
        raise InputError(f"off tensors take 1..16 bits, not {bits}")
    names = off_tensors(model)
    new: list[UniformAct] = []
    for name in names:
        module = model.get_submodule(name)
        if isinstance(module, QuantConv2d | QuantLinear):
            per_channel = module.weight_quant.per_channel
            module.weight_quant = UniformWeight(bits, per_channel=per_channel)
            continue
        assert isinstance(module, ActQuantizer)
        quantizer = UniformAct(bits, signed=module.signed)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, quantizer)
        new.append(quantizer)
    training = model.training
    model.eval()
    for quantizer in new:
        quantizer.calibrating = True
    try:
        for batch in batches:
            model(batch)
    finally:
        model.train(training)
        for quantizer in new:
            quantizer.calibrating = False
            quantizer.samples = []
    for quantizer in new:
        quantizer.set_bound(quantizer.peak or 1.0)
    return names
