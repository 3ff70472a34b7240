"""A network as ops in topological order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from hwq.ir.bounds import Bound, output_bound
from hwq.ir.ops import Input, Op, Output, Requantize


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """Ops in topological order: one `Input` first, one `Output` last. Immutable; passes build new ones."""

    name: str
    ops: tuple[Op, ...]

    @cached_property
    def by_name(self) -> dict[str, Op]:
        return {op.name: op for op in self.ops}

    def __getitem__(self, name: str) -> Op:
        return self.by_name[name]

    def __iter__(self) -> Iterator[Op]:
        return iter(self.ops)

    def inputs_of(self, op: Op) -> tuple[Op, ...]:
        return tuple(self.by_name[name] for name in op.inputs)

    @cached_property
    def consumers(self) -> dict[str, tuple[str, ...]]:
        """Who reads each op's output, in order; an op that reads it twice stands twice."""
        readers: dict[str, list[str]] = {op.name: [] for op in self.ops}
        for op in self.ops:
            for source in op.inputs:
                readers[source].append(op.name)
        return {name: tuple(names) for name, names in readers.items()}

    @cached_property
    def bounds(self) -> dict[str, Bound]:
        """max|x| of each channel of every op's output, whatever the image, by name. Of legal graphs."""
        found: dict[str, Bound] = {}
        for op in self.ops:
            found[op.name] = output_bound(op, [found[name] for name in op.inputs])
        return found

    def input_bounds(self, op: Op) -> tuple[Bound, ...]:
        """max|x| of each channel of every input."""
        return tuple(self.bounds[name] for name in op.inputs)

    def sum_bits(self, op: Requantize) -> int:
        """Signed width that holds every partial sum of a requantisation."""
        return op.requant.sum_bits(self.input_bounds(op))

    @property
    def input(self) -> Input:
        first = self.ops[0]
        assert isinstance(first, Input)
        return first

    @property
    def output(self) -> Output:
        last = self.ops[-1]
        assert isinstance(last, Output)
        return last
