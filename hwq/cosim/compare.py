"""Compares the C++'s taps with the Python simulator's, value by value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq.cosim.taps import TapPlan

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """The first differing value of an op: index is (image, h, w, c) or (image, n)."""

    op: str
    index: tuple[int, ...]
    expected: int
    got: int


@dataclass(slots=True)
class OpCount:
    """One row of the verdict: what was compared of an op."""

    op: str
    kind: str
    values: int = 0
    mismatches: int = 0
    first: Mismatch | None = None

    def to_json(self) -> dict[str, Any]:
        first = self.first
        return {
            "op": self.op,
            "kind": self.kind,
            "values": self.values,
            "mismatches": self.mismatches,
            "first_mismatch": None
            if first is None
            else {"index": list(first.index), "expected": first.expected, "got": first.got},
        }


@dataclass(slots=True)
class Verdict:
    """Everything that was compared, op by op in the graph's order."""

    rows: tuple[OpCount, ...]
    samples: int = 0
    messages: list[str] = field(default_factory=list)

    @property
    def values(self) -> int:
        return sum(row.values for row in self.rows)

    @property
    def mismatches(self) -> int:
        return sum(row.mismatches for row in self.rows)

    @property
    def first_mismatch(self) -> Mismatch | None:
        """Of the first op, in the graph's order, that differs: where a fault starts."""
        return next((row.first for row in self.rows if row.first), None)

    @property
    def bad_ops(self) -> list[str]:
        return [row.op for row in self.rows if row.mismatches]


def new_verdict(plan: TapPlan) -> Verdict:
    """Nothing compared yet."""
    return Verdict(tuple(OpCount(tap.op, tap.kind) for tap in plan.taps))


def compare(
    verdict: Verdict, expected: Mapping[str, Array], got: Mapping[str, Array], first_image: int
) -> None:
    """Add one batch: op -> (n, *shape) integers on both sides. Compares every op; equality only."""
    count = 0
    for row in verdict.rows:
        ours, theirs = expected[row.op], got[row.op]
        if ours.shape != theirs.shape:
            raise AssertionError(f"op {row.op}: shapes {ours.shape} and {theirs.shape}")
        count = len(theirs)
        row.values += theirs.size
        # unsigned taps: int64 on one side keeps numpy from comparing through floats
        different = ours.astype(np.int64) != theirs if ours.dtype.kind == "f" else ours != theirs
        wrong = int(np.count_nonzero(different))
        if not wrong:
            continue
        row.mismatches += wrong
        if row.first is None:
            at = np.unravel_index(int(np.argmax(different)), different.shape)
            index = (first_image + int(at[0]), *(int(i) for i in at[1:]))
            row.first = Mismatch(op=row.op, index=index, expected=int(ours[at]), got=int(theirs[at]))
    verdict.samples += count


def argmax_labels(logits: Array) -> npt.NDArray[np.int64]:
    """Class of each row; ties take the lowest index."""
    flat = logits.reshape(len(logits), -1)
    return np.asarray(flat.argmax(axis=1), dtype=np.int64)
