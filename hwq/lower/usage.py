"""How much of its range a constants' format uses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hwq.fixed import Constants
from hwq.ir import Graph, Requantize
from hwq.lower.report import ConstantIssue


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeUse:
    """Of stored constants of one width W. integer: smallest and largest I of theirs.

    share: max|raw| / 2^(W-1), 0..1; every halving of it is a leading bit that no constant uses.
    smallest_bits: bits of the smallest |raw| that is not 0, 0 where all are; a constant of n bits is
    stored within half its last bit, so with a relative error up to 2^-n. memory_bits: of all of them.
    """

    count: int
    zeros: int
    share: float
    smallest_bits: int
    integer: tuple[int, int]
    memory_bits: int


def range_use(stored: Iterable[Constants]) -> RangeUse:
    """Of one or more vectors of the same width."""
    vectors = tuple(stored)
    # Python integers: |-2^63| has no int64
    sizes = [abs(int(raw)) for constants in vectors for raw in constants.raw]
    nonzero = [size for size in sizes if size]
    points = np.concatenate([constants.integer for constants in vectors])
    return RangeUse(
        count=len(sizes),
        zeros=len(sizes) - len(nonzero),
        share=max(sizes) / (1 << (vectors[0].width - 1)),
        smallest_bits=min(nonzero, default=0).bit_length(),
        integer=(int(points.min()), int(points.max())),
        memory_bits=sum(constants.memory_bits for constants in vectors),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatUse:
    """All multipliers, or all biases, that a graph stores in one format.

    ops: the Requantizes that hold them. saturated, vanished: how many of them did.
    """

    format: str
    bias: bool
    ops: tuple[str, ...]
    use: RangeUse
    saturated: int
    vanished: int


def format_uses(graph: Graph, issues: Iterable[ConstantIssue]) -> tuple[FormatUse, ...]:
    """One entry a format and role, in the order met. issues: of the graph's constants."""
    found: dict[tuple[str, bool], list[tuple[str, Constants]]] = {}
    for op in graph:
        if isinstance(op, Requantize):
            for constants in op.requant.terms:
                found.setdefault((constants.format_name, False), []).append((op.name, constants))
            bias = op.requant.bias
            found.setdefault((bias.format_name, True), []).append((op.name, bias))
    listed = tuple(issues)
    return tuple(_use(form, bias, held, listed) for (form, bias), held in found.items())


def _use(
    form: str, bias: bool, held: Sequence[tuple[str, Constants]], issues: Sequence[ConstantIssue]
) -> FormatUse:
    ops = dict.fromkeys(name for name, _ in held)
    own = [i for i in issues if i.op in ops and (i.source == "") is bias]
    return FormatUse(
        format=form,
        bias=bias,
        ops=tuple(ops),
        use=range_use(constants for _, constants in held),
        saturated=sum(i.problem == "saturated" for i in own),
        vanished=sum(i.problem == "vanished" for i in own),
    )
