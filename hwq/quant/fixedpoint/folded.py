"""A prepared network as its integers are: BN, adds and rescaling folded into one requantisation each.

The same walk as `hwq.lower`, but of real tensors with gradients, over the modules of the network itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx, nn
from torch.nn import functional

from hwq.errors import InputError, UnsupportedError
from hwq.fixed import Rounding, code_limit
from hwq.quant.fixedpoint.requantise import (
    ActScale,
    Bias,
    Factor,
    Gain,
    Layer,
    LayerBias,
    NormBias,
    Number,
    PixelRequantisation,
    Requantisation,
    Storage,
    SumBias,
    Term,
    WeightScale,
)
from hwq.quant.methods.contract import ActQuantizer
from hwq.quant.methods.rounding import fake_quant
from hwq.quant.placing.layers import QuantConv2d, QuantLinear
from hwq.quant.placing.placer import OF
from hwq.quant.tracing.kinds import Kind, kind_of
from hwq.quant.tracing.places import where
from hwq.quant.tracing.shapes import SHAPE
from hwq.quant.tracing.spelling.clamps import Bounds, bounds_of

_PREFIX = "hwq_"
_POOL_ARGUMENTS = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
"""Of `functional.avg_pool2d`, after the tensor."""


class FoldedNetwork(nn.Module):
    """Computes what `hwq.lower` of the network does: constants through their formats, roundings as said.

    Parameters, statistics and scales are those of `model`, read anew in every forward pass; batch norms
    never run, so their statistics stay. model: of `prepare`, every tensor with codes. mean, std: of the
    pixels on the 0..1 scale. Equal to the integers up to float rounding, which `Requantisation` keeps
    from mattering; gradients are straight-through. Raises InputError for tensors that are off,
    UnsupportedError for what has no single requantisation.
    """

    def __init__(
        self, model: fx.GraphModule, formats: Storage, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.model = model
        walk = _Walk(model, formats, mean, std)
        self.graph_module = walk.run()
        self.requantisations: tuple[Requantisation, ...] = tuple(walk.made)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, C, H, W) -> logits (N, classes)."""
        logits: Tensor = self.graph_module(images)
        return logits

    def compare(self, *, real: bool) -> None:
        """real: constants as real numbers and rounding half up, as the network was trained until now."""
        for requantisation in self.requantisations:
            requantisation.real = real


class Sums(nn.Module):
    """A layer without its bias, which is part of B."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        weight = self.layer.weight_quant(self.layer.weight)
        if isinstance(self.layer, QuantConv2d):
            out: Tensor = self.layer._conv_forward(x, weight, None)
            return out
        return functional.linear(x, weight)


class _Logits(nn.Module):
    """Rounded to the type of the logits."""

    def __init__(self, formats: Storage) -> None:
        super().__init__()
        self.kind, self.scale = formats.logits

    def forward(self, x: Tensor) -> Tensor:
        return fake_quant(x, x.new_tensor(self.scale), self.kind.lo, self.kind.hi)


class CodeClamp(nn.Module):
    """A clamp before a quantiser, to the values of the codes that hardware has for its bounds."""

    def __init__(self, bounds: Bounds, end: ActScale | Number, rounding: Rounding) -> None:
        super().__init__()
        self.bounds, self.end, self.rounding = bounds, end, rounding

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same."""
        scale = float(self.end().detach())
        return x.clamp(*(self._value(bound, scale) for bound in (self.bounds.lo, self.bounds.hi)))

    def _value(self, bound: float, scale: float) -> float:
        finite = math.isfinite(bound) and math.isfinite(scale) and scale > 0
        return code_limit(bound, scale, self.rounding) * scale if finite else bound


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    node: fx.Node


@dataclass(frozen=True, slots=True, kw_only=True)
class _Codes:
    """A tensor of integers * product of factors. pools: average pools since the last requantisation."""

    node: fx.Node
    factors: tuple[Factor, ...]
    pools: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pending:
    """Sums that wait for their quantiser, and the calls after them that it is to see.

    names: of the layers and pools whose sums these are.
    """

    nodes: tuple[fx.Node, ...]
    terms: tuple[Term, ...]
    bias: Bias
    then: tuple[fx.Node, ...] = ()
    names: tuple[str, ...] = ()


_Value = _Image | _Codes | _Pending | fx.Node
"""An fx.Node: integers of a shape."""


