"""Runs a graph exactly, fast, and keeps any op's output on request."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hwq.errors import InputError
from hwq.fixed import IntType
from hwq.ir import Graph, Op
from hwq.simulate.exactness import exact_floats, one_thread
from hwq.simulate.kernels import DTYPES, Kernel, Source, Value, prepare
from hwq.simulate.paths import ExactPath, exact_paths

Codes = npt.NDArray[Any]
CHUNK_BYTES = 1 << 21
"""Size of a chunk's largest tensor: what a core's cache about holds."""
MAX_CHUNK = 256


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


@dataclass(frozen=True, slots=True)
class _Step:
    """One op: its kernel, and the inputs nobody reads after it."""

    op: Op
    kernel: Kernel | None
    done: tuple[str, ...]


class Simulator:
    """The exact reference of a graph, prepared once and run on any number of images.

    Every batch size, thread count and device gives the same integers: each op is computed in an
    arithmetic in which its proved sums are exact (`paths`).

    threads: chunks computed at a time; default torch's number of threads. device: a torch device.
    """

    def __init__(self, graph: Graph, threads: int | None = None, device: str = "cpu") -> None:
        if threads is not None and threads < 1:
            raise InputError(f"threads must be at least 1, not {threads}")
        self.graph = graph
        self.threads = threads or torch.get_num_threads()
        self.device = torch.device(device)
        self.paths: dict[str, ExactPath] = exact_paths(graph)
        self._steps = tuple(self._plan())

    def _plan(self) -> Iterator[_Step]:
        last_reader = {source: op.name for op in self.graph for source in op.inputs}
        for op in self.graph:
            done = tuple({name for name in op.inputs if last_reader[name] == op.name})
            sources = [Source(self.graph[name], self.paths[name]) for name in op.inputs]
            kernel = prepare(op, self.paths[op.name], sources, self.device) if op.inputs else None
            yield _Step(op, kernel, done)

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

    def _chunk(self) -> int:
        largest = max(op.out.size for op in self.graph)
        return max(1, min(MAX_CHUNK, CHUNK_BYTES // (4 * largest)))

    def _each(self, work: Callable[[slice], slice], spans: list[slice]) -> Iterator[slice]:
        if self.threads == 1 or len(spans) == 1:
            with one_thread(), exact_floats(self.device):
                yield from map(work, spans)
            return
        with one_thread(), exact_floats(self.device), ThreadPoolExecutor(self.threads) as pool:
            futures = [pool.submit(self._in_thread, work, span) for span in spans]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                for future in futures:
                    future.cancel()

    def _in_thread(self, work: Callable[[slice], slice], span: slice) -> slice:
        # both settings are a thread's own
        torch.set_num_threads(1)
        with torch.inference_mode():
            return work(span)

    def _run_chunk(self, pixels: npt.NDArray[np.uint8], kept: dict[str, Codes], span: slice) -> slice:
        values: dict[str, Value] = {}
        for step in self._steps:
            name = step.op.name
            if step.kernel is None:
                given = torch.from_numpy(np.ascontiguousarray(pixels[span]))
                values[name] = given.to(self.device, DTYPES[self.paths[name].store])
            else:
                values[name] = step.kernel([values[source] for source in step.op.inputs])
            if name in kept:
                _copy_into(kept[name][span], values[name])
            for source in step.done:
                del values[source]
        return span


def _copy_into(into: Codes, value: Value) -> None:
    if isinstance(value, Tensor):
        # numpy converts, so that every unsigned dtype is available
        into[...] = value.cpu().numpy()
    else:
        into[...] = value
