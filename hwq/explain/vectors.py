"""Multipliers of one input, or biases: their range, the bits they need, and what storing them did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwq.explain.observe import Floats, Site
from hwq.fixed import Constants, Ints
from hwq.ir import Requant
from hwq.lower import ConstantIssue

HARM = 0.5
"""Half a code: a constant that cannot move a sum by as much does not matter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorFacts:
    """source: the input that the multipliers are of, "" for biases; the latter are in output codes.

    matter: how many can move a sum by half a code on the inputs seen. smallest, largest: |constant| of
    those, or of all but zeros where none does. reach: largest |input| seen, 1 for biases. integer,
    fraction: I and F as stored, smallest and largest. needs_integer, needs_fraction: see `needs`, 0 where
    none matters. saturated, vanished: of those that matter. worst_relative: largest relative error of one
    that matters and did not vanish. worst_codes: largest error of a sum, in codes, that one causes on the
    inputs seen.
    """

    source: str
    count: int
    matter: int
    smallest: float
    largest: float
    reach: int
    integer: tuple[int, int]
    fraction: tuple[int, int]
    needs_integer: int
    needs_fraction: int
    saturated: int
    vanished: int
    worst_relative: float
    worst_codes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Widths at which every constant of a layer keeps its error below half a code, on the inputs seen.

    literal: (W, I) for all of them. auto: W with one I a vector. channel: W with an I a constant.
    """

    literal: tuple[int, int]
    auto: int
    channel: int


def needs(values: Floats, reach: Ints) -> tuple[Ints, Ints]:
    """(I, F) that every constant that matters needs. reach: (C,), largest |input| of each channel.

    I: the constant must lie below the range's end, |v| < 2^(I-1); with 2^(e-1) <= |v| < 2^e that is
    I = e + 1, and may be negative. F: rounded to F fraction bits, v errs by at most 2^-(F+1), and the sum
    by |x| 2^-(F+1). That is below half a code for every |x| <= X if and only if 2^F > X, so
    F = floor(log2 X) + 1, the bit length of X. Biases have X = 1: F = 1. A constant with |v| X < 1/2 may
    become 0 as well, and needs nothing.
    """
    each = np.broadcast_to(values, reach.shape)
    matter = _matter(each, reach)
    exponent = np.frexp(np.abs(each[matter]))[1].astype(np.int64)
    return exponent + 1, np.array([int(x).bit_length() for x in reach[matter]], dtype=np.int64)


def _matter(values: Floats, reach: Ints) -> npt.NDArray[np.bool_]:
    matter: npt.NDArray[np.bool_] = np.abs(values) * reach >= HARM
    return matter


def reaches(site: Site) -> list[Ints]:
    """Largest |input| of each channel, one array (C,) a term; then 1 for the biases."""
    found: list[Ints] = [np.abs(x.astype(np.int64)).max(axis=0) for x in site.inputs]
    return [*found, np.ones_like(found[0])]


def layer_needs(sites: Iterable[Site]) -> Needs:
    """Of one layer, or of several that share a format."""
    pairs = [
        needs(values, reach)
        for site in sites
        for values, reach in zip((*site.real.terms, site.real.bias), reaches(site), strict=True)
    ]
    pairs = [(i, f) for i, f in pairs if i.size] or [(np.array([1]), np.array([1]))]
    integer, fraction = (max(int(p[k].max()) for p in pairs) for k in (0, 1))
    return Needs(
        literal=(max(2, integer + fraction), integer),
        auto=max(2, *(int(i.max() + f.max()) for i, f in pairs)),
        channel=max(2, *(int((i + f).max()) for i, f in pairs)),
    )


def facts(site: Site, requant: Requant, issues: Sequence[ConstantIssue]) -> tuple[VectorFacts, ...]:
    """Of every term's multipliers, then of the biases. issues: of the op, as it is stored."""
    sources = (*site.op.inputs, "")
    reals = (*site.real.terms, site.real.bias)
    stored = (*requant.terms, requant.bias)
    return tuple(
        _facts(source, values, held, reach, [i for i in issues if i.source == source])
        for source, values, held, reach in zip(sources, reals, stored, reaches(site), strict=True)
    )


def _facts(
    source: str,
    values: Floats,
    held: Constants,
    reach: Ints,
    issues: Sequence[ConstantIssue],
) -> VectorFacts:
    if values.size == 1:
        reach = reach.max(keepdims=True)  # one constant serves all channels
    size, error = np.abs(values), np.abs(held.values() - values)
    matter = _matter(values, reach)
    kept = matter & (held.raw != 0)
    shown = size[matter if matter.any() else values != 0]
    integer, fraction = needs(values, reach)

    def count(problem: str) -> int:
        # a channel of None is the only one
        return sum(i.problem == problem and bool(matter[i.channel or 0]) for i in issues)

    return VectorFacts(
        source=source,
        count=values.size,
        matter=int(matter.sum()),
        smallest=float(shown.min()) if shown.size else 0.0,
        largest=float(shown.max(initial=0.0)),
        reach=int(reach.max()),
        integer=(int(held.integer.min()), int(held.integer.max())),
        fraction=(int(held.fraction.min()), int(held.fraction.max())),
        needs_integer=int(integer.max()) if integer.size else 0,
        needs_fraction=int(fraction.max(initial=0)),
        saturated=count("saturated"),
        vanished=count("vanished"),
        worst_relative=float((error[kept] / size[kept]).max(initial=0.0)),
        worst_codes=float((error * reach).max()),
    )
