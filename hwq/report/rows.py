"""Rows of the report from a graph, its codes, and what a comparison counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hwq.fixed import Constants, IntType
from hwq.ir import Conv2d, Graph, Linear, Op, Requantize
from hwq.report.content import ConstantRow, Curve, Histogram, OpRow, Series

BINS = 48
"""Most bars of one histogram; types of fewer levels get a bar each."""


class Issue(Protocol):
    """A constant that its format cannot show. source: the input it multiplies, "" for a bias.

    problem: "saturated" or "vanished".
    """

    @property
    def op(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def problem(self) -> str: ...
    @property
    def harmful(self) -> bool: ...


def code_histogram(codes: npt.NDArray[Any], kind: IntType) -> Histogram:
    """Count integer codes of any shape over the whole range of `kind`; ValueError where one lies outside."""
    flat = np.asarray(codes).reshape(-1)
    seen = (int(flat.min()), int(flat.max())) if flat.size else (0, 0)
    if seen[0] < kind.lo or seen[1] > kind.hi:
        raise ValueError(f"codes {seen[0]}..{seen[1]} leave {kind} ({kind.lo}..{kind.hi})")
    levels = kind.hi - kind.lo + 1
    bins = min(BINS, levels)
    if kind.signed and bins % 2 == 0:
        bins -= 1  # an odd number keeps code 0 in the middle bar
    width = -(-levels // bins)
    # Python integers only where int64 differences could overflow
    offset = flat.astype(object if kind.bits > 62 else np.int64) - kind.lo
    counts = np.bincount((offset // width).astype(np.int64), minlength=-(-levels // width))
    ends = (flat == kind.hi) | ((flat == kind.lo) & (kind.lo < 0))
    return Histogram(
        counts=tuple(int(n) for n in counts),
        lo=kind.lo,
        hi=kind.hi,
        seen=seen,
        at_limits=float(ends.mean()) if flat.size else 0.0,
    )


def op_rows(
    graph: Graph,
    *,
    values: Mapping[str, int] | None = None,
    mismatches: Mapping[str, int] | None = None,
    codes: Mapping[str, npt.NDArray[Any]] | None = None,
) -> tuple[OpRow, ...]:
    """One row an op, in order. The mappings go by op name; a missing name counts as 0 (or no histogram).

    codes: any number of samples of the op's output.
    """
    return tuple(
        OpRow(
            name=op.name,
            kind=type(op).__name__,
            shape=op.out.shape,
            codes=str(op.out.type),
            weights=str(op.weight_type) if isinstance(op, Conv2d | Linear) else "",
            exact_bits=_exact_bits(graph, op),
            parameters=int(op.weight.size) if isinstance(op, Conv2d | Linear) else 0,
            macs=op.macs if isinstance(op, Conv2d | Linear) else 0,
            values=(values or {}).get(op.name, 0),
            mismatches=(mismatches or {}).get(op.name, 0),
            histogram=code_histogram(codes[op.name], op.out.type) if codes and op.name in codes else None,
        )
        for op in graph
    )


def _exact_bits(graph: Graph, op: Op) -> int | None:
    match op:
        case Conv2d() | Linear():
            return op.out.type.bits
        case Requantize():
            return graph.sum_bits(op)
        case _:
            return None


def constant_rows(graph: Graph, issues: Iterable[Issue] = ()) -> tuple[ConstantRow, ...]:
    """Stored constants of every requantisation: a row a term ("M from <input>"), then its biases ("B")."""
    found: dict[tuple[str, str], list[Issue]] = {}
    for issue in issues:
        found.setdefault((issue.op, issue.source), []).append(issue)
    rows = []
    for op in graph:
        if isinstance(op, Requantize):
            stored = (*op.requant.terms, op.requant.bias)
            for source, constants in zip((*op.inputs, ""), stored, strict=True):
                rows.append(_constant_row(op.name, source, constants, found.get((op.name, source), [])))
    return tuple(rows)


def _constant_row(op: str, source: str, constants: Constants, issues: Sequence[Issue]) -> ConstantRow:
    sizes = np.abs(constants.values())
    nonzero = sizes[sizes > 0]
    return ConstantRow(
        op=op,
        role=f"M from {source}" if source else "B",
        format=constants.format_name,
        count=int(constants.raw.size),
        integers=(int(constants.integer.min()), int(constants.integer.max())),
        span=(float(nonzero.min()), float(nonzero.max())) if nonzero.size else (0.0, 0.0),
        saturated=sum(i.problem == "saturated" for i in issues),
        vanished=sum(i.problem == "vanished" for i in issues),
        harmful=sum(i.harmful for i in issues),
    )


def training_curves(phases: Mapping[str, Sequence[Mapping[str, Any]]], x: str = "epoch") -> tuple[Curve, ...]:
    """Loss and accuracy over epochs from metrics.jsonl records, one series a phase and key.

    phases: name -> records. Every key that holds `loss` or `accuracy` and a finite number is drawn.
    """
    curves = []
    for title, word, percent in (("Loss", "loss", False), ("Accuracy", "accuracy", True)):
        series = [
            Series(name=f"{phase}: {key}" if len(phases) > 1 else key, points=points)
            for phase, records in phases.items()
            for key in _keys(records, word)
            if (points := _points(records, x, key))
        ]
        if series:
            curves.append(Curve(title=title, x_label=x, series=tuple(series), percent=percent))
    return tuple(curves)


def _keys(records: Iterable[Mapping[str, Any]], word: str) -> list[str]:
    return list(dict.fromkeys(key for record in records for key in record if word in key))


def _points(records: Iterable[Mapping[str, Any]], x: str, key: str) -> tuple[tuple[float, float], ...]:
    pairs = ((r.get(x), r.get(key)) for r in records)
    return tuple(
        (float(a), float(b))
        for a, b in pairs
        if isinstance(a, int | float) and isinstance(b, int | float) and np.isfinite([a, b]).all()
    )
