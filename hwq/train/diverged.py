"""Which layer first yields what is no number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from hwq.errors import HwqError
from hwq.quant import where
from hwq.train.checkpoint.values import bad_tensor, finite

NOWHERE = 1_000_000_000


class Diverged(HwqError):
    """The loss, or a weight, is no longer a finite number."""

    exit_code = 6


@torch.no_grad()
def culprit(model: fx.GraphModule, images: Tensor) -> tuple[int, str]:
    """(position in execution order, what happened there) for the first value that is not finite.

    Runs the network once more on the batch, in its present mode. (NOWHERE, ...) where all are finite.
    """
    watch = _Watch(model)
    watch.run(images)
    return watch.found or (NOWHERE, "every layer's output is finite, so it is the loss itself")


class _Watch(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: tuple[int, str] | None = None
        self._position = 0

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self._position += 1
        if self.found is None and isinstance(result, Tensor) and not finite(result):
            self.found = (self._position, self._say(n))
        return result

    def _say(self, node: fx.Node) -> str:
        if node.op == "placeholder":
            return "the normalised images already are not"
        module = self.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        name = bad_tensor(module.state_dict()) if module is not None else None
        why = f"its '{name}' holds inf or nan" if name else "its inputs and parameters still are"
        return f"the output of {where(node)} is the first that is not finite; {why}"
