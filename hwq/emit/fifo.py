"""How deep each FIFO must be so that no process waits for ever.

The processes are run for one image, token by token (a token is a pixel's words), on demand: a process
runs only until it yields what somebody needs. Where a fork feeds a short branch and a long one, words
pile up on the short one; the most that ever waits is that FIFO's depth. A process that only drops pixels
(the subsampling of a shortcut) runs as soon as it can, so that the few it keeps wait, not the many it
reads. Tokens that a process takes together wait until all are there, as in a pipeline stage that pops its
inputs in one cycle. The network is determinate (blocking reads and writes in a fixed order), so the
existence of one schedule within these depths means that every blocking execution within them completes,
image after image. FIFOs on no cycle of the network (seen without directions) cannot take part in a deadlock
and keep the smallest depth.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from hwq.emit.plan import Process, Step, Stream

SMALLEST = 2
"""Depth of every FIFO: a register pair, so that both ends can move each cycle."""


class _Run:
    """One image through the network, on demand."""

    def __init__(self, processes: Sequence[Process]) -> None:
        self.schedules: list[Iterator[Step]] = [process.schedule() for process in processes]
        self.pending: list[Step | None] = [next(s, None) for s in self.schedules]
        self.writer = {id(s): index for index, p in enumerate(processes) for s in p.writes}
        self.eager = {id(s): index for index, p in enumerate(processes) if p.thins for s in p.reads}
        self.waiting: dict[int, int] = {}
        self.most: dict[int, int] = {}

    def demand(self, stream: Stream, tokens: int) -> None:
        """Let processes run until `tokens` wait in the stream."""
        stack = [(stream, tokens)]
        while stack:
            wanted, count = stack[-1]
            if self.waiting.get(id(wanted), 0) >= count:
                stack.pop()
                continue
            index = self.writer.get(id(wanted))
            missing = None
            if index is None:  # the input port always has more
                self._put(wanted)
            else:
                missing = self.advance(index)
            if missing is not None:
                stack.append(missing)
            elif id(wanted) in self.eager:  # its reader has taken the token, and asks again if need be
                stack.pop()

    def advance(self, index: int) -> tuple[Stream, int] | None:
        """One step of a process, or what it lacks for it."""
        step = self.pending[index]
        assert step is not None, "a process was asked for more than it writes"
        takes, puts = step
        for stream, count in takes:
            if self.waiting.get(id(stream), 0) < count:
                return stream, count
        for stream, count in takes:
            self.waiting[id(stream)] -= count
        for stream in puts:
            self._put(stream)
        self.pending[index] = next(self.schedules[index], None)
        return None

    def _put(self, stream: Stream) -> None:
        key = id(stream)
        self.waiting[key] = self.waiting.get(key, 0) + 1
        self.most[key] = max(self.most.get(key, 0), self.waiting[key])
        eager = self.eager.get(key)
        while eager is not None and self.pending[eager] is not None and self.advance(eager) is None:
            pass


def _cyclic(processes: Sequence[Process]) -> set[int]:
    """Streams on an undirected cycle of the process graph: all that are no bridge."""
    ends: dict[int, list[int]] = {}
    for index, process in enumerate(processes):
        for stream in (*process.reads, *process.writes):
            ends.setdefault(id(stream), []).append(index)
    edges = {key: (pair[0], pair[1]) for key, pair in ends.items() if len(pair) == 2}
    around: dict[int, list[tuple[int, int]]] = {i: [] for i in range(len(processes))}
    for key, (a, b) in edges.items():
        around[a].append((b, key))
        around[b].append((a, key))
    return set(edges) - _bridges(around)


def _bridges(around: dict[int, list[tuple[int, int]]]) -> set[int]:
    """Edges whose loss disconnects the graph (Tarjan, without recursion)."""
    order: dict[int, int] = {}
    low: dict[int, int] = {}
    found: set[int] = set()
    for root in around:
        if root in order:
            continue
        order[root] = low[root] = len(order)
        stack = [(root, -1, iter(around[root]))]
        while stack:
            node, via, rest = stack[-1]
            for other, edge in rest:
                if edge == via:
                    continue
                if other in order:
                    low[node] = min(low[node], order[other])
                    continue
                order[other] = low[other] = len(order)
                stack.append((other, edge, iter(around[other])))
                break
            else:
                stack.pop()
                if stack:
                    parent = stack[-1][0]
                    low[parent] = min(low[parent], low[node])
                    if low[node] > order[parent]:
                        found.add(via)
    return found


def set_depths(processes: Sequence[Process], streams: Iterable[Stream]) -> None:
    """Write `depth`, in words, into every stream."""
    run = _Run(processes)
    for process in processes:
        for stream in process.writes:
            if stream.port:
                run.demand(stream, stream.tokens)
    for index in range(len(processes)):  # what is left: rows that no window needs
        while run.pending[index] is not None:
            missing = run.advance(index)
            if missing is not None:
                run.demand(*missing)
    cyclic = _cyclic(processes)
    for stream in streams:
        per_token = -(-stream.words // stream.tokens)
        most = run.most.get(id(stream), 0)
        piles_up = id(stream) in cyclic and not stream.inner
        stream.depth = max(SMALLEST, most * per_token) if piles_up else SMALLEST
