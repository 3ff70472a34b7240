"""Runs images through the compiled C++ and the Python simulator side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hwq.cosim.compare import Verdict, argmax_labels, compare, new_verdict
from hwq.cosim.library import Library
from hwq.cosim.taps import TapPlan
from hwq.ir import Graph

_BATCH_BYTES = 48 << 20
_BATCH_IMAGES = 256

Taps = Mapping[str, npt.NDArray[Any]]
Reference = Callable[[npt.NDArray[np.uint8]], Taps]
"""(n, H, W, C) uint8 -> every op's output, (n, *shape) integers."""


class Sink(Protocol):
    """Takes the C++'s taps of every batch; the arrays are only valid during the call."""

    def __call__(self, first_image: int, taps: Taps) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A finished comparison. Predictions: class of every image; seconds: wall time of each side's work."""

    verdict: Verdict
    predicted_cpp: npt.NDArray[np.int64]
    predicted_python: npt.NDArray[np.int64]
    seconds: float


def batch_size(plan: TapPlan, workers: int) -> int:
    """Images a worker takes at once: bounded by memory, whatever the network."""
    fitting = _BATCH_BYTES // (plan.image_bytes * workers)
    return int(min(_BATCH_IMAGES, max(1, fitting)))


def _chunks(total: int, size: int) -> Iterator[tuple[int, int]]:
    for first in range(0, total, size):
        yield first, min(total, first + size)


def cosimulate(
    graph: Graph,
    library: Path,
    pixels: npt.NDArray[np.uint8],
    reference: Reference,
    *,
    workers: int = 1,
    batch: int | None = None,
    timeout: float | None = 600.0,
    progress: Callable[[int], None] = lambda done: None,
    sink: Sink | None = None,
) -> Outcome:
    """Compare every op's output for every image: (N, H, W, C) uint8, N >= 1.

    workers: processes that run the C++, each on its share of a batch, while this one runs `reference`.
    progress is told the images done. Raises ToolError when the C++ crashes or hangs.
    """
    plan = TapPlan.of(graph)
    verdict = new_verdict(plan)
    output = graph.output.name
    ours: list[npt.NDArray[np.int64]] = []
    theirs: list[npt.NDArray[np.int64]] = []
    size = batch or batch_size(plan, workers)
    started = time.perf_counter()
    with ExitStack() as stack:
        pool = [
            stack.enter_context(Library(library, plan, capacity=size, timeout=timeout))
            for _ in range(workers)
        ]
        for first, end in _chunks(len(pixels), size * workers):
            spans = list(_chunks(end - first, size))
            for worker, (a, b) in zip(pool, spans, strict=False):
                worker.submit(pixels[first + a : first + b], first=first + a)
            expected = reference(pixels[first:end])
            for worker, (a, b) in zip(pool, spans, strict=False):
                got = worker.collect()
                compare(verdict, {op: codes[a:b] for op, codes in expected.items()}, got, first + a)
                theirs.append(argmax_labels(got[output]))
                if sink is not None:
                    sink(first + a, got)
            ours.append(argmax_labels(expected[output]))
            progress(end)
        for worker in pool:
            verdict.messages.extend(m for m in worker.messages() if m not in verdict.messages)
    return Outcome(
        verdict=verdict,
        predicted_cpp=np.concatenate(theirs),
        predicted_python=np.concatenate(ours),
        seconds=time.perf_counter() - started,
    )
