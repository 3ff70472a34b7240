"""Ranges from data: before training starts, instead of training, and for tensors that were left off."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from hwq.errors import InputError
from hwq.quant.methods.contract import OFF, ActQuantizer
from hwq.quant.methods.modes import evaluating, observing
from hwq.quant.methods.ranges import Ranges, Sample
from hwq.quant.methods.uniform import UniformAct, UniformWeight
from hwq.quant.placing.layers import QuantConv2d, QuantLinear


def calibrate(model: nn.Module, batches: Iterable[Tensor], ranges: Ranges | None = None) -> None:
    """Set every activation quantiser's range from images (N, C, H, W); least squared error by default.

    The network runs in eval mode with weights quantised and activations not. Tensors of 12 bits and
    more, and those whose range would be 0, get their peak; one that was 0 throughout keeps its start.
    """
    samples = _watch(model, [q for q in model.modules() if isinstance(q, ActQuantizer)], batches)
    rule = ranges or Ranges()
    for q, sample in samples.items():
        if not q.off and sample.peak > 0:
            q.set_bound(rule.bound(sample, q.bits, q.type.hi) or sample.peak)


def off_tensors(model: nn.Module) -> list[str]:
    """Names of the layers and activation quantisers that are not quantised (32 bits)."""
    names: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, ActQuantizer) and module.off:
            names.append(name)
        if isinstance(module, QuantConv2d | QuantLinear) and module.weight_quant.off:
            names.append(name)
    return names


def calibrate_off(model: nn.Module, batches: Iterable[Tensor], bits: int = 16) -> list[str]:
    """Give every tensor that is off uniform codes of `bits` bits, ranges = peaks; returns their names."""
    if not 1 <= bits < OFF:
        raise InputError(f"off tensors take 1..16 bits, not {bits}")
    names = off_tensors(model)
    new: list[ActQuantizer] = []
    for name in names:
        module = model.get_submodule(name)
        if isinstance(module, QuantConv2d | QuantLinear):
            per_channel = module.weight_quant.per_channel
            module.weight_quant = UniformWeight(bits, per_channel=per_channel)
            continue
        assert isinstance(module, ActQuantizer)
        parent, _, last = name.rpartition(".")
        new.append(UniformAct(bits, signed=module.signed))
        setattr(model.get_submodule(parent), last, new[-1])
    for quantizer, sample in _watch(model, new, batches).items():
        quantizer.set_bound(sample.peak or 1.0)
    return names


@torch.no_grad()
def _watch(
    model: nn.Module, quantizers: list[ActQuantizer], batches: Iterable[Tensor]
) -> dict[ActQuantizer, Sample]:
    """What reaches the quantisers in eval mode; they let it through."""
    samples = {q: Sample(signed=q.signed) for q in quantizers}
    with evaluating(model), observing({q: sample.add for q, sample in samples.items()}):
        for batch in batches:
            model(batch)
    return samples
