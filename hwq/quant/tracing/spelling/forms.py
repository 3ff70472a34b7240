"""What means, maxima, reshapes and indices make of the rows and columns of a map, step by step.

`x.mean(-1).mean(-1)`, `x.flatten(2).amax(-1)`, `F.adaptive_avg_pool2d(x, 1)[:, :, 0, 0]`: no step of these is
a map or a vector, but what comes out at the end is.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from hwq.quant.tracing.shapes import SHAPE
from hwq.quant.tracing.spelling.rows import Spelling, arguments

MEAN, MAX = "mean", "amax"

_REDUCTIONS: dict[Any, str] = {torch.mean: MEAN, "mean": MEAN, torch.amax: MAX, "amax": MAX}
_FLATTENS = (torch.flatten, "flatten")
_RESHAPES = (torch.reshape, "reshape", "view")
_SQUEEZES = (torch.squeeze, "squeeze")
_UNSQUEEZES = (torch.unsqueeze, "unsqueeze")
_WHOLE = "over rows and columns, at once or one after the other"
_ALL = "for all but the batch, or for rows and columns that are pooled next"
_ONE = "for rows and columns of which one is left"


def spellings() -> list[Spelling]:
    """All of them, for the documentation."""
    found = [
        Spelling(what=f"global {'average' if op == MEAN else 'max'} pool", target=target, when=_WHOLE)
        for target, op in _REDUCTIONS.items()
    ]
    fit = "into sizes that divide the map's"
    adaptive: tuple[Any, ...] = (nn.AdaptiveMaxPool2d, functional.adaptive_max_pool2d)
    found += [Spelling(what="max pool", target=target, when=fit) for target in adaptive]
    flattens: tuple[Any, ...] = (*_FLATTENS, nn.Flatten, *_RESHAPES)
    found += [Spelling(what="flatten", target=target, when=_ALL) for target in flattens]
    found += [Spelling(what="flatten", target=target, when=_ONE) for target in (*_SQUEEZES, *_UNSQUEEZES)]
    found.append(Spelling(what="flatten", target=operator.getitem, when=f"with whole numbers {_ONE}"))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A tensor whose first two dimensions are those of a map, and what became of the map's rows and columns.

    base: the map (N, C, H, W). reduced: of its dimensions 2 and 3 those that `op` was taken over.
    axes: for every further dimension of the tensor the map's dimensions that lie in it.
    """

    base: fx.Node
    op: str = ""
    reduced: frozenset[int] = frozenset()
    axes: tuple[tuple[int, ...], ...] = ((2,), (3,))

    def size(self, axis: tuple[int, ...]) -> int:
        return math.prod(self.base.meta[SHAPE][d] for d in axis if d not in self.reduced)

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.base.meta[SHAPE][:2], *map(self.size, self.axes))


def form_of(module: fx.GraphModule, node: fx.Node, forms: dict[fx.Node, Form]) -> Form | None:
    """Of a node's tensor, from those of its sources; None for what is no such step, or is not known."""
    source = next(iter(node.all_input_nodes), None)
    if source is None or SHAPE not in node.meta or SHAPE not in source.meta:
        return None
    fresh = Form(base=source) if len(source.meta[SHAPE]) == 4 else None
    for start in (forms.get(source), fresh):
        made = None if start is None else _step(module, node, start)
        if made is not None:
            return made
    return None


def _step(module: fx.GraphModule, node: fx.Node, form: Form) -> Form | None:
    target = node.target
    if node.op == "call_module":
        child = module.get_submodule(str(target))
        return _flattened(form, child.start_dim, child.end_dim) if type(child) is nn.Flatten else None
    if node.op not in ("call_function", "call_method"):
        return None
    if target is operator.getitem:
        return _indexed(form, node.args[1])
    if target in _RESHAPES:
        sizes = arguments(node, ("shape",)) if target is torch.reshape else {"shape": _sizes(node)}
        return None if sizes is None else _reshaped(form, sizes["shape"], node.meta[SHAPE])
    if target in _REDUCTIONS:
        given = arguments(node, ("dim", "keepdim"))
        return None if given is None else _reduced(form, _REDUCTIONS[target], given)
    if target in _FLATTENS:
        given = arguments(node, ("start_dim", "end_dim"))
        return (
            None if given is None else _flattened(form, given.get("start_dim", 0), given.get("end_dim", -1))
        )
    if target in _SQUEEZES:
        given = arguments(node, ("dim",))
        return None if given is None else _squeezed(form, given.get("dim"))
    if target in _UNSQUEEZES:
        given = arguments(node, ("dim",))
        return None if given is None else _unsqueezed(form, given.get("dim"))
    return None


