"""What storing constants does to each requantisation on identical inputs, against real constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq.engine import audit
from hwq.ir import Graph, Requantize
from hwq.lower import RealConstants
from hwq.simulate import Runner

Codes = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LocalErrors:
    """By name of the Requantize, over all its codes of the images: `share` that differ, 0..1; `noise`, the
    sum of squared differences in code units; `signal`, the sum of squared codes with real constants.

    logits: (N, classes) codes of the same run.
    """

    share: Mapping[str, float]
    noise: Mapping[str, float]
    signal: Mapping[str, float]
    logits: Codes


def local_errors(
    runner: Runner,
    pixels: npt.NDArray[np.uint8],
    real: Mapping[str, RealConstants],
    progress: Callable[[int], None] = lambda images: None,
) -> LocalErrors:
    """Compare each requantisation's codes with its real constants' on the inputs it got.

    pixels: (N, H, W, C), N >= 1. progress is told the images done.
    """
    named = {op.name: real[op.name] for op in runner.graph if isinstance(op, Requantize)}
    found = audit(runner, pixels, named, progress)
    return LocalErrors(
        share={name: errors.share for name, errors in found.layers.items()},
        noise={name: float(errors.noise) for name, errors in found.layers.items()},
        signal={name: float(errors.signal) for name, errors in found.layers.items()},
        logits=found.logits,
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


def decibels(signal: float, noise: float) -> float | None:
    """10 log10(signal / noise); None for no noise. A signal of 0 counts as one code."""
    return None if noise == 0 else float(10 * np.log10(max(signal, 1.0) / noise))
