"""The user's network as a graph of calls, each of a known kind."""

from __future__ import annotations

from itertools import zip_longest
from keyword import iskeyword

from torch import fx, nn

from hwq.errors import UnsupportedError
from hwq.quant.tracing.compare import untouched
from hwq.quant.tracing.dropouts import DROPOUTS, modules_for_dropouts
from hwq.quant.tracing.kinds import kind_of
from hwq.quant.tracing.places import place, where
from hwq.quant.tracing.shapes import fold_shapes
from hwq.quant.tracing.tracer import calls


def trace(model: nn.Module, image_shape: tuple[int, int, int] | None = None) -> fx.GraphModule:
    """Trace a network (images (N, C, H, W) -> logits). Parameters are shared with `model`, not copied.

    image_shape: (H, W, C); with it, sizes that the code reads from tensors become constants (the batch
    size stays free). Calls of F.dropout become modules, active in training alone. Raises UnsupportedError
    naming the source line, also for a network that computes something else in evaluation.
    """
    _check_modules(model)
    with untouched(model):
        evaluated, graph = (calls(model.train(training)) for training in (False, True))
    for one, other in zip_longest(graph.nodes, evaluated.nodes):
        if one is None or other is None or _call(one) != _call(other):
            _check_ops(fx.GraphModule(model, evaluated))  # an unknown op is the plainer complaint
            at = place(type(model).__name__, []) if one is None else where(one)
            raise UnsupportedError(
                f"{at}: from here on the forward differs in training and in evaluation (self.training); "
                "hardware can only be one of them"
            )
    module = fx.GraphModule(model, graph, class_name=type(model).__name__)
    modules_for_dropouts(module)
    if image_shape is not None:
        fold_shapes(module, image_shape)
    return module


def _check_ops(module: fx.GraphModule) -> None:
    for node in module.graph.nodes:
        kind_of(module, node)


def _call(node: fx.Node) -> tuple[object, ...]:
    """What a node computes; of a dropout not whether it is in training."""
    args, kwargs = (node.args[:2], {}) if node.target in DROPOUTS else (node.args, node.kwargs)
    return node.op, node.target, repr(args), repr(kwargs)


def _check_modules(model: nn.Module) -> None:
    """Refuse what would be lost without a word: names that are none in Python (torch.fx writes it), hooks."""
    for path, module in model.named_modules():
        for part in path.split("."):
            if iskeyword(part) or any(c in '"\\' or not c.isprintable() for c in part):
                raise UnsupportedError(
                    f"module {path!r}: torch.fx cannot trace a module named {part!r} (a keyword of Python, "
                    "a quote or a control character in it); rename it"
                )
        if module._forward_hooks or module._forward_pre_hooks:
            raise UnsupportedError(
                f"'{path or type(model).__name__}': has forward hooks, which hardware cannot have; remove "
                "them (weight_norm, spectral_norm and prune are such hooks, and have functions for that)"
            )
