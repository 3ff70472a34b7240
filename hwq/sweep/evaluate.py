"""What one constant format does to a network: accuracy, and the code errors of each layer by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq.engine import simulator
from hwq.fixed import Rounding
from hwq.ir import Graph, Requantize
from hwq.lower import RealConstants
from hwq.simulate import Runner

CHUNK = 64
"""Images whose codes are held at once."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A network lowered with one format.

    real: of every Requantize, its constants before they were stored. saturated, vanished, harmful:
    counts of constants that the format could not show.
    """

    graph: Graph
    real: Mapping[str, RealConstants]
    saturated: int = 0
    vanished: int = 0
    harmful: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatResult:
    """accuracy: percent. layers: share, 0..1, of each Requantize's output codes that differ from what its
    real-valued constants give on identical inputs, for those in the body format; edge_layers: the same of
    the input's and the logits'. local: mean over `layers`.
    """

    images: int
    accuracy: float
    local: float
    layers: dict[str, float]
    edge_layers: dict[str, float]
    saturated: int
    vanished: int
    harmful: int


def evaluate_format(
    candidate: Candidate,
    pixels: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    *,
    runner: Runner | None = None,
    progress: Callable[[int], None] = lambda images: None,
) -> FormatResult:
    """Run the images (N, H, W, C), N >= 1, and compare each requantisation with its real constants.

    runner: an engine of the candidate's graph, by default the best there is. progress is told the images
    done so far. Raises InputError for images of another shape.
    """
    graph = candidate.graph
    runner = runner or simulator(graph)
    ops = [op for op in graph if isinstance(op, Requantize)]
    wanted = {name for op in ops for name in (op.name, *op.inputs)}
    wrong = dict.fromkeys((op.name for op in ops), 0)
    right = 0
    for first in range(0, len(pixels), CHUNK):
        part = slice(first, first + CHUNK)
        trace = runner.run(pixels[part], keep=wanted)
        right += int(np.count_nonzero(trace.predictions == labels[part]))
        for op in ops:
            reference = real_codes(op, candidate.real[op.name], [trace.outputs[i] for i in op.inputs])
            wrong[op.name] += int(np.count_nonzero(reference != trace.outputs[op.name]))
        progress(min(first + CHUNK, len(pixels)))
    shares = {op.name: wrong[op.name] / (len(pixels) * op.out.size) for op in ops}
    layers = {name: shares.pop(name) for name in body_layers(graph)}
    return FormatResult(
        images=len(pixels),
        accuracy=100.0 * right / len(pixels),
        local=float(np.mean(list(layers.values()))) if layers else 0.0,
        layers=layers,
        edge_layers=shares,
        saturated=candidate.saturated,
        vanished=candidate.vanished,
        harmful=candidate.harmful,
    )


def body_layers(graph: Graph) -> tuple[str, ...]:
    """Requantisations in the body format: all but the input's and the logits'."""
    return tuple(
        op.name
        for op in graph
        if isinstance(op, Requantize)
        and graph.input.name not in op.inputs
        and op.name not in graph.output.inputs
    )


def real_codes(
    op: Requantize, real: RealConstants, inputs: Sequence[npt.NDArray[Any]]
) -> npt.NDArray[np.float64]:
    """clamp(round(sum_i x_i * M_i + B), lo, hi) with the real constants, in float64, terms in order.

    Rounds as the requantisation does (half up, or floor), so only the constants differ.
    """
    total = np.zeros(inputs[0].shape, dtype=np.float64)
    for x, multiplier in zip(inputs, real.terms, strict=True):
        total += x.astype(np.float64) * multiplier
    total += real.bias
    if op.requant.rounding is Rounding.RND:
        total += 0.5
    codes: npt.NDArray[np.float64] = np.clip(np.floor(total), op.requant.lo, op.requant.hi)
    return codes
