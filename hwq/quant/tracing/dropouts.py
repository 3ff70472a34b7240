"""F.dropout as a module, which is active in training alone."""

from __future__ import annotations

import inspect
from typing import Any

from torch import fx, nn
from torch.nn import functional

from hwq.errors import UnsupportedError
from hwq.quant.tracing.places import where

DROPOUTS: dict[Any, type[nn.Module]] = {
    functional.dropout: nn.Dropout,
    functional.dropout1d: nn.Dropout1d,
    functional.dropout2d: nn.Dropout2d,
    functional.dropout3d: nn.Dropout3d,
    functional.alpha_dropout: nn.AlphaDropout,
    functional.feature_alpha_dropout: nn.FeatureAlphaDropout,
}


def modules_for_dropouts(module: fx.GraphModule, evaluated: fx.Graph) -> None:
    """Every F.dropout(x, p, training) as a module, where it drops in training alone; dropped where never.

    evaluated: the same calls as the module's graph, traced in evaluation. Raises UnsupportedError, naming
    the line, for one that drops in evaluation.
    """
    for node, other in list(zip(module.graph.nodes, evaluated.nodes, strict=True)):
        if node.target not in DROPOUTS:
            continue
        if _given(other)["training"] is not False:
            raise UnsupportedError(
                f"{where(node)}: {node.target.__name__} drops in evaluation, too; "
                "give it training=self.training"
            )
        given = _given(node)
        if given["training"] is False:
            node.replace_all_uses_with(given["input"])
            module.graph.erase_node(node)
            continue
        name = node.name
        while hasattr(module, name):
            name += "_"
        module.add_submodule(name, DROPOUTS[node.target](given["p"]).train(module.training))
        with module.graph.inserting_before(node):
            call = module.graph.create_node("call_module", name, (given["input"],))
        call.meta = dict(node.meta)
        call.stack_trace = node.stack_trace
        node.replace_all_uses_with(call)
        module.graph.erase_node(node)


def _given(node: fx.Node) -> dict[str, Any]:
    bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
    bound.apply_defaults()
    return dict(bound.arguments)
