"""Steps that together pool a map (`forms`) -> one pool, and one flatten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from hwq.quant.tracing.shapes import SHAPE
from hwq.quant.tracing.spelling.forms import MEAN, Form, form_of
from hwq.quant.tracing.spelling.rows import arguments

_ROWS_AND_COLUMNS = (2, 3)


def respell_pools(module: fx.GraphModule) -> bool:
    """Needs the shapes of all tensors. Whether anything changed."""
    changed = _adaptive_max(module)
    forms: dict[fx.Node, Form] = {}
    for node in module.graph.nodes:
        form = form_of(module, node, forms)
        if form is not None and form.shape == node.meta.get(SHAPE):
            forms[node] = form
    wanted = _wanted(forms)
    for node, form in forms.items():
        if node in wanted:
            changed = _realise(module, node, form) or changed
    for node in reversed(forms):
        if not node.users:
            module.graph.erase_node(node)
    return changed


def _wanted(forms: dict[fx.Node, Form]) -> set[fx.Node]:
    """The nodes whose value something reads that is not a further step on the way to a pool."""
    left: set[fx.Node] = set()  # those that stay as they are
    wanted: set[fx.Node] = set()
    for node in reversed(forms):
        if all(u in forms and forms[u].base is not node and u not in left for u in node.users):
            continue
        (wanted if _plan(forms[node]) is not None else left).add(node)
    return wanted


# -- what it becomes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """A pool of the base over `kernel`, None for none; then a flatten."""

    op: str
    kernel: tuple[int, int] | None
    flatten: bool


def _plan(form: Form) -> _Plan | None:
    """None for what is neither a map nor a vector."""
    left = [axis for axis in form.axes if form.size(axis) != 1]
    vector = not form.axes
    in_place = len(form.axes) == 2 and all(
        form.size(axis) == 1 or axis == (d,) for d, axis in zip(_ROWS_AND_COLUMNS, form.axes, strict=True)
    )
    if (left and not in_place) or not (vector or in_place):
        return None
    sizes = [form.base.meta[SHAPE][d] if d in form.reduced else 1 for d in _ROWS_AND_COLUMNS]
    kept = [form.base.meta[SHAPE][d] for d in _ROWS_AND_COLUMNS if d not in form.reduced]
    if vector and any(n != 1 for n in kept):
        return None
    kernel = (sizes[0], sizes[1]) if form.op else None
    return _Plan(op=form.op, kernel=kernel, flatten=vector)


def _realise(module: fx.GraphModule, node: fx.Node, form: Form) -> bool:
    """The node as its form says, under its name; False where it stood so already."""
    plan = _plan(form)
    assert plan is not None
    if plan.kernel is None and not plan.flatten:
        node.replace_all_uses_with(form.base)
        return True
    if node.op == "call_module":  # a layer that flattens goes on doing so, under its path
        source = form.base if plan.kernel is None else _pooled(module, node, form, plan.kernel)
        changed = node.args != (source,)
        node.args = (source,)
        return changed
    if plan.op == MEAN and form.reduced == set(_ROWS_AND_COLUMNS):
        same = node.target == MEAN and node.args[0] is form.base
        _become(node, "call_method", MEAN, (form.base, _ROWS_AND_COLUMNS, not plan.flatten))
        return not same
    if plan.kernel is None:
        same = node.all_input_nodes[0] is form.base
        _become(node, "call_function", torch.flatten, (form.base, 1))
        return not same
    if plan.flatten:
        _become(node, "call_function", torch.flatten, (_pooled(module, node, form, plan.kernel), 1))
    else:
        pool = functional.avg_pool2d if plan.op == MEAN else functional.max_pool2d
        _become(node, "call_function", pool, (form.base, plan.kernel))
    return True


def _pooled(module: fx.GraphModule, node: fx.Node, form: Form, kernel: tuple[int, int]) -> fx.Node:
    """A pool of the base, before the node that flattens it."""
    pool = functional.avg_pool2d if form.op == MEAN else functional.max_pool2d
    with module.graph.inserting_before(node):
        made = module.graph.call_function(pool, (form.base, kernel))
    size = (h // k for h, k in zip(form.base.meta[SHAPE][2:], kernel, strict=True))
    made.meta = {**node.meta, SHAPE: (*form.base.meta[SHAPE][:2], *size)}
    made.stack_trace = node.stack_trace
    return made


def _become(node: fx.Node, op: str, target: Any, args: tuple[Any, ...]) -> None:
    node.op, node.target = op, target
    node.args, node.kwargs = args, {}


# -- adaptive max pools


def _adaptive_max(module: fx.GraphModule) -> bool:
    """Max pools of equal windows; the sizes of a layer that is called more than once may differ."""
    made: dict[str, nn.Module] = {}
    changed = False
    for node in module.graph.nodes:
        child = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if type(child) is nn.AdaptiveMaxPool2d:
            wanted, indices = child.output_size, child.return_indices
        elif node.op == "call_function" and node.target is functional.adaptive_max_pool2d:
            given = arguments(node, ("output_size", "return_indices"))
            if given is None:
                continue
            wanted, indices = given.get("output_size"), given.get("return_indices", False)
        else:
            continue
        source = node.all_input_nodes[0]
        kernel = _window(source.meta.get(SHAPE, ()), node.meta.get(SHAPE, ()))
        if indices or kernel is None or wanted is None:
            continue
        changed = True
        if child is None:
            _become(node, "call_function", functional.max_pool2d, (source, kernel))
            continue
        path = str(node.target)
        while path in made:
            path += "_"
        made[path] = nn.MaxPool2d(kernel).train(child.training)
        node.target = path
    for path, pool in made.items():
        module.add_submodule(path, pool)
    return changed


def _window(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[int, int] | None:
    if len(before) != 4 or len(after) != 4 or any(n % m for n, m in zip(before[2:], after[2:], strict=True)):
        return None
    return before[2] // after[2], before[3] // after[3]
