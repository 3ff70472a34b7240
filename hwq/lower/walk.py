"""The walk over a traced network: every node becomes ops, or a pending sum that a later node ends."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx

from hwq.errors import InputError, UnsupportedError
from hwq.fixed import IntType
from hwq.ir import Graph, Input, Output, TensorSpec, verify
from hwq.lower.builder import Builder
from hwq.lower.context import Call, Context, as_pending
from hwq.lower.formats import Formats
from hwq.lower.handlers import handler_of
from hwq.lower.report import LowerReport
from hwq.lower.values import Codes, Floats, Pending, Pixels
from hwq.quant import QuantConv2d, QuantLinear, calibrate_off, off_tensors, where


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lowered:
    """The verified graph, and what its constants' formats lost.

    codes: by name of the torch graph's node, the integers of `graph` that stand for its tensor.
    """

    graph: Graph
    report: LowerReport
    codes: Mapping[str, Codes] = field(default_factory=dict)


def lower(
    model: fx.GraphModule,
    *,
    shape: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
    formats: Formats,
    off_bits: int | None = None,
    batches: Iterable[torch.Tensor] = (),
    allow_lossy: bool = False,
    name: str = "net",
) -> Lowered:
    """Lower a prepared network (eval mode is assumed). The model is left unchanged.

    shape: (C, H, W) of an image. mean, std: of the pixels on the 0..1 scale, one a channel.
    off_bits: tensors that are not quantised get codes of so many bits, with ranges seen on `batches`,
    float images (N, C, H, W) already normalised. Without it only a tensor that holds exact codes or their
    sums anyway (an average pool) may be off. Raises UnsupportedError naming module path and source
    line, InputError for tensors left off and for a layer pattern of `formats` that changes nothing,
    LossyError unless `allow_lossy`.
    """
    mean_, std_ = _normalisation(mean, std, shape[0])
    ready = _without_off(model, off_bits, batches)
    # statistics and scales are read on the CPU, whatever device trained them
    builder = Builder(formats)
    walk = Walk(ready, builder, shape, mean_, std_)
    graph = walk.run(name)
    if walk.context.off:
        raise _left_off(walk.context.off)
    builder.check_patterns()
    verify(graph)
    used = graph.by_name
    report = LowerReport(
        issues=tuple(i for i in builder.issues if i.op in used),
        real={n: r for n, r in builder.real.items() if n in used},
        names={n: names for n, names in builder.names.items() if n in used},
    )
    if not allow_lossy:
        report.check()
    codes = {node.name: value for node, value in walk.values.items() if isinstance(value, Codes)}
    return Lowered(graph=graph, report=report, codes={n: c for n, c in codes.items() if c.op in used})


def _normalisation(mean: Sequence[float], std: Sequence[float], channels: int) -> tuple[Floats, Floats]:
    mean_, std_ = np.asarray(mean, dtype=np.float64), np.asarray(std, dtype=np.float64)
    if mean_.shape != (channels,) or std_.shape != (channels,):
        raise InputError(f"mean and std need {channels} numbers each, one a channel of the image")
    if not (np.isfinite(mean_).all() and np.isfinite(std_).all() and (std_ > 0).all()):
        raise InputError("mean and std must be finite, and std positive")
    return mean_, std_


def _without_off(
    model: fx.GraphModule, off_bits: int | None, batches: Iterable[torch.Tensor]
) -> fx.GraphModule:
    """The model itself, or a copy in which tensors that were off have codes."""
    off = off_tensors(model)
    if not off:
        return model
    if off_bits is None:
        weights = any(isinstance(model.get_submodule(n), QuantConv2d | QuantLinear) for n in off)
        if weights:
            raise _left_off(off)
        return model  # the walk finds out which activations need codes
    ready = copy.deepcopy(model)
    images = list(batches)
    if not images:
        raise InputError("--off-bits needs images to see the ranges of tensors that are not quantised")
    calibrate_off(ready, images, off_bits)
    return ready


def _left_off(names: Sequence[str]) -> InputError:
    listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return InputError(f"not quantised (32 bits): {listed}: give them codes with --off-bits 16")


class Walk:
    """Visits the nodes that the output depends on, in order."""

    def __init__(
        self,
        model: fx.GraphModule,
        builder: Builder,
        shape: tuple[int, int, int],
        mean: Floats,
        std: Floats,
    ) -> None:
        self.model, self.builder = model, builder
        self.context = Context(builder, mean, std)
        self.image = (shape[1], shape[2], shape[0])
        self.values: dict[fx.Node, Any] = {}

    def run(self, name: str) -> Graph:
        """The graph of everything the network's result depends on, not yet verified."""
        live = _live(self.model.graph)
        for node in self.model.graph.nodes:
            if node in live:
                self.values[node] = self._visit(node)
        result = next(n for n in self.model.graph.nodes if n.op == "output")
        return self.builder.graph(name, self.values[result])

    def _visit(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self._input(node)
        args = fx.node.map_arg(node.args, self.values.__getitem__)
        kwargs = fx.node.map_arg(node.kwargs, self.values.__getitem__)
        module = self.model.get_submodule(str(node.target)) if node.op == "call_module" else None
        call = Call(node, module, args, kwargs)
        if node.op == "output":
            return self._output(call)
        if node.op == "get_attr":
            call.fail(f"the tensor '{node.target}' used directly is not supported")
        handler = handler_of(node.target if module is None else module)
        return handler(self.context, call)

    # -- ends
    def _input(self, node: fx.Node) -> Pixels:
        if self.builder.ops:
            raise UnsupportedError(f"{where(node)}: a second input; one image tensor is supported")
        spec = TensorSpec(shape=self.image, type=IntType(bits=8, signed=False), scale=1 / 255)
        op = self.builder.add(Input(name=self.builder.name("input"), inputs=(), out=spec))
        return Pixels(op=op.name, spec=spec)

    def _output(self, call: Call) -> str:
        value = call.args[0]
        if not isinstance(value, Codes | Pending):
            call.fail("the network must return one tensor that a layer computed")
        if value.order is not None:
            call.fail("the network returns a flattened feature map; return the map itself, or pool it first")
        kind, scale = self.builder.formats.logits
        pending = as_pending(value)
        codes = self.builder.requantize(pending, "logits", kind, scale, self.builder.formats.logit_constants)
        name = self.builder.name("output")
        return self.builder.add(Output(name=name, inputs=(codes.op,), out=codes.spec)).name


def _live(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that the output depends on."""
    found: set[fx.Node] = set()
    open_ = [n for n in graph.nodes if n.op == "output"]
    while open_:
        node = open_.pop()
        if node not in found:
            found.add(node)
            open_ += node.all_input_nodes
    return found
