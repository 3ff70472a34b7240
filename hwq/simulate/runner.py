"""What every exact engine shares: images in chunks, chunks over threads, and the trace of what was kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hwq.errors import InputError
from hwq.fixed import IntType
from hwq.ir import Graph

Codes = npt.NDArray[Any]


def storage_dtype(kind: IntType) -> np.dtype[Any]:
    """The smallest of numpy's 8..64-bit integers that holds a type; object beyond."""
    for bits in (8, 16, 32, 64):
        if kind.storage_bits <= bits:
            return np.dtype(f"{'int' if kind.signed else 'uint'}{bits}")
    return np.dtype(object)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What a run kept. outputs: op name -> (N, *shape) integers in the op's storage dtype.

    logits: (N, classes) of the Output op, flattened. predictions: int64 (N,), ties take the lowest class.
    """

    outputs: Mapping[str, Codes]
    logits: Codes
    predictions: npt.NDArray[np.int64]


class Runner(ABC):
    """An exact engine for one graph: the same integers for every batch size and thread count.

    threads: chunks computed at a time.
    """

    def __init__(self, graph: Graph, threads: int) -> None:
        if threads < 1:
            raise InputError(f"threads must be at least 1, not {threads}")
        self.graph = graph
        self.threads = threads

    @abstractmethod
    def _chunk(self) -> int:
        """Images computed together unless the caller says otherwise."""

    @abstractmethod
    def _run_chunk(self, pixels: npt.NDArray[np.uint8], kept: dict[str, Codes], span: slice) -> slice:
        """Compute images `span` of (N, H, W, C) and write the kept ops' codes; returns `span`."""

    def _settings(self) -> AbstractContextManager[None]:
        """What holds in the calling thread during a run."""
        return nullcontext()

    def _thread_settings(self) -> AbstractContextManager[None]:
        """What holds in each thread of the pool while it computes a chunk."""
        return nullcontext()

    def run(
        self,
        pixels: npt.NDArray[np.uint8],
        keep: Collection[str] | Literal["all"] = (),
        batch: int | None = None,
        progress: Callable[[int], None] = lambda images: None,
    ) -> Trace:
        """Run images (N, H, W, C) uint8, N >= 1; `keep` names the ops whose outputs are wanted.

        batch: images computed together; by default what stays in the cache. progress is told the images
        done after each of them. Raises InputError for images of another shape or type, or unknown ops.
        """
        names = self._kept(keep)
        self._check(pixels)
        size = batch or self._chunk()
        if size < 1:
            raise InputError(f"the batch must be at least 1 image, not {size}")
        kept = {name: self._room(name, len(pixels)) for name in names}
        spans = [slice(i, min(i + size, len(pixels))) for i in range(0, len(pixels), size)]
        work = partial(self._run_chunk, pixels, kept)
        done = 0
        for span in self._each(work, spans):
            done += span.stop - span.start
            progress(done)
        logits = kept[self.graph.output.name].reshape(len(pixels), -1)
        return Trace(outputs=kept, logits=logits, predictions=logits.argmax(axis=1).astype(np.int64))

    def _kept(self, keep: Collection[str] | Literal["all"]) -> set[str]:
        if keep == "all":
            return set(self.graph.by_name)
        unknown = sorted(set(keep) - set(self.graph.by_name))
        if unknown:
            raise InputError(f"no op named '{unknown[0]}'; ops: {', '.join(self.graph.by_name)}")
        return {*keep, self.graph.output.name}

    def _check(self, pixels: npt.NDArray[np.uint8]) -> None:
        shape = self.graph.input.out.shape
        if pixels.dtype != np.uint8 or pixels.shape[1:] != shape:
            size = "x".join(map(str, shape))
            given = "x".join(map(str, pixels.shape[1:]))
            raise InputError(f"the network takes uint8 images of {size}, not {pixels.dtype} of {given}")
        if len(pixels) == 0:
            raise InputError("there are no images to run")

    def _room(self, name: str, count: int) -> Codes:
        spec = self.graph[name].out
        return np.empty((count, *spec.shape), dtype=storage_dtype(spec.type))

    def _each(self, work: Callable[[slice], slice], spans: list[slice]) -> Iterator[slice]:
        if self.threads == 1 or len(spans) == 1:
            with self._settings():
                yield from map(work, spans)
            return
        with self._settings(), ThreadPoolExecutor(self.threads) as pool:
            futures = [pool.submit(self._in_thread, work, span) for span in spans]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                for future in futures:
                    future.cancel()

    def _in_thread(self, work: Callable[[slice], slice], span: slice) -> slice:
        with self._thread_settings():
            return work(span)
