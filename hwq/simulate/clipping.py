"""Logits against the ends of their type: what the last requantisation yields without its clamp.

A code at the end of the type may be right; only the sum behind it says whether it was clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import frexp
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq.fixed import Ints, IntType
from hwq.ir import Flatten, Graph, MaxPool, Op, Requantize
from hwq.simulate.oracle import ORACLE, unclamped
from hwq.simulate.runner import Codes, Runner

Outputs = Mapping[str, Codes]
"""Op name -> (N, *shape) integers."""
_EXACT = 62
"""Bits of codes that int64 holds with room to spare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitRange:
    """The logits of some images, before any clamp, against their type.

    form: the type, `W,I` as --edge-fixed has it. ends: its least and largest number. reach: least and largest
    logit met. clipped: logits beyond an end, of `logits`; clipped_images: images with one, of `images`.
    """

    form: str
    ends: tuple[float, float]
    reach: tuple[float, float]
    images: int
    logits: int
    clipped_images: int
    clipped: int

    @property
    def share(self) -> float:
        """Of the logits that are clipped, 0..1."""
        return self.clipped / self.logits

    @property
    def share_of_images(self) -> float:
        """Of the images that have a clipped logit, 0..1."""
        return self.clipped_images / self.images

    def __str__(self) -> str:
        """What they reach, and of what: one line, a loud one where something is clipped."""
        low, high = (f"{end:.4g}" for end in self.reach)
        ends = f"{self.ends[0]:.6g}..{self.ends[1]:.6g}"
        if not self.clipped:
            return (
                f"logits of {self.images:,} images: {low}..{high}, their type {self.form} holds {ends}; "
                "none clipped"
            )
        return (
            f"WARNING: {self.clipped:,} of {self.logits:,} logits ({100 * self.share:.2f}%), in "
            f"{self.clipped_images:,} of {self.images:,} images ({100 * self.share_of_images:.2f}%), are "
            f"clipped: they reach {low}..{high}, their type {self.form} ends at {ends}. Answers there mean "
            "little"
        )

    def warnings(self) -> list[str]:
        """A loud line with what to do, where something is clipped."""
        if not self.clipped:
            return []
        return [f"{self}: give another --edge-fixed (`hwq explain` names the cheapest)"]


def last_requantize(graph: Graph) -> tuple[Requantize | None, tuple[Op, ...]]:
    """(what makes the logits, the moves between it and the output); None where codes are handed on."""
    op, moves = graph.output.inputs[0], list[Op]()
    while isinstance(graph[op], MaxPool | Flatten):
        moves.insert(0, graph[op])
        op = graph[op].inputs[0]
    found = graph[op]
    return (found if isinstance(found, Requantize) else None), tuple(moves)


def logit_sources(graph: Graph) -> tuple[str, ...]:
    """The ops whose outputs `unclipped` needs."""
    op, _ = last_requantize(graph)
    return () if op is None else op.inputs


def moved(graph: Graph, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """What the moves after the last requantisation make of numbers (N, *shape): (N, logits)."""
    for move in last_requantize(graph)[1]:
        values = ORACLE[type(move)](move, [values])
    return values.reshape(len(values), -1)


def unclipped(graph: Graph, outputs: Outputs) -> Ints:
    """The logits (N, logits) as codes without the ends of their type; limits within it (ReLU) hold.

    outputs: of `logit_sources`. int64, or Python integers where those could overflow.
    """
    op, _ = last_requantize(graph)
    assert op is not None
    free = unclamped(op, [outputs[name] for name in op.inputs])
    kind = op.out.type
    if op.requant.lo > kind.lo:
        free = np.maximum(free, op.requant.lo)
    if op.requant.hi < kind.hi:
        free = np.minimum(free, op.requant.hi)
    return moved(graph, free)


def logit_range(graph: Graph, free: Ints) -> LogitRange:
    """Of unclipped codes (N, logits), N >= 1."""
    kind, scale = graph.output.out.type, graph.output.out.scale or 1.0
    beyond = (free > kind.hi) | (free < kind.lo)
    return LogitRange(
        form=_name(kind, scale),
        ends=(kind.lo * scale, kind.hi * scale),
        reach=(float(free.min()) * scale, float(free.max()) * scale),
        images=len(free),
        logits=free.size,
        clipped_images=int(np.count_nonzero(beyond.any(axis=1))),
        clipped=int(np.count_nonzero(beyond)),
    )


def _name(kind: IntType, scale: float) -> str:
    """`W,I`; codes with a scale that is no power of two have no such name."""
    mantissa, exponent = frexp(scale)
    return f"{kind.bits},{kind.bits + exponent - 1}" if mantissa == 0.5 else f"{kind} * {scale:.6g}"


class LogitWatch:
    """Collects batches of a run into one `LogitRange`."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.found: LogitRange | None = None

    def add(self, outputs: Outputs) -> None:
        """outputs: of the output and of `logit_sources`, (n, *shape) each."""
        names = logit_sources(self.graph)
        self._add(outputs[self.graph.output.name], lambda rows: {name: outputs[name][rows] for name in names})

    def add_run(self, runner: Runner, pixels: npt.NDArray[np.uint8], logits: Codes) -> None:
        """Images (n, H, W, C) whose logits (n, logits) are known; those with one at an end run again."""
        names = logit_sources(self.graph)
        self._add(logits, lambda rows: runner.run(pixels[rows], keep=names).outputs)

    def _add(self, logits: Codes, outputs: Callable[[npt.NDArray[np.int64]], Outputs]) -> None:
        flat, kind = logits.reshape(len(logits), -1), self.graph.output.out.type
        free = flat.astype(np.int64 if kind.bits <= _EXACT else object)
        # what is clipped stands at an end
        rows = np.flatnonzero(((flat == kind.hi) | (flat == kind.lo)).any(axis=1))
        if rows.size and logit_sources(self.graph):
            exact = unclipped(self.graph, outputs(rows))
            free = free.astype(np.promote_types(free.dtype, exact.dtype))
            free[rows] = exact
        self._merge(logit_range(self.graph, free))

    def _merge(self, new: LogitRange) -> None:
        old = self.found
        self.found = (
            new
            if old is None
            else LogitRange(
                form=new.form,
                ends=new.ends,
                reach=(min(old.reach[0], new.reach[0]), max(old.reach[1], new.reach[1])),
                images=old.images + new.images,
                logits=old.logits + new.logits,
                clipped_images=old.clipped_images + new.clipped_images,
                clipped=old.clipped + new.clipped,
            )
        )

    def result(self) -> LogitRange:
        """Of all images added, one at least."""
        assert self.found is not None
        return self.found
