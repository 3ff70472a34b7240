"""The many ways to write an operation -> the one that the rest of hwq knows."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from hwq.errors import UnsupportedError
from hwq.quant.tracing.compare import difference, random_images
from hwq.quant.tracing.dropouts import DROPOUTS
from hwq.quant.tracing.kinds import FUNCTIONS, METHODS, MODULES, own_forward, refuse_attention
from hwq.quant.tracing.places import where
from hwq.quant.tracing.spelling import bake, clamps, endings, forms, spatial
from hwq.quant.tracing.spelling.rows import Spelling, arguments

BOUND = 1e-12
"""Largest difference of a respelled network, as a share of its largest value: a mean over rows, then over
columns, rounds otherwise than one over both. float64 rounds at 1e-16; layers that follow enlarge that."""
_NOTES = "hwq_notes"

_SUMS: tuple[Any, ...] = (operator.add, torch.add, "add")
_CONCATS: tuple[Any, ...] = (torch.cat, torch.concat, torch.concatenate, torch.hstack)


def spellings() -> list[Spelling]:
    """Everything that respelling takes, for the documentation."""
    found = clamps.spellings() + forms.spellings()
    found += [
        Spelling(what="addition", target=t, when="for two tensors, or one and 0 as in sum([a, b])")
        for t in _SUMS
    ]
    found += [Spelling(what="concatenation", target=t, when="for channels") for t in _CONCATS]
    dropped = "nothing in evaluation, what it is in training"
    found += [Spelling(what=dropped, target=t) for t in dict.fromkeys(DROPOUTS.values())]
    found += [Spelling(what=dropped, target=t, when="with training=self.training") for t in DROPOUTS]
    return found + endings.spellings()


def respell(module: fx.GraphModule, image_shape: tuple[int, int, int] | None) -> None:
    """Rewrite a traced network in place; what it computes stays, and so do the names of its nodes.

    image_shape: (H, W, C); without it, what depends on sizes stays as it is. A network that came out
    changed computes the same in float64 within `BOUND`, in evaluation and in training, or is refused with
    UnsupportedError. The last softmax or sigmoid is left out. What the user should know, `notes` tells.
    """
    _check_forwards(module)
    found = bake.bake(module)
    endings.unpack_result(module)
    before = fx.GraphModule(module, copy.deepcopy(module.graph))
    steps: list[Callable[[fx.GraphModule], bool]] = [_sums, _concats, clamps.respell_clamps]
    if image_shape is not None:
        steps.append(spatial.respell_pools)
    changed = [step(module) for step in steps]
    module.graph.lint()
    module.recompile()
    if any(changed) and image_shape is not None:
        _check(before, module, image_shape)
    found += endings.drop_last_activation(module)
    _refuse_others(module)
    module.recompile()
    module.meta[_NOTES] = (*notes(module), *found)


def takes(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node may be one of the `spellings`, whatever its arguments are."""
    return _spelling(module, node) is not None


def _spelling(module: fx.GraphModule, node: fx.Node) -> Spelling | None:
    target: Any = node.target
    if node.op == "call_module":
        target = type(module.get_submodule(str(target)))
    elif node.op not in ("call_function", "call_method"):
        return None
    return next((known for known in spellings() if known.target == target), None)


def notes(module: nn.Module) -> tuple[str, ...]:
    """Lines about a traced or prepared network that its user should see: what was left out or replaced."""
    found: tuple[str, ...] = getattr(module, "meta", {}).get(_NOTES, ())
    return found


def _check_forwards(module: fx.GraphModule) -> None:
    for node in module.graph.nodes:
        child = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if child is None or isinstance(child, nn.Conv2d | nn.Linear) or not own_forward(child):
            continue
        raise UnsupportedError(
            f"{where(node)}: {type(child).__name__} has a forward of its own; make it an nn.Module that "
            "calls the layer and the rest, one after the other"
        )


def _refuse_others(module: fx.GraphModule) -> None:
    """What is no other operation's spelling either: name the condition that it does not meet."""
    for node in module.graph.nodes:
        known = _spelling(module, node)
        target = type(module.get_submodule(str(node.target))) if node.op == "call_module" else node.target
        if known is not None and not any(target in table for table in (MODULES, FUNCTIONS, METHODS)):
            refuse_attention(module)
            raise UnsupportedError(f"{where(node)}: {known.text} is supported only {known.when}")


def _check(before: fx.GraphModule, after: fx.GraphModule, image_shape: tuple[int, int, int]) -> None:
    one, other = (copy.deepcopy(network).double() for network in (before, after))
    found = difference(one, other, random_images(one, image_shape, 2), bound=BOUND)
    if found is not None:
        raise UnsupportedError(
            f"hwq would compute something else than the network ({found}); write its pools and sums in "
            "another way"
        )


# -- sums and concatenations


def _sums(module: fx.GraphModule) -> bool:
    """a + b of two tensors; 0 + a, with which Python's sum begins, is a."""
    changed = False
    for node in list(module.graph.nodes):
        if node.op not in ("call_function", "call_method") or node.target not in _SUMS:
            continue
        given = arguments(node, ("other", "alpha")) or _reflected(node)
        if given is None or given.get("alpha", 1) != 1 or "other" not in given:
            continue
        left, right = given["input"], given["other"]
        if isinstance(right, fx.Node):
            node.op, node.target, node.args, node.kwargs = "call_function", operator.add, (left, right), {}
        elif right == 0 and not isinstance(right, bool):
            node.replace_all_uses_with(left)
            module.graph.erase_node(node)
            changed = True
    return changed


def _reflected(node: fx.Node) -> dict[str, Any] | None:
    """The arguments of a sum whose number stands first."""
    if len(node.args) == 2 and not node.kwargs and isinstance(node.args[1], fx.Node):
        return {"input": node.args[1], "other": node.args[0]}
    return None


def _concats(module: fx.GraphModule) -> bool:
    """torch.cat(tensors, dim)."""
    changed = False
    for node in module.graph.nodes:
        if node.op != "call_function" or node.target not in _CONCATS:
            continue
        given = {**dict(zip(("tensors", "dim"), node.args, strict=False)), **node.kwargs}
        if "axis" in given:
            given["dim"] = given.pop("axis")
        if set(given) <= {"tensors", "dim"} and isinstance(given.get("tensors"), tuple | list):
            dim = 1 if node.target is torch.hstack else given.get("dim", 0)
            changed = changed or node.target is torch.hstack
            node.target, node.args, node.kwargs = torch.cat, (given["tensors"], dim), {}
    return changed
