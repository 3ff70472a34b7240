"""Shapes of the tensors of a traced network."""

from __future__ import annotations

from torch import fx

SHAPE = "hwq_shape"
"""Key of a node's meta: the shape of its tensor for a batch of 2."""


def output_shape(module: fx.GraphModule) -> tuple[int, ...]:
    """(2, ...): shape of the network's output for two images. Needs a trace with an image shape."""
    output = next(n for n in module.graph.nodes if n.op == "output")
    shape: tuple[int, ...] = output.args[0].meta[SHAPE]
    return shape
