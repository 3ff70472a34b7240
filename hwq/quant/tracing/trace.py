"""The user's network as a graph of calls, each of a known kind, that computes what the network computes."""

from __future__ import annotations

from itertools import zip_longest
from keyword import iskeyword

import torch
from torch import fx, nn

from hwq.errors import UnsupportedError
from hwq.quant.tracing.compare import random_images, seeded, untouched
from hwq.quant.tracing.dropouts import DROPOUTS, modules_for_dropouts
from hwq.quant.tracing.effects import assume, forget
from hwq.quant.tracing.guard import check
from hwq.quant.tracing.inplace import functionalise
from hwq.quant.tracing.kinds import kinds_of
from hwq.quant.tracing.places import place, where
from hwq.quant.tracing.pure import in_place
from hwq.quant.tracing.redundant import drop
from hwq.quant.tracing.spelling.bake import computes_weight
from hwq.quant.tracing.spelling.respell import respell, takes
from hwq.quant.tracing.tracer import calls


def trace(model: nn.Module, image_shape: tuple[int, int, int] | None = None) -> fx.GraphModule:
    """Trace a network (images (N, C, H, W) -> logits). Parameters are shared with `model`, not copied.

    The graph has no call that works in place (their later readers read their result), no copies, no `view`
    (a reshape has the same values in any memory format) and nothing that the result does not depend on.
    Calls of F.dropout become modules, active in training alone. image_shape: (H, W, C); with it the forward
    runs in eager torch while it is traced, sizes are the integers that they are (the batch size stays
    free), and the traced network is compared with `model` bit for bit, in both modes, on random images.
    Then many spellings of an operation become one, see `respell`. Without it in-place calls are judged by
    their names, and sizes stay calls. The model is left as it was. Raises UnsupportedError naming the
    source line, also for a network that computes something else in evaluation.
    """
    _check_modules(model)
    images = None if image_shape is None else random_images(model, image_shape, 2)
    graphs = []
    for training in (False, True):
        with untouched(model), seeded(torch.device("cpu") if images is None else images.device):
            graphs.append(calls(model.train(training), images))
    evaluated, graph = graphs
    _check_modes(model, evaluated, graph)
    module = fx.GraphModule(model, graph, class_name=type(model).__name__)
    if images is None:
        assume(module, evaluated)
        assume(module, graph)
    functionalise(module, (evaluated, graph))
    forget(graph)
    modules_for_dropouts(module, evaluated)
    _views(graph)
    _prune(graph)
    graph.lint()
    module.recompile()
    if image_shape is not None:
        check(model, module, image_shape)
    drop(graph)  # not before: sums in another memory format have other last bits
    _prune(graph)
    respell(module, image_shape)
    return module


def _check_modes(model: nn.Module, evaluated: fx.Graph, graph: fx.Graph) -> None:
    for one, other in zip_longest(graph.nodes, evaluated.nodes):
        if one is None or other is None or _call(one) != _call(other):
            _check_ops(fx.GraphModule(model, evaluated))  # an unknown op is the plainer complaint
            at = place(type(model).__name__, []) if one is None else where(one)
            raise UnsupportedError(
                f"{at}: from here on the forward differs in training and in evaluation (self.training); "
                "hardware can only be one of them"
            )


def _check_ops(module: fx.GraphModule) -> None:
    def may_fit(node: fx.Node) -> bool:
        known = in_place(module, node) or node.target in DROPOUTS or node.target == "view"
        return known or takes(module, node)

    kinds_of(module, may_fit)


def _call(node: fx.Node) -> tuple[object, ...]:
    """What a node computes; of a dropout not whether it is in training."""
    args, kwargs = (node.args[:2], {}) if node.target in DROPOUTS else (node.args, node.kwargs)
    return node.op, node.target, repr(args), repr(kwargs)


def _views(graph: fx.Graph) -> None:
    """A map in channels_last, as training has it, cannot be viewed as a vector, only copied."""
    for node in graph.nodes:
        sizes = not node.kwargs and not any(isinstance(a, torch.dtype) for a in node.args)
        if node.op == "call_method" and node.target == "view" and sizes:
            node.target = "reshape"


def _prune(graph: fx.Graph) -> None:
    """Take out what nobody reads: after `functionalise` no call does anything but return its result."""
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)


def _check_modules(model: nn.Module) -> None:
    """Refuse what would be lost without a word: names that are none in Python (torch.fx writes it), hooks."""
    for path, module in model.named_modules():
        for part in path.split("."):
            if iskeyword(part) or any(c in '"\\' or not c.isprintable() for c in part):
                raise UnsupportedError(
                    f"module {path!r}: torch.fx cannot trace a module named {part!r} (a keyword of Python, "
                    "a quote or a control character in it); rename it"
                )
        before = [hook for hook in module._forward_pre_hooks.values() if not computes_weight(hook)]
        if module._forward_hooks or before:
            raise UnsupportedError(
                f"'{path or type(model).__name__}': has forward hooks, which hardware cannot have; remove "
                "them (weight_norm, spectral_norm and prune are such hooks, and have functions for that)"
            )
