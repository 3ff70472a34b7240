"""Every tensor's shape; sizes that the code reads become constants."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from hwq.errors import UnsupportedError
from hwq.quant.tracing.compare import untouched
from hwq.quant.tracing.places import where

SHAPE = "hwq_shape"
"""Key of a node's meta: the shape of its tensor for a batch of 2."""


def output_shape(module: fx.GraphModule) -> tuple[int, ...]:
    """(2, ...): shape of the network's output for two images. Needs a trace with an image shape."""
    output = next(n for n in module.graph.nodes if n.op == "output")
    shape: tuple[int, ...] = output.meta[SHAPE]
    return shape


class _Shapes(fx.Interpreter):
    """Notes every tensor's shape as its node's meta['hwq_shape']; names the node that does not fit."""

    def run_node(self, n: fx.Node) -> Any:
        try:
            result = super().run_node(n)
        except Exception as error:  # layers raise anything on a wrong shape
            first = (str(error) or type(error).__name__).splitlines()[0]
            raise UnsupportedError(f"{where(n)}: {first}") from error
        if isinstance(result, torch.Tensor):
            n.meta[SHAPE] = tuple(result.shape)
        return result


def fold_shapes(module: fx.GraphModule, image_shape: tuple[int, int, int]) -> None:
    """Replace every integer read from a shape, but the batch size, by its value."""
    h, w, c = image_shape
    first = next(module.parameters(), torch.zeros(()))
    try:
        with torch.no_grad(), untouched(module):
            shapes = _Shapes(module.eval())
            shapes.extra_traceback = False  # it would rewrite the message
            shapes.run(torch.zeros(2, c, h, w, device=first.device, dtype=first.dtype))
    except UnsupportedError as error:
        raise UnsupportedError(f"the network does not take images of {h} x {w} x {c}: {error}") from error
    for node in list(module.graph.nodes):
        if node.op == "call_method" and node.target == "dim":
            node.replace_all_uses_with(len(node.args[0].meta[SHAPE]))
            module.graph.erase_node(node)
    for node, dims, source in list(_shape_reads(module.graph)):
        shape = source.meta[SHAPE]
        if 0 in (range(len(shape))[dims] if isinstance(dims, slice) else (dims % len(shape),)):
            continue
        node.replace_all_uses_with(shape[dims])
        module.graph.erase_node(node)
    for node in reversed(list(module.graph.nodes)):
        if not node.users and (node.target in ("size", getattr, operator.getitem)):
            module.graph.erase_node(node)
    module.recompile()


def _shape_reads(graph: fx.Graph) -> Iterator[tuple[fx.Node, int | slice, fx.Node]]:
    """(node, dimension or dimensions, tensor) for x.size(d), x.size()[d], x.shape[d] and x.shape[d:]."""
    for node in graph.nodes:
        match node.op, node.target, node.args:
            case "call_method", "size", (fx.Node() as source, int() as dim):
                yield node, dim, source
            case "call_function", operator.getitem, (fx.Node() as of, int() | slice() as dim):
                if len(node.all_input_nodes) > 1:  # a slice up to another size
                    continue
                whole = (of.op, of.target, len(of.args)) == ("call_method", "size", 1)
                tensor = of.args[0]
                if isinstance(tensor, fx.Node) and (whole or of.args[1:] == ("shape",)):
                    yield node, dim, tensor
