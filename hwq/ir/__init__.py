"""The graph hwq lowers to: frozen integer ops, `Graph`, and `verify`, the table of what is legal."""

from hwq.ir.bounds import Bound, accumulator_type, magnitude, output_bound, sum_type, weighted
from hwq.ir.graph import Graph
from hwq.ir.ops import (
    Concat,
    Conv2d,
    Flatten,
    Input,
    Linear,
    MaxPool,
    Op,
    Output,
    Pad,
    Requantize,
    SumPool,
    TensorSpec,
)
from hwq.ir.padding import NO_PADDING, Padding, pooled_size
from hwq.ir.requant import Alignment, Requant
from hwq.ir.verify import verify

__all__ = [
    "NO_PADDING",
    "Alignment",
    "Bound",
    "Concat",
    "Conv2d",
    "Flatten",
    "Graph",
    "Input",
    "Linear",
    "MaxPool",
    "Op",
    "Output",
    "Pad",
    "Padding",
    "Requant",
    "Requantize",
    "SumPool",
    "TensorSpec",
    "accumulator_type",
    "magnitude",
    "output_bound",
    "pooled_size",
    "sum_type",
    "verify",
    "weighted",
]
