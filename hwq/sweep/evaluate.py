"""One candidate on a test set: accuracy on all images, what its constants do on some of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hwq.ir import Graph
from hwq.lower import RealConstants
from hwq.simulate import LogitRange, LogitWatch, Runner, accuracy
from hwq.sweep.local import Codes, body_layers, decibels, local_errors


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A network lowered with one format.

    real: of every Requantize, its constants before they were stored. saturated, vanished: counts of
    constants that the format could not show; harmful: by Requantize, how many of them could move an output.
    """

    graph: Graph
    real: Mapping[str, RealConstants]
    saturated: int = 0
    vanished: int = 0
    harmful: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """accuracy: percent, range: of the logits before any clamp, both of all images. The others are of the
    first ones, see `sampled`.

    layers: share, 0..1, of each Requantize's output codes that differ from what its real-valued constants
    give on identical inputs, for those in the body format; edge_layers: the same of the input's and the
    logits'. snr: by Requantize, of the same codes, in dB; None where none differs. logits: of all images.
    """

    accuracy: float
    range: LogitRange
    layers: dict[str, float]
    edge_layers: dict[str, float]
    snr: dict[str, float | None]
    logits: Codes


def sampled(count: int, errors: int) -> npt.NDArray[np.int64]:
    """An order of `count` images in which the first `errors` are spread evenly over all of them."""
    first = np.arange(errors, dtype=np.int64) * count // max(1, errors)
    return np.concatenate([first, np.setdiff1d(np.arange(count), first)])


def evaluate(
    candidate: Candidate,
    pixels: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    runner: Runner,
    *,
    errors: int,
    progress: Callable[[int], None] = lambda images: None,
) -> Measured:
    """Run the images (N, H, W, C), N >= 1, on an engine of the candidate's graph; the first `errors` of
    them, 0..N, also layer by layer.

    progress is told the images done so far. Raises InputError for images of another shape.
    """
    logits = []
    share: Mapping[str, float] = {}
    snr: dict[str, float | None] = {}
    if errors:
        found = local_errors(runner, pixels[:errors], candidate.real, progress)
        share = found.share
        snr = {name: decibels(found.signal[name], noise) for name, noise in found.noise.items()}
        logits.append(found.logits)
    if errors < len(pixels):
        rest = runner.run(pixels[errors:], progress=lambda done: progress(errors + done))
        logits.append(rest.logits)
    together = np.concatenate(logits)
    watch = LogitWatch(candidate.graph)
    watch.add_run(runner, pixels, together)
    body = [name for name in body_layers(candidate.graph) if name in share]
    return Measured(
        accuracy=accuracy(together.argmax(axis=1), labels),
        range=watch.result(),
        layers={name: share[name] for name in body},
        edge_layers={name: value for name, value in share.items() if name not in body},
        snr=snr,
        logits=together,
    )


def logits_snr(logits: Codes, real: Codes) -> float | None:
    """dB of the logits (N, classes) against those with real-valued constants; None where all are equal."""
    signal, noise = real.astype(np.float64), logits.astype(np.float64) - real
    return decibels(float(np.sum(signal**2)), float(np.sum(noise**2)))
