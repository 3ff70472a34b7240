"""F.dropout as a module, which is active in training alone."""

from __future__ import annotations

from typing import Any

from torch import fx, nn
from torch.nn import functional

DROPOUTS: dict[Any, type[nn.Module]] = {
    functional.dropout: nn.Dropout,
    functional.dropout2d: nn.Dropout2d,
}


def modules_for_dropouts(module: fx.GraphModule) -> None:
    """F.dropout(x, p, self.training) was traced with the mode of that moment; a module follows its own."""
    for node in list(module.graph.nodes):
        if node.target not in DROPOUTS:
            continue
        given = {**dict(zip(("input", "p"), node.args, strict=False)), **node.kwargs}
        name = node.name
        while hasattr(module, name):
            name += "_"
        module.add_submodule(name, DROPOUTS[node.target](given.get("p", 0.5)).train(module.training))
        with module.graph.inserting_before(node):
            call = module.graph.create_node("call_module", name, (given["input"],))
        call.meta = dict(node.meta)
        call.stack_trace = node.stack_trace
        node.replace_all_uses_with(call)
        module.graph.erase_node(node)