def _dims(form: Form, dims: object) -> list[int] | None:
    """Positions in `axes` of the dimensions, None where there are none or others."""
    listed = list(dims) if isinstance(dims, Sequence) else [dims]
    rank = 2 + len(form.axes)
    found = [d % rank - 2 for d in listed if isinstance(d, int) and -rank <= d < rank]
    if not found or len(found) < len(listed):
        return None
    return found if min(found) >= 0 else None


def _reduced(form: Form, op: str, given: dict[str, Any]) -> Form | None:
    dims = _dims(form, given.get("dim"))
    if dims is None or form.op not in ("", op):
        return None
    reduced = form.reduced.union(*(form.axes[d] for d in dims))
    axes = [() if d in dims else axis for d, axis in enumerate(form.axes)]
    if not given.get("keepdim", False):
        axes = [axis for d, axis in enumerate(axes) if d not in dims]
    return replace(form, op=op, reduced=reduced, axes=tuple(axes))


def _flattened(form: Form, start: object, end: object) -> Form | None:
    rank = 2 + len(form.axes)
    if type(start) is not int or type(end) is not int:
        return None
    first, last = start % rank - 2, end % rank - 2
    if first >= 0 and last >= first:
        merged = tuple(d for axis in form.axes[first : last + 1] for d in axis)
        return replace(form, axes=(*form.axes[:first], merged, *form.axes[last + 1 :]))
    whole = first == -1 and last == len(form.axes) - 1
    return replace(form, axes=()) if whole and all(form.size(axis) == 1 for axis in form.axes) else None


def _squeezed(form: Form, dim: object) -> Form | None:
    dims = list(range(len(form.axes))) if dim is None else _dims(form, dim)
    if dims is None:
        return None
    kept = [axis for d, axis in enumerate(form.axes) if d not in dims or form.size(axis) != 1]
    return replace(form, axes=tuple(kept))


def _unsqueezed(form: Form, dim: object) -> Form | None:
    rank = 2 + len(form.axes)
    if type(dim) is not int:
        return None
    place = (dim if dim >= 0 else dim + rank + 1) - 2
    return replace(form, axes=(*form.axes[:place], (), *form.axes[place:])) if place >= 0 else None


def _indexed(form: Form, index: object) -> Form | None:
    rank = 2 + len(form.axes)
    parts = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(p, fx.Node) or p is None for p in parts) or parts.count(Ellipsis) > 1:
        return None
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts[at : at + 1] = [slice(None)] * (rank - len(parts) + 1)
    parts += [slice(None)] * (rank - len(parts))
    if len(parts) != rank or parts[:2] != [slice(None)] * 2:
        return None
    axes = []
    for axis, part in zip(form.axes, parts[2:], strict=True):
        if part == slice(None):
            axes.append(axis)
        elif type(part) is not int or form.size(axis) != 1:
            return None
    return replace(form, axes=tuple(axes))


def _sizes(node: fx.Node) -> object:
    """The sizes of x.view(*sizes) and its kin."""
    sizes = node.args[1:] or (node.kwargs.get("shape", node.kwargs.get("size")),)
    return sizes[0] if len(sizes) == 1 and isinstance(sizes[0], Sequence) else sizes


def _reshaped(form: Form, sizes: object, shape: tuple[int, ...]) -> Form | None:
    """Dimensions that are joined, or whose size is 1; the batch is a size of a tensor, or what is left."""
    if not isinstance(sizes, Sequence) or not sizes or not (isinstance(sizes[0], fx.Node) or sizes[0] == -1):
        return None
    if shape[:2] != form.shape[:2]:
        return None
    waiting, axes = list(form.axes), []
    for wanted in shape[2:]:
        joined: tuple[int, ...] = ()
        while form.size(joined) < wanted and waiting:
            joined += waiting.pop(0)
        if form.size(joined) != wanted:
            return None
        axes.append(joined)
    return replace(form, axes=tuple(axes)) if all(form.size(axis) == 1 for axis in waiting) else None
