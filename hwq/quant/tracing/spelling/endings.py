"""How a network ends: what it returns, and the activation of its last layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from hwq.quant.tracing.places import owner
from hwq.quant.tracing.shapes import SHAPE
from hwq.quant.tracing.spelling.rows import Spelling, arguments, spelled

_CLASSES = "as the last operation, over the classes"
_LAST = "as the last operation"

_OVER_CLASSES: tuple[Any, ...] = (
    nn.Softmax,
    nn.Softmax2d,
    nn.LogSoftmax,
    functional.softmax,
    functional.log_softmax,
    torch.softmax,
    torch.log_softmax,
    "softmax",
    "log_softmax",
)
_OF_EACH: tuple[Any, ...] = (
    nn.Sigmoid,
    nn.LogSigmoid,
    functional.sigmoid,
    functional.logsigmoid,
    torch.sigmoid,
    "sigmoid",
)
_PASSED = (torch.flatten, "flatten", nn.Flatten, nn.Dropout, nn.Identity)
"""What may follow: it neither computes nor reorders."""


def spellings() -> list[Spelling]:
    """All of them, for the documentation."""
    what = "nothing: logits order the classes alike"
    found = [Spelling(what=what, target=target, when=_CLASSES) for target in _OVER_CLASSES]
    return found + [Spelling(what=what, target=target, when=_LAST) for target in _OF_EACH]


def unpack_result(module: fx.GraphModule) -> None:
    """One tensor in tuples, lists or dicts, with nothing beside it but None, is returned as it is."""
    output = next(n for n in module.graph.nodes if n.op == "output")
    found: list[Any] = [v for v in pytree.tree_leaves(output.args[0]) if v is not None]
    if len(found) == 1 and isinstance(found[0], fx.Node) and output.args[0] is not found[0]:
        output.args = (found[0],)
        if SHAPE in found[0].meta:
            output.meta[SHAPE] = found[0].meta[SHAPE]


def drop_last_activation(module: fx.GraphModule) -> list[str]:
    """Take out a softmax or sigmoid that only the result reads; what the user should know about it."""
    notes = []
    for node in reversed(list(module.graph.nodes)):
        target: Any = node.target
        if node.op == "call_module":
            target = type(module.get_submodule(str(node.target)))
        if node.op not in ("call_module", "call_function", "call_method"):
            continue
        each, classes = target in _OF_EACH, target in _OVER_CLASSES and _over_classes(module, node)
        if not (each or classes) or not _ends(module, node):
            continue
        notes.append(_note(node, spelled(target), each))
        node.replace_all_uses_with(node.all_input_nodes[0])
        module.graph.erase_node(node)
    return notes


def _note(node: fx.Node, name: str, each: bool) -> str:
    path = str(node.target) if node.op == "call_module" else owner(node)
    where = f" of '{path}'" if path else ""
    shape = node.meta.get(SHAPE, ())
    if each and len(shape) > 1 and shape[1] == 1:
        end = "its logit decides alike, above 0 where the sigmoid is above 1/2" if "og" not in name else ""
        end = end or "its logit orders images alike"
        return f"the last {name}{where} is left out: {end}; the loss uses the logit"
    return f"the last {name}{where} is left out: logits have the same largest class, and the loss uses logits"


def _over_classes(module: fx.GraphModule, node: fx.Node) -> bool:
    rank = len(node.meta.get(SHAPE, ()))
    dim: Any = None
    if node.op == "call_module":
        child = module.get_submodule(str(node.target))
        dim = 1 if isinstance(child, nn.Softmax2d) else child.dim
    else:
        given = arguments(node, ("dim", "_stacklevel", "dtype")) or arguments(node, ("dim", "dtype"))
        if given is None or given.get("dtype") is not None:
            return False
        dim = given.get("dim")
    if dim is None:  # what torch then takes, with a warning
        dim = 0 if rank == 3 else 1
    return rank > 1 and type(dim) is int and dim % rank == 1


def _ends(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the value reaches the result alone."""
    for user in node.users:
        target: Any = user.target
        if user.op == "call_module":
            target = type(module.get_submodule(str(target)))
        if user.op != "output" and not (target in _PASSED and _ends(module, user)):
            return False
    return bool(node.users)
