"""What counts as harmful in a whole network: a channel's own sums decide, not its accumulator's type."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import fx, nn

from hwq.fixed import parse_format
from hwq.ir import Conv2d, Requantize
from hwq.lower import Formats, LossyError, Lowered, lower
from hwq.models import build
from hwq.quant import Policy, QuantConv2d, prepare

CONV, NORM, QUIET, LOUD = "layer3.0.conv1", "layer3.0.bn1", 3, 5
MULTIPLIER = 1.5 * 2.0**-24
"""Stored as 0 by 32,10, whose last place is 2^-22."""


@pytest.fixture(scope="module")
def network() -> fx.GraphModule:
    """ResNet-56, option A, 8 bits. Every weight of channel LOUD is the largest; of QUIET one, one step."""
    torch.manual_seed(0)
    model = build("resnet56", (32, 32, 3), 10).eval()
    conv = model.get_submodule(CONV)
    assert isinstance(conv, nn.Conv2d)
    with torch.no_grad():
        top = float(conv.weight.abs().max())
        conv.weight[LOUD] = top
        conv.weight[QUIET] = 0.0
        conv.weight[QUIET, 0, 0, 0] = top / 127
    return prepare(model, Policy(weight_bits=8, act_bits=8), (32, 32, 3)).eval()


def _lowered(network: fx.GraphModule, channel: int) -> Lowered:
    """By the default format, with the multiplier of one channel below the last place."""
    conv, norm = network.get_submodule(CONV), network.get_submodule(NORM)
    assert isinstance(conv, QuantConv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    scale = float(conv.weight_quant.codes(conv.weight)[1])
    with torch.no_grad():
        norm.weight.fill_(1.0)
        norm.weight[channel] = MULTIPLIER / scale  # the codes on both sides have one scale
    formats = Formats(body=parse_format("32,10"))
    return lower(network, shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3, formats=formats)


def test_a_multiplier_that_cannot_move_its_channel_is_harmless(network: fx.GraphModule) -> None:
    lowered = _lowered(network, QUIET)
    (lost,) = lowered.report.vanished
    assert (lost.source, lost.channel, lost.harmful) == (CONV, QUIET, False)
    conv, end = lowered.graph[lost.source], lowered.graph[lost.op]
    assert isinstance(conv, Conv2d)
    assert isinstance(end, Requantize)
    assert np.abs(conv.weight[QUIET]).sum() == 1
    assert lowered.graph.bounds[conv.name][QUIET] == 255
    # the accumulator's type would have let it move an output
    assert abs(lost.value) * 255 < 0.5 <= abs(lost.value) * conv.out.type.hi


def test_one_that_could_move_its_channel_is_refused(network: fx.GraphModule) -> None:
    with pytest.raises(LossyError, match=rf"0 constants saturate and 1 vanish .*channel {LOUD}: .*became 0"):
        _lowered(network, LOUD)


def test_the_parameter_free_shortcut_has_one_multiplier_for_all_channels(network: fx.GraphModule) -> None:
    """The channels that it adds are always 0, so it adds nothing to them."""
    graph = _lowered(network, QUIET).graph
    found = [
        (op.requant.terms[i].raw.size, int((bound != 0).sum()), bound.size)
        for op in graph
        if isinstance(op, Requantize)
        for i, bound in enumerate(graph.input_bounds(op))
        if (bound == 0).any()
    ]
    assert found == [(1, 16, 32), (1, 32, 64)]
