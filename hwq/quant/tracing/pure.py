"""Calls that work in place, and the same calls out of place."""

from __future__ import annotations

import copy
import inspect
import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from hwq.errors import UnsupportedError
from hwq.quant.tracing.places import where

_OPERATORS: dict[Any, Any] = {
    getattr(operator, f"i{name.rstrip('_')}"): getattr(operator, name)
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and_", "or_", "xor", "matmul")
}


def in_place(module: nn.Module, node: fx.Node) -> bool:
    """Whether a call says that it works in place: a trailing underscore, `inplace`, `out`, `+=`."""
    if node.op == "call_module":
        return bool(getattr(module.get_submodule(str(node.target)), "inplace", False))
    if node.op not in ("call_function", "call_method"):
        return False
    place = _flag(node)
    flagged = node.kwargs.get("inplace") or (
        place is not None and bool(node.args[place:]) and node.args[place]
    )
    return _underscored(node) or node.target in _OPERATORS or bool(flagged) or "out" in node.kwargs


def purify(module: fx.GraphModule, node: fx.Node) -> None:
    """Make a call that works in place one that does not. Raises UnsupportedError where there is none.

    A module becomes a copy of itself in `module` alone, with the same parameters.
    """
    place = _flag(node)
    if node.op == "call_module":
        parent, _, name = str(node.target).rpartition(".")
        plain = copy.copy(module.get_submodule(str(node.target)))
        vars(plain)["inplace"] = False
        setattr(module.get_submodule(parent), name, plain)
        return
    if place is not None:
        node.args = node.args[:place]
    node.kwargs = {key: value for key, value in node.kwargs.items() if key not in ("inplace", "out")}
    if node.target in _OPERATORS:
        node.target = _OPERATORS[node.target]
    elif _underscored(node):
        name = str(getattr(node.target, "__name__", node.target))
        homes = (torch.Tensor,) if node.op == "call_method" else (functional, torch)
        home = next((home for home in homes if hasattr(home, name[:-1])), None)
        if home is None:
            what = f"Tensor.{name}" if node.op == "call_method" else name
            raise UnsupportedError(f"{where(node)}: {what} is not supported")
        node.target = name[:-1] if node.op == "call_method" else getattr(home, name[:-1])


def _underscored(node: fx.Node) -> bool:
    name = str(getattr(node.target, "__name__", node.target))
    own = getattr(node.target, "__module__", None) == operator.__name__  # and_, or_, not_
    return name.endswith("_") and not name.endswith("__") and not own


def _flag(node: fx.Node) -> int | None:
    """Position of a function's argument `inplace`."""
    if node.op != "call_function":
        return None
    try:
        names = list(inspect.signature(node.target).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # a builtin of torch: those have no such argument
        return None
    return names.index("inplace") if "inplace" in names else None
