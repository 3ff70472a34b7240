"""The native engine as a `Runner`: the torch simulator's interface, the same integers, compiled C++."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from hwq.engine.library import CpuPath, best_path, load
from hwq.engine.methods import ALL, FALLBACKS, Choice, Method, choose
from hwq.engine.plan import EngineAudit, Plan
from hwq.ir import Graph, verify
from hwq.simulate import Runner
from hwq.simulate.runner import Codes

CHUNK_BYTES = 3 << 20
"""Working memory a thread aims at: in the caches, and enough images that starting a chunk costs nothing."""
MAX_CHUNK = 64
_ALIGNMENT = 64


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Engine(Runner):
    """Runs a graph exactly in native code; same answers as `Simulator` and `run_oracle`, every op.

    threads: chunks computed at a time; default one a core. path: an instruction set, default the best here.
    methods: the methods that may be chosen, `FALLBACKS` always among them. earlier: an engine whose packed
    weights are used again where they are the same. Raises VerifyError for an illegal graph, ToolError where
    there is no compiler, the CPU lacks the path's instructions, or a value is too wide.
    """

    def __init__(
        self,
        graph: Graph,
        threads: int | None = None,
        path: CpuPath | None = None,
        methods: frozenset[Method] = ALL,
        flags: tuple[str, ...] = (),
        earlier: Engine | None = None,
    ) -> None:
        super().__init__(graph, _cores() if threads is None else threads)
        verify(graph)  # the C++ trusts the plan
        self.path = path or best_path()
        self._library = load(self.path, flags)
        self._options = (methods, flags)
        lanes, has_bytes = self._library.lanes, self.path is CpuPath.VNNI
        self.choices: dict[str, Choice] = choose(graph, methods | FALLBACKS, lanes=lanes, has_bytes=has_bytes)
        self._plan: Plan = Plan.of(graph, self.choices, lanes, earlier._plan if earlier else None)
        self._local = threading.local()

    def with_constants(self, graph: Graph) -> Engine:
        """The engine of a graph that differs in its requantisations only: packs nothing else anew.

        Right for any other graph too; layers whose weights differ are then packed.
        """
        methods, flags = self._options
        return Engine(graph, self.threads, self.path, methods, flags, earlier=self)

    def _chunk(self) -> int:
        kept = bytes(len(self.graph.ops))
        one, three = (self._library.room(self._plan.ops, kept, images) for images in (1, 3))
        each = max(1, (three - one) // 2)
        return max(1, min(MAX_CHUNK, (CHUNK_BYTES - one) // each))

    def run_audited(
        self,
        pixels: npt.NDArray[np.uint8],
        audits: Mapping[str, EngineAudit],
        progress: Callable[[int], None] = lambda images: None,
    ) -> Codes:
        """The logits (N, classes) of images (N, H, W, C); on the way the requantisations named in `audits`
        are compared with real constants, and what is found is added to its counts (sim/engine/audit.h).
        """
        self._check(pixels)
        name, lock = self.graph.output.name, threading.Lock()
        kept = {name: self._room(name, len(pixels))}

        def work(span: slice) -> slice:
            own = (EngineAudit * len(self.graph.ops))()
            for op, audit in audits.items():
                own[self._plan.index[op]] = audit.counting_from_zero()
            self._run_chunk(pixels, kept, span, own)
            with lock:
                for op, audit in audits.items():
                    audit.add(own[self._plan.index[op]])
            return span

        size, done = self._chunk(), 0
        for span in self._each(
            work, [slice(i, min(i + size, len(pixels))) for i in range(0, len(pixels), size)]
        ):
            done += span.stop - span.start
            progress(done)
        return kept[name].reshape(len(pixels), -1)

    def _run_chunk(
        self,
        pixels: npt.NDArray[np.uint8],
        kept: dict[str, Codes],
        span: slice,
        audits: ctypes.Array[EngineAudit] | None = None,
    ) -> slice:
        given = np.ascontiguousarray(pixels[span])
        outputs = (ctypes.c_void_p * len(self.graph.ops))()
        flags = bytearray(len(self.graph.ops))
        for name, codes in kept.items():
            outputs[self._plan.index[name]] = codes[span].ctypes.data
            flags[self._plan.index[name]] = 1
        room = self._library.room(self._plan.ops, bytes(flags), len(given), audits)
        work = self._work(room)
        self._library.run(self._plan.ops, given.ctypes.data, len(given), outputs, work, room, audits)
        return span

    def _work(self, room: int) -> int:
        """The address of this thread's working memory, `room` bytes of it."""
        block = getattr(self._local, "block", None)
        if block is None or block.size < room + _ALIGNMENT:
            block = self._local.block = np.empty(room + _ALIGNMENT, np.uint8)
        return -(-block.ctypes.data // _ALIGNMENT) * _ALIGNMENT
