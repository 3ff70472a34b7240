"""Runs a graph exactly, fast, and keeps any op's output on request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hwq.ir import Graph, Op
from hwq.simulate.exactness import exact_floats, one_thread
from hwq.simulate.kernels import DTYPES, Kernel, Source, Value, prepare
from hwq.simulate.paths import ExactPath, exact_paths
from hwq.simulate.runner import Codes, Runner

CHUNK_BYTES = 1 << 21
"""Size of a chunk's largest tensor: what a core's cache about holds."""
MAX_CHUNK = 256


@dataclass(frozen=True, slots=True)
class _Step:
    """One op: its kernel, and the inputs nobody reads after it."""

    op: Op
    kernel: Kernel | None
    done: tuple[str, ...]


class Simulator(Runner):
    """The exact reference of a graph, prepared once and run on any number of images.

    Every batch size, thread count and device gives the same integers: each op is computed in an
    arithmetic in which its proved sums are exact (`paths`).

    threads: chunks computed at a time; default torch's number of threads. device: a torch device.
    """

    def __init__(self, graph: Graph, threads: int | None = None, device: str = "cpu") -> None:
        super().__init__(graph, torch.get_num_threads() if threads is None else threads)
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

    def _chunk(self) -> int:
        largest = max(op.out.size for op in self.graph)
        return max(1, min(MAX_CHUNK, CHUNK_BYTES // (4 * largest)))

    @contextmanager
    def _settings(self) -> Iterator[None]:
        with one_thread(), exact_floats(self.device):
            yield

    @contextmanager
    def _thread_settings(self) -> Iterator[None]:
        torch.set_num_threads(1)  # a thread's own, as is the inference mode
        with torch.inference_mode():
            yield

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
