"""What storing constants does to each requantisation on identical inputs, against real constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq.fixed import Rounding
from hwq.ir import Graph, Requantize
from hwq.lower import RealConstants
from hwq.simulate import Runner

Codes = npt.NDArray[Any]
_CHUNK = 64
"""Images whose codes are held at once."""
_ROW = 1 << 12
"""Constants are repeated to rows of about so many codes: numpy's inner loops are long."""
_SLICE = 1 << 17
"""Codes handled at once: a float64 buffer of 1 MiB."""


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
    """Compare each requantisation's codes with `real_codes` of the inputs it got; N >= 1 images (N, H, W, C).

    progress is told the images done.
    """
    ops = [op for op in runner.graph if isinstance(op, Requantize)]
    wanted = {name for op in ops for name in (op.name, *op.inputs)}
    sums = {op.name: np.zeros(3) for op in ops}
    logits = []
    for first in range(0, len(pixels), _CHUNK):
        trace = runner.run(pixels[first : first + _CHUNK], keep=wanted)
        for op in ops:
            inputs = [trace.outputs[name] for name in op.inputs]
            sums[op.name] += _compare(op, real[op.name], inputs, trace.outputs[op.name])
        logits.append(trace.logits)
        progress(min(first + _CHUNK, len(pixels)))
    return LocalErrors(
        share={op.name: sums[op.name][0] / (len(pixels) * op.out.size) for op in ops},
        noise={name: float(s[1]) for name, s in sums.items()},
        signal={name: float(s[2]) for name, s in sums.items()},
        logits=np.concatenate(logits),
    )


def _compare(op: Requantize, real: RealConstants, inputs: Sequence[Codes], got: Codes) -> npt.NDArray[Any]:
    """(codes that differ, squared differences, squared codes with real constants); all sums of integers."""
    reference = real_codes(op, real, inputs).reshape(-1)
    found = np.zeros(3)
    for first in range(0, reference.size, _SLICE):
        part = reference[first : first + _SLICE]
        found[2] += part @ part
        part -= got.reshape(-1)[first : first + _SLICE]
        found[0] += np.count_nonzero(part)
        found[1] += part @ part
    return found


def real_codes(op: Requantize, real: RealConstants, inputs: Sequence[Codes]) -> npt.NDArray[np.float64]:
    """clamp(round(sum_i x_i * M_i + B), lo, hi) with the real constants, in float64, terms in order.

    Rounds as the requantisation does (half up, or floor), so only the constants differ. Returns a new
    array of the inputs' shape.
    """
    count, channels = len(inputs[0]), op.out.channels
    repeats = _repeats(op.out.size // channels, channels)
    length = repeats * channels

    def row(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.tile(np.broadcast_to(values, (channels,)), repeats)

    multipliers, bias = [row(m) for m in real.terms], row(real.bias)
    sources = [x.reshape(-1, length) for x in inputs]
    codes = np.empty((count * op.out.size // length, length))
    step = max(1, _SLICE // length)
    for first in range(0, len(codes), step):
        into = codes[first : first + step]
        np.multiply(sources[0][first : first + step], multipliers[0], out=into)
        for x, multiplier in zip(sources[1:], multipliers[1:], strict=True):
            into += x[first : first + step] * multiplier
        into += bias
        if op.requant.rounding is Rounding.RND:
            into += 0.5
        np.floor(into, out=into)
        np.clip(into, op.requant.lo, op.requant.hi, out=into)
    return codes.reshape(inputs[0].shape)


def _repeats(pixels: int, channels: int) -> int:
    """How many pixels of an image share a row: the largest divisor that keeps rows short."""
    return max(r for r in range(1, pixels + 1) if pixels % r == 0 and (r == 1 or r * channels <= _ROW))


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