class _Walk:
    def __init__(
        self, model: fx.GraphModule, formats: Storage, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self.model, self.formats, self.mean, self.std = model, formats, mean, std
        self.graph = fx.Graph()
        self.modules: dict[str, nn.Module] = {}
        self.values: dict[fx.Node, _Value] = {}
        self.made: list[Requantisation] = []
        self.calls: dict[str, int] = {}
        self.off: list[str] = []

    def run(self) -> fx.GraphModule:
        for node in self.model.graph.nodes:
            if node.op == "output":
                self._output(node)
            else:
                self.values[node] = self._visit(node)
        if self.off:
            raise InputError(
                "fixed-point training needs codes everywhere; not quantised (32 bits): "
                f"{', '.join(self.off[:8])}"
            )
        return fx.GraphModule(self.modules, self.graph, class_name="Folded")

    def _visit(self, node: fx.Node) -> _Value:
        module = self.model.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, ActQuantizer):
            return self._quantise(node, module)
        kind = kind_of(self.model, node)
        match kind:
            case Kind.INPUT:
                return _Image(node=self.graph.node_copy(node))
            case Kind.SHAPE:
                return self._copy(node)
            case Kind.LAYER:
                assert isinstance(module, QuantConv2d | QuantLinear)
                return self._layer(node, module)
            case Kind.NORM:
                assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
                return self._norm(node, module)
            case Kind.ADD:
                return self._add(node)
            case Kind.AVERAGE:
                value = self._codes(node, 0)
                area = Number(1.0 / self._area(node, module))
                pools = (*value.pools, self._name(node))
                return replace(value, node=self._copy(node), factors=(area, *value.factors), pools=pools)
            case Kind.CONCAT:
                return self._concat(node)
            case _:
                return self._pass(node, kind)

    # -- what computes

    def _layer(self, node: fx.Node, layer: Layer) -> _Pending:
        codes = self._codes(node, 0)
        if layer.weight_quant.off:
            self.off.append(str(node.target))
        sums = self._call("sums", Sums(layer), (codes.node,))
        term = Term((WeightScale(layer), *codes.factors))
        return _Pending(nodes=(sums,), terms=(term,), bias=LayerBias(layer), names=(str(node.target),))

    def _norm(self, node: fx.Node, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> _Pending:
        value = self._affine(node, 0)
        if norm.running_mean is None or norm.running_var is None:
            raise UnsupportedError(f"{where(node)}: BatchNorm without running statistics is not supported")
        terms = tuple(Term((Gain(norm), *t.factors)) for t in value.terms)
        return replace(value, terms=terms, bias=NormBias(norm, value.bias))

    def _add(self, node: fx.Node) -> _Value:
        if all(isinstance(self.values[n], fx.Node) for n in node.all_input_nodes):
            return self._copy(node)
        left, right = self._affine(node, 0), self._affine(node, 1)
        return _Pending(
            nodes=left.nodes + right.nodes,
            terms=left.terms + right.terms,
            bias=SumBias(left.bias, right.bias),
            names=left.names + right.names,
        )

    def _area(self, node: fx.Node, module: nn.Module | None) -> int:
        """Values that an average is taken over, as a size: padding counts."""
        if isinstance(module, nn.AvgPool2d) or node.target is functional.avg_pool2d:
            given: dict[str, Any] = dict(zip(_POOL_ARGUMENTS, node.args[1:], strict=False)) | node.kwargs
            if module is not None:
                given = vars(module)
            size, divisor = given["kernel_size"], given.get("divisor_override")
            if isinstance(size, fx.Node):
                raise UnsupportedError(f"{where(node)}: the size of this pool is not known")
            return int(divisor or (size * size if isinstance(size, int) else math.prod(size)))
        source = node.all_input_nodes[0]
        while SHAPE not in source.meta and source.all_input_nodes:  # a quantiser has no shape of its own
            source = source.all_input_nodes[0]
        if SHAPE not in source.meta or SHAPE not in node.meta:
            raise UnsupportedError(f"{where(node)}: the size of this pool is not known")
        before: tuple[int, ...] = source.meta[SHAPE]
        after: tuple[int, ...] = node.meta[SHAPE]
        return math.prod(before) // math.prod(after)

    def _concat(self, node: fx.Node) -> _Codes:
        parts = [self._as_codes(n, node) for n in node.all_input_nodes]
        if len({p.factors for p in parts}) > 1:
            raise UnsupportedError(
                f"{where(node)}: cat of codes of different scales; quantise them alike first"
            )
        return replace(parts[0], node=self._copy(node))

    def _pass(self, node: fx.Node, kind: Kind) -> _Value:
        """Clamps, and what moves codes: on codes at once, on sums once they are codes."""
        value = self.values[node.all_input_nodes[0]]
        if isinstance(value, fx.Node):
            return self._copy(node)
        if kind is Kind.CLAMP and isinstance(value, _Codes):
            value = _pending(value)
        if isinstance(value, _Pending):
            return replace(value, then=(*value.then, node))
        moved: _Image | _Codes = replace(value, node=self._copy(node))
        return moved

    # -- where sums end

    def _quantise(self, node: fx.Node, quantizer: ActQuantizer) -> _Value:
        value = self.values[node.all_input_nodes[0]]
        assert not isinstance(value, fx.Node)
        name = str(node.target)
        if quantizer.off:
            if not isinstance(value, _Codes):
                self.off.append(name)
            return value
        self.modules[name] = quantizer
        end = ActScale(quantizer)
        if isinstance(value, _Image):
            pixels = PixelRequantisation(self.mean, self.std, end, self.formats.edge, self.formats.rounding)
            ready = self._call("pixels", pixels, (value.node,))
        elif isinstance(value, _Codes) and value.factors == (end,):
            return value
        else:
            self.calls[name] = self.calls.get(name, 0) + 1
            number = self.calls[name]
            ready = self._requantise(
                _pending(value),
                name if number == 1 else f"{name}_{number}",
                end,
                tuple(node.meta.get(OF, ())),
            )
        made = self.graph.call_module(name, (ready,))
        return _Codes(node=made, factors=(end,))

    def _requantise(self, value: _Pending, name: str, end: ActScale | Number, of: tuple[str, ...]) -> fx.Node:
        """The sums' requantisation, then the calls that wait for it."""
        if isinstance(end, ActScale):
            form = self.formats.of(tuple(dict.fromkeys((name, *of, *value.names))))
        else:
            form = self.formats.logit_constants
        module = Requantisation(name, value.terms, value.bias, end, form, self.formats.rounding)
        self.made.append(module)
        ready = self._call("requant", module, value.nodes)
        for node in value.then:
            bounds = bounds_of(self.model, node)
            if bounds is not None and not bounds.rectifies:
                ready = self._call("clamp_", CodeClamp(bounds, end, self.formats.rounding), (ready,))
            else:
                ready = self._copy(node, {node.all_input_nodes[0]: ready})
        return ready

    def _output(self, node: fx.Node) -> None:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        value = self.values[source]
        assert isinstance(value, _Codes | _Pending)
        end = Number(self.formats.logits[1])
        logits = self._requantise(_pending(value), "logits", end, ())
        self.graph.output(self._call("logits", _Logits(self.formats), (logits,)))

    # -- arguments

    def _codes(self, node: fx.Node, position: int) -> _Codes:
        return self._as_codes(node.all_input_nodes[position], node)

    def _as_codes(self, source: fx.Node, reader: fx.Node) -> _Codes:
        value = self.values[source]
        if isinstance(value, _Codes):
            return value
        if not self.off:
            raise UnsupportedError(
                f"{where(reader)}: reads a tensor that no quantiser rounds; insert one before it"
            )
        # somewhere before it something is off, which is the complaint to make
        assert isinstance(value, _Pending | _Image)
        return _Codes(node=value.nodes[0] if isinstance(value, _Pending) else value.node, factors=())

    def _affine(self, node: fx.Node, position: int) -> _Pending:
        inputs = [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, fx.Node)]
        source = inputs[position]
        value = self.values[source]
        assert not isinstance(value, fx.Node)
        if isinstance(value, _Pending) and not value.then:
            return value
        return _pending(self._as_codes(source, node))

    # -- the graph under construction

    def _call(self, what: str, module: nn.Module, args: tuple[fx.Node, ...]) -> fx.Node:
        name = f"{_PREFIX}{what}{sum(n.startswith(_PREFIX + what) for n in self.modules)}"
        self.modules[name] = module
        return self.graph.call_module(name, args)

    def _copy(self, node: fx.Node, given: dict[fx.Node, fx.Node] | None = None) -> fx.Node:
        if node.op == "call_module":
            self.modules[str(node.target)] = self.model.get_submodule(str(node.target))
        return self.graph.node_copy(node, lambda n: (given or {}).get(n) or self._tensor(n))

    def _tensor(self, node: fx.Node) -> fx.Node:
        """A node that has the same shape, and where there are codes the same values."""
        value = self.values[node]
        if isinstance(value, fx.Node):
            return value
        return value.nodes[0] if isinstance(value, _Pending) else value.node

    def _name(self, node: fx.Node) -> str:
        return str(node.target) if node.op == "call_module" else node.name


def _pending(value: _Codes | _Pending) -> _Pending:
    if isinstance(value, _Pending):
        return value
    return _Pending(
        nodes=(value.node,), terms=(Term(value.factors),), bias=LayerBias(None), names=value.pools
    )
