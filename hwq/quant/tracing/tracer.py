"""The calls of one forward pass, as torch.fx records them."""

from __future__ import annotations

import traceback
from itertools import takewhile
from typing import Any

from torch import fx, nn

from hwq.errors import UnsupportedError
from hwq.quant.tracing.kinds import MODULES
from hwq.quant.tracing.places import frames, place


class _Tracer(fx.Tracer):
    """Keeps stack traces; torch.nn modules and their subclasses are leaves.

    inside: paths of the modules whose forward is being traced; after a failure, of the one that failed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[str] = []

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        self.inside.append(self.path_of_module(m))
        result = super().call_module(m, forward, args, kwargs)
        self.inside.pop()
        return result

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        # as torch's `record_stack_traces` does, which imports its compiler first: seconds of every command
        node = super().create_node(*args, **kwargs)
        inner = takewhile(lambda call: call[0].f_code is not calls.__code__, traceback.walk_stack(None))
        made = [(frame.f_code, line) for frame, line in inner]
        node.stack_trace = "\n".join(
            f'File "{code.co_filename}", line {line}, in {code.co_name}' for code, line in reversed(made)
        )
        return node

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, tuple(MODULES)) or super().is_leaf_module(m, module_qualified_name)


def calls(model: nn.Module) -> fx.Graph:
    """The calls of a forward pass in the mode that the network is in."""
    tracer = _Tracer()
    try:
        return tracer.trace(model)
    except UnsupportedError:
        raise
    except Exception as error:  # user code runs in here and may raise anything
        path = tracer.inside[-1] if tracer.inside else ""
        at = place(path or type(model).__name__, frames(error))
        raise UnsupportedError(
            f"{at}: cannot trace this forward: {error} (one that depends on tensor values cannot become "
            "hardware)"
        ) from error
