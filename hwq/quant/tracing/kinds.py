"""What kind of thing each node of a traced network is."""

from __future__ import annotations

import operator
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from hwq.errors import UnsupportedError
from hwq.quant.tracing.places import where
from hwq.quant.tracing.spelling import clamps


class Kind(Enum):
    """What a node does, as far as the placement of quantisers is concerned."""

    INPUT = auto()
    LAYER = auto()  # conv, linear: an accumulator
    NORM = auto()  # batch normalisation
    RELU = auto()  # of codes it makes codes of the same scale
    CLAMP = auto()  # to any other range that holds 0: of codes, too, it is arithmetic
    ADD = auto()
    AVERAGE = auto()  # average pool, global or not
    CONCAT = auto()
    CODES = auto()  # moves codes without arithmetic: max pool, flatten, slices, zero padding
    SKIP = auto()  # nothing at all in eval mode: dropout, identity
    SHAPE = auto()  # integers of a tensor's shape
    OUTPUT = auto()


MODULES: dict[type[nn.Module], Kind] = {
    nn.Conv2d: Kind.LAYER,
    nn.Linear: Kind.LAYER,
    nn.BatchNorm2d: Kind.NORM,
    nn.BatchNorm1d: Kind.NORM,
    nn.AvgPool2d: Kind.AVERAGE,
    nn.AdaptiveAvgPool2d: Kind.AVERAGE,
    nn.MaxPool2d: Kind.CODES,
    nn.Flatten: Kind.CODES,
    nn.ConstantPad2d: Kind.CODES,  # nn.ZeroPad2d is one
    nn.Dropout: Kind.SKIP,
    nn.Dropout1d: Kind.SKIP,
    nn.Dropout2d: Kind.SKIP,
    nn.Dropout3d: Kind.SKIP,
    nn.AlphaDropout: Kind.SKIP,
    nn.FeatureAlphaDropout: Kind.SKIP,
    nn.Identity: Kind.SKIP,
}
FUNCTIONS: dict[Any, Kind] = {
    operator.add: Kind.ADD,
    functional.avg_pool2d: Kind.AVERAGE,
    functional.adaptive_avg_pool2d: Kind.AVERAGE,
    torch.cat: Kind.CONCAT,
    functional.max_pool2d: Kind.CODES,
    torch.max_pool2d: Kind.CODES,
    torch.flatten: Kind.CODES,
    torch.reshape: Kind.CODES,
    functional.pad: Kind.CODES,
    operator.getitem: Kind.CODES,
}
METHODS: dict[str, Kind] = {
    "mean": Kind.AVERAGE,
    "flatten": Kind.CODES,
    "reshape": Kind.CODES,
    "size": Kind.SHAPE,
    "dim": Kind.SHAPE,
}


LAYERS = (*MODULES, *clamps.MODULES)
"""Classes whose subclasses are not looked into."""


def own_forward(module: nn.Module) -> bool:
    """Whether a subclass of a layer that hwq knows computes something else than the layer."""
    base = next((t for t in LAYERS if isinstance(module, t)), None)
    return base is not None and ("forward" in vars(module) or type(module).forward is not base.forward)


def kinds_of(
    module: fx.GraphModule, ignore: Callable[[fx.Node], bool] = lambda node: False
) -> dict[fx.Node, Kind]:
    """Of all nodes but some. Raises UnsupportedError as `kind_of`; attention is named before its parts."""
    try:
        return {node: kind_of(module, node) for node in module.graph.nodes if not ignore(node)}
    except UnsupportedError:
        refuse_attention(module)
        raise


def refuse_attention(module: fx.GraphModule) -> None:
    """Raise UnsupportedError for the first attention of a network, the plainest complaint about it."""
    for node in module.graph.nodes:
        if what := _attention(module, node):
            raise UnsupportedError(
                f"{where(node)}: attention ({what}) is not supported; hwq takes convolutional networks"
            ) from None


def kind_of(module: fx.GraphModule, node: fx.Node) -> Kind:
    """Of a respelled network's node. Raises UnsupportedError for others, naming module path and line."""
    found = found_kind(module, node)
    if found is None or (found is Kind.ADD and len(node.all_input_nodes) == 0):
        raise UnsupportedError(f"{where(node)}: {_name(module, node)} is not supported")
    if found is Kind.ADD and any(not isinstance(a, fx.Node) for a in node.args):
        raise UnsupportedError(f"{where(node)}: adds a constant, which is not supported")
    return found


def found_kind(module: fx.GraphModule, node: fx.Node) -> Kind | None:
    """None for what hwq does not know."""
    bounds = clamps.bounds_of(module, node)
    if bounds is not None:
        return Kind.RELU if bounds.rectifies else Kind.CLAMP
    match node.op:
        case "placeholder":
            return Kind.INPUT
        case "output":
            return Kind.OUTPUT
        case "call_module":
            child = module.get_submodule(str(node.target))
            return next((k for t, k in MODULES.items() if isinstance(child, t)), None)
        case "call_function":
            folded = node.target in (operator.mul, operator.floordiv) and not node.all_input_nodes
            size = node.target is getattr and node.args[1:] == ("shape",)
            if folded or size or _of_shape(module, node):
                return Kind.SHAPE
            return FUNCTIONS.get(node.target)
        case "call_method":
            return METHODS.get(str(node.target))
    return None


def _name(module: fx.GraphModule, node: fx.Node) -> str:
    match node.op:
        case "call_module":
            return type(module.get_submodule(str(node.target))).__name__
        case "call_function":
            return str(getattr(node.target, "__name__", node.target))
        case "call_method":
            return f"Tensor.{node.target}"
    return f"the tensor '{node.target}'"


def _attention(module: fx.GraphModule, node: fx.Node) -> str | None:
    """What of it a node is: all of it, or the product of two tensors that the network computes."""
    name = _name(module, node)
    of_torch = ("scaled_dot_product_attention", "multi_head_attention_forward")
    if node.op == "call_module":
        child = module.get_submodule(str(node.target))
        whole = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)
        return name if isinstance(child, whole) else None
    product = name.rpartition(".")[2] in ("matmul", "bmm", "einsum", "baddbmm")
    computed = [n for n in node.all_input_nodes if n.op != "get_attr"]
    return name if name in of_torch or (product and len(computed) > 1) else None


def _of_shape(module: fx.GraphModule, node: fx.Node) -> bool:
    sources = node.all_input_nodes
    # no module yields integers, and those of `prepare`, quantisers, have no kind
    return bool(sources) and all(
        n.op != "call_module" and found_kind(module, n) is Kind.SHAPE for n in sources
    )
