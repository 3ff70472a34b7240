"""Sizes beyond which a graph is not run: no network has them, and a small file could ask for any memory."""

from __future__ import annotations

from math import prod

from hwq.errors import VerifyError
from hwq.ir import Graph
from hwq.ir.padding import NO_PADDING

MAX_OPS = 20_000
MAX_VALUES = 1 << 26
"""Codes of one tensor of one image, an input with its padding included: half a GiB as int64."""


def check_limits(graph: Graph) -> None:
    """Raise VerifyError where a graph is too large to run. Before `verify`: anything may still be wrong."""
    if len(graph.ops) > MAX_OPS:
        raise VerifyError(f"{len(graph.ops):,} ops, at most {MAX_OPS:,} are taken")
    shapes = {op.name: op.out.shape for op in graph.ops}
    for op in graph.ops:
        padding = getattr(op, "padding", NO_PADDING)
        padded = [
            (shape[0] + max(padding.rows, 0), shape[1] + max(padding.columns, 0), *shape[2:])
            for shape in (shapes.get(name, ()) for name in op.inputs)
            if len(shape) == 3
        ]
        values = max(map(prod, (op.out.shape, *padded)))
        if values > MAX_VALUES:
            raise VerifyError(
                f"op '{op.name[:40]}': {values:,} values with its padding, at most {MAX_VALUES:,} are taken"
            )
