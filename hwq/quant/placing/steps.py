"""Any weight method -> a step a channel, with the same codes: what can then be chosen to suit a format."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx

from hwq.quant.methods.lsq import LsqWeight
from hwq.quant.methods.table import make_weight
from hwq.quant.placing.layers import QuantConv2d, QuantLinear
from hwq.quant.placing.policy import LayerRule, Policy

METHOD = "lsq"


def with_steps(policy: Policy) -> Policy:
    """The policy of a network after `own_steps`."""
    rules = []
    for rule in policy.layers:
        given = {
            k: v for k, v in rule.given().items() if k not in ("weight_method", "per_channel", "rescale")
        }
        if given:
            rules.append(LayerRule(pattern=rule.pattern, **given))
    return replace(policy, weight_method=METHOD, per_channel=True, layers=tuple(rules))


@torch.no_grad()
def own_steps(model: fx.GraphModule) -> None:
    """Give every layer LSQ's steps, one a channel; its codes stay, but for ties of float rounding.

    Weights become what the method saw in place of them (tanh(w)/max|tanh| times its range for DoReFa):
    real-valued codes times scale. Layers that are off stay so.
    """
    for layer in model.modules():
        if not isinstance(layer, QuantConv2d | QuantLinear):
            continue
        old, weight = layer.weight_quant, layer.weight
        new = make_weight(METHOD, old.bits, per_channel=True, channels=weight.shape[0])
        assert isinstance(new, LsqWeight)
        if not old.off:
            v, s = old.normalise(weight.double())
            scale = s.expand(weight.shape[0]) if s.dim() == 0 else s
            weight.copy_(v * scale.reshape(-1, *([1] * (weight.dim() - 1))))
            new.raw.copy_(scale)
        else:
            new.requires_grad_(False)
        layer.weight_quant = new.to(weight.device).train(old.training)


def step_of(layer: QuantConv2d | QuantLinear) -> torch.nn.Parameter:
    """The steps (O,) of a layer after `own_steps`."""
    quantizer = layer.weight_quant
    assert isinstance(quantizer, LsqWeight)
    return quantizer.raw
