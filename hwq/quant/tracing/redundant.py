"""Calls that return the values they are given: copies, conversions to the type that is there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

_MARK = "hwq_redundant"
_COPIES = ("clone", "contiguous")
_CONVERSIONS = ("float", "double", "half", "bfloat16", "to", "type", "type_as")


def does_nothing(node: fx.Node, source: object, result: Tensor) -> bool:
    """Whether the call returned `source` as it is, or a copy, wherever the network runs.

    A device given in so many words is none of these: the network may move to another.
    """
    if not isinstance(source, Tensor):
        return False
    named = any(isinstance(a, str | torch.device | int) and not isinstance(a, bool) for a in node.args[1:])
    elsewhere = named or "device" in node.kwargs
    return _is_copy(node) or (
        node.op == "call_method"
        and node.target in _CONVERSIONS
        and not elsewhere
        and (source.dtype, source.device) == (result.dtype, result.device)
    )


def mark(node: fx.Node) -> None:
    """Note that the call does nothing."""
    node.meta[_MARK] = True


def drop(graph: fx.Graph) -> None:
    """Readers of what does nothing read its source. After `functionalise`: nothing works in place then."""
    for node in list(graph.nodes):
        if (node.meta.get(_MARK) or _is_copy(node)) and node.args and isinstance(node.args[0], fx.Node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _is_copy(node: fx.Node) -> bool:
    by_name: Any = node.op == "call_method" and node.target in _COPIES
    return bool(by_name) or node.target is torch.clone
