"""The process network of a project: streams, processes and op headers, before any text is rendered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import lcm

import numpy as np
import numpy.typing as npt

from hwq.emit.folding import Folding
from hwq.emit.names import identifiers
from hwq.emit.tables import rows
from hwq.fixed import IntType
from hwq.ir import Graph, Op, TensorSpec


@dataclass(frozen=True, slots=True)
class Lanes:
    """Channels a word: as folded for hardware, and unfolded for the native build."""

    folded: int
    native: int

    def __str__(self) -> str:
        return pick(self.folded, self.native)


def pick(folded: int, native: int) -> str:
    """One C++ constant for both builds."""
    return str(folded) if folded == native else f"HWQ_PICK({folded}, {native})"


def element(kind: IntType) -> str:
    """The C++ type of a code."""
    return f"hwq::{'sint' if kind.signed else 'uint'}<{kind.storage_bits}>"


@dataclass(slots=True, eq=False)
class Stream:
    """A FIFO. size: elements an image; tokens: units of the FIFO schedule an image (pixels).

    inner: between the two halves of one op; its reader takes each word as it comes, so no more than
    the smallest depth is ever needed.
    """

    name: str
    type: IntType
    lanes: Lanes
    size: int
    tokens: int
    depth: int = 2
    port: bool = False
    inner: bool = False

    @property
    def element(self) -> str:
        return element(self.type)

    @property
    def words(self) -> int:
        """Words an image, in hardware."""
        return self.size // self.lanes.folded


Step = tuple[tuple[tuple[Stream, int], ...], tuple[Stream, ...]]
"""Await and take tokens of the first, then put one token on each of the second."""


@dataclass(frozen=True, slots=True, eq=False)
class Process:
    """One call in the top function. steps: its reads and writes of one image, in program order."""

    call: str
    reads: tuple[Stream, ...]
    writes: tuple[Stream, ...]
    steps: tuple[tuple[int, tuple[Step, ...]], ...]
    """(repetitions, steps) in a row: a schedule is long but regular"""
    thins: bool = False
    """it only drops pixels: words wait better behind it than before it"""

    def schedule(self) -> Iterator[Step]:
        for count, steps in self.steps:
            for _ in range(count):
                yield from steps


@dataclass(frozen=True, slots=True)
class Tap:
    """Records a stream as the output of op number `index`."""

    index: int
    stream: Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A struct of compile-time constants for one kernel call."""

    name: str
    types: Mapping[str, str]
    values: Mapping[str, str]
    bounds: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A ROM: plain integers, converted on use. `note` says what a raw value stands for."""

    name: str
    ctype: str
    dims: str
    lines: list[list[str]]
    note: str = ""


def vector_table(name: str, ctype: str, values: npt.NDArray[np.int64], note: str = "") -> Table:
    """A ROM of one dimension."""
    return Table(name=name, ctype=ctype, dims=f"[{values.size}]", lines=[rows(values)], note=note)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpHeader:
    """One op's constants and configurations; `template` renders them with `extra`."""

    op: str
    cname: str
    kind: str
    includes: tuple[str, ...]
    configs: tuple[Config, ...]
    tables: tuple[Table, ...]
    template: str = "op.h.j2"
    extra: Mapping[str, object] = field(default_factory=dict)


class Network:
    """Grows the network, op by op; kernels add to it."""

    def __init__(self, graph: Graph, folding: Mapping[str, Folding]) -> None:
        self.graph = graph
        self.folding = folding
        self.cnames = identifiers(op.name for op in graph)
        self.streams: list[Stream] = []
        self.parts: list[Process | Tap] = []
        self.headers: list[OpHeader] = []
        self.raw: dict[str, npt.NDArray[np.int64]] = {}
        self._readers: dict[str, list[Stream]] = {}
        self._extra = 0

    @property
    def processes(self) -> list[Process]:
        return [part for part in self.parts if isinstance(part, Process)]

    def stream(self, name: str, kind: IntType, lanes: Lanes, size: int, tokens: int) -> Stream:
        made = Stream(name, kind, lanes, size, tokens)
        self.streams.append(made)
        return made

    def extra_stream(self, like: Stream, lanes: Lanes | None = None) -> Stream:
        """A stream of the same codes, perhaps in words of another width."""
        self._extra += 1
        name = f"s{self._extra}_{like.name.partition('_')[2]}"
        return self.stream(name, like.type, lanes or like.lanes, like.size, like.tokens)

    def output_stream(self, op: Op, lanes: Lanes) -> Stream:
        """The stream an op writes."""
        spec = op.out
        return self.stream(f"s_{self.cnames[op.name]}", spec.type, lanes, spec.size, pixels(spec))

    def process(
        self,
        call: str,
        reads: tuple[Stream, ...],
        writes: tuple[Stream, ...],
        *rest: object,
        thins: bool = False,
    ) -> None:
        """Add a call; its schedule is token in, token out, unless `rest` gives (count, steps) pairs."""
        steps = tuple(rest) or (_aligned(reads, writes),)
        self.parts.append(Process(call, reads, writes, steps, thins))  # type: ignore[arg-type]

    def publish(self, op: Op, stream: Stream) -> None:
        """Declare `stream` to carry the op's output: tap it and split it for its readers."""
        self.parts.append(Tap(self.graph.ops.index(op), stream))
        readers = len(self.graph.consumers[op.name])
        ends = [stream]
        while len(ends) < readers:
            source = ends.pop()
            first, second = self.extra_stream(source), self.extra_stream(source)
            native = source.size // source.lanes.native
            call = f"hwq::fork<{pick(source.words, native)}>({source.name}, {first.name}, {second.name});"
            self.process(call, (source,), (first, second))
            ends += [first, second]
        self._readers[op.name] = ends

    def peek(self, name: str) -> Stream:
        """The stream that the next reader of an op gets."""
        return self._readers[name][0]

    def take(self, name: str, lanes: Lanes | None = None) -> Stream:
        """The next reader's stream of an op, in words of `lanes` where given."""
        found = self._readers[name].pop(0)
        return found if lanes is None else self.adapt(found, lanes)

    def adapt(self, stream: Stream, lanes: Lanes) -> Stream:
        """The same codes in words of another width."""
        if lanes == stream.lanes:
            return stream
        made = self.extra_stream(stream, lanes)
        folded = lcm(stream.lanes.folded, lanes.folded)
        native = lcm(stream.lanes.native, lanes.native)
        counts = pick(stream.size // folded, stream.size // native)
        call = f"hwq::adapt<{counts}, {pick(folded, native)}>({stream.name}, {made.name});"
        self.process(call, (stream,), (made,))
        return made


def pixels(spec: TensorSpec) -> int:
    """Pixels of a feature map; 1 for a vector."""
    return spec.size // spec.channels


def _aligned(reads: tuple[Stream, ...], writes: tuple[Stream, ...]) -> tuple[int, tuple[Step, ...]]:
    """A process that passes codes on: as many steps as the coarsest stream has tokens.

    Several inputs are popped together; one alone is read word by word, and never has to wait as a whole.
    """
    every = (*reads, *writes)
    count = int(np.gcd.reduce([s.tokens for s in every]))
    takes = tuple((s, s.tokens // count) for s in reads)
    puts = tuple(s for s in writes for _ in range(s.tokens // count))
    if len(reads) > 1:
        return count, ((takes, puts),)
    (source, share), *_ = takes
    read: Step = (((source, 1),), ())
    return count, (*[read] * (share - 1), (((source, 1),), puts))
