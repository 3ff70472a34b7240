"""Codes on equal inputs: none differs in float64 with constants as if real; a fault stays where it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, fx

from hwq.agreement.layers import code_agreement
from hwq.fixed import ChannelFormat
from hwq.ir import Graph, Requantize
from hwq.lower import Formats, Lowered, lower
from hwq.quant import calibrate, prepare
from hwq.simulate import Simulator
from tests.nets import random_net, random_policy

IMAGES = 60


def network(seed: int) -> tuple[fx.GraphModule, Lowered, np.ndarray]:
    """A random network in float64, its integers with constants of 40 bits, and noise."""
    net = random_net(seed)
    height, width, channels = net.shape
    model = prepare(net, random_policy(seed), net.shape)
    calibrate(model, [torch.randn(16, channels, height, width)])
    model = model.double().eval()
    lowered = lower(
        model,
        shape=(channels, height, width),
        mean=[0.5] * channels,
        std=[0.25] * channels,
        formats=Formats(body=ChannelFormat(40)),
        allow_lossy=True,
    )
    return model, lowered, np.random.default_rng(seed).integers(0, 256, (IMAGES, *net.shape), dtype=np.uint8)


def normalise(pixels: Tensor) -> Tensor:
    return ((pixels.double() / 255 - 0.5) / 0.25).permute(0, 3, 1, 2)


def single(pixels: Tensor) -> Tensor:
    return normalise(pixels).float()


# seed 0 has pixels at ties, where the order of float64 operations decides
@pytest.mark.parametrize("seed", range(1, 9))
def test_nothing_differs_and_a_fault_stays_in_its_layer(seed: int) -> None:
    model, lowered, pixels = network(seed)
    found = code_agreement(model, lowered, Simulator(lowered.graph, 1), pixels, normalise)
    body = [op for op in lowered.graph if isinstance(op, Requantize) and op.name != "logits"]
    assert len(found) > 1
    assert {layer.op: layer.differing for layer in found} == {layer.op: 0 for layer in found}
    assert all(layer.values == IMAGES * lowered.graph[layer.op].out.size for layer in found)

    # one code more than is right, in one requantisation of those that stand in the graph by themselves
    names = [layer.op for layer in found if layer.op in {op.name for op in body}]
    moved = 0
    for name in (names[0], names[len(names) // 2], names[-1]):
        op = lowered.graph[name]
        assert isinstance(op, Requantize)
        constants = op.requant.bias
        shifted = ChannelFormat(40).quantize(constants.values() + 1, bias=True)
        wrong = replace(op, requant=replace(op.requant, bias=shifted))
        graph = Graph(name="wrong", ops=tuple(wrong if x is op else x for x in lowered.graph))
        planted = replace(lowered, graph=graph)
        seen = code_agreement(model, planted, Simulator(graph, 1), pixels, normalise)
        right, got = (Simulator(g, 1).run(pixels, keep=[name]).outputs[name] for g in (lowered.graph, graph))
        differing = {layer.op: layer.differing for layer in seen if layer.differing}
        count = int(np.count_nonzero(right != got))
        assert differing == ({name: count} if count else {})
        moved += count
    assert moved, "codes that saturate may hide one fault, not all three"


def test_float32_is_counted_as_it_rounds() -> None:
    """The share of single precision is that of its own codes: small, and the same for every batch."""
    model, lowered, pixels = network(3)
    runner = Simulator(lowered.graph, 1)
    one = code_agreement(model.float(), lowered, runner, pixels, single)
    assert sum(layer.differing for layer in one) < 0.01 * sum(layer.values for layer in one)
