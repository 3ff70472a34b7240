"""The edges of a network: does `--edge-fixed` hold the logits and the input's constants, and what would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor, frexp
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq.explain.observe import KEPT, Floats, Site, measure, share, site_of, some
from hwq.fixed import AutoFormat, IntType, LiteralFormat, parse_edge
from hwq.ir import Graph, Requantize
from hwq.lower import Formats, Lowered, RealConstants
from hwq.simulate import LogitRange, logit_range, unclipped
from hwq.simulate.clipping import last_requantize, moved
from hwq.simulate.oracle import requantize

Outputs = Mapping[str, npt.NDArray[Any]]
_WIDEST = 32
"""What `--edge-fixed` takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeFacts:
    """form: the edge format given. logits: in it, before any clamp. input_share: of the input's codes, 0..1,
    that its constants change. cheapest: the format of the fewest bits under which no logit of these images is
    clipped, every answer is that of real-valued logits, and at most `threshold` of the input's codes
    change; None where 32 bits do not do.
    """

    form: str
    logits: LogitRange
    input_share: float
    cheapest: str | None
    threshold: float

    @property
    def bad(self) -> bool:
        """Whether something is clipped, or too many of the input's codes change."""
        return self.logits.clipped > 0 or self.input_share > self.threshold

    def __str__(self) -> str:
        """One line; a loud one where logits are clipped."""
        what = "that holds them and the input's constants"
        if self.cheapest is None:
            return f"{self.logits}; no --edge-fixed of up to 32 bits {what.replace('that ', '')}"
        return f"{self.logits}; the cheapest --edge-fixed {what} is {self.cheapest}"


def real_logits(lowered: Lowered, outputs: Outputs) -> Floats:
    """The logits (N, logits) as real numbers, with real constants: neither rounded nor clipped.

    outputs: of `logit_sources`, (N, *shape).
    """
    op, real, inputs = _last(lowered, outputs)
    kind, scale = op.out.type, op.out.scale or 1.0
    sums = real.sums(inputs)
    # a ReLU's limit lies within the type, whose own ends are no part of the network
    low = op.requant.lo if op.requant.lo > kind.lo else -np.inf
    high = op.requant.hi if op.requant.hi < kind.hi else np.inf
    found: Floats = moved(lowered.graph, np.clip(sums, low, high)) * scale
    return found


def edge_facts(
    given: Lowered, edge: LiteralFormat, pixels: npt.NDArray[np.uint8], outputs: Outputs, threshold: float
) -> EdgeFacts:
    """Of images (N, H, W, C). given: lowered with `edge`. outputs: of its `logit_sources`, on these images,
    of itself or of the same network with other constants.
    """
    sites = _input_sites(given, pixels)
    losses = [measure(site, _requantize(given.graph, site.op.name).requant).share for site in sites]
    free = unclipped(given.graph, outputs)
    return EdgeFacts(
        form=str(edge),
        logits=logit_range(given.graph, free),
        input_share=max(losses, default=0.0),
        cheapest=_cheapest(given, sites, outputs, threshold),
        threshold=threshold,
    )


def _requantize(graph: Graph, name: str) -> Requantize:
    op = graph[name]
    assert isinstance(op, Requantize)
    return op


def _last(lowered: Lowered, outputs: Outputs) -> tuple[Requantize, RealConstants, list[npt.NDArray[Any]]]:
    op, _ = last_requantize(lowered.graph)
    assert op is not None
    return op, lowered.report.real[op.name], [outputs[name] for name in op.inputs]


def _input_sites(lowered: Lowered, pixels: npt.NDArray[np.uint8]) -> list[Site]:
    """The requantisations of the raw image, with some of its pixels."""
    graph, found = lowered.graph, []
    for op in graph:
        if isinstance(op, Requantize) and op.inputs == (graph.input.name,):
            values = pixels.reshape(-1, op.out.channels)
            rows = some(np.random.default_rng(0), len(values), max(1, KEPT // op.out.channels))
            found.append(site_of(op, lowered, [(values[rows],)]))
    return found


def _cheapest(lowered: Lowered, sites: Sequence[Site], outputs: Outputs, threshold: float) -> str | None:
    logits = real_logits(lowered, outputs)
    answers = logits.argmax(axis=1)
    largest = max((float(np.abs(v).max()) for s in sites for v in (*s.real.terms, s.real.bias)), default=0.0)
    for width in range(2, _WIDEST + 1):
        integer = max(fitting(float(np.abs(logits).max()), width), fitting(largest, width), width - 62)
        form = parse_edge(f"{width},{integer}")
        if not np.array_equal(_answers(lowered, form, outputs), answers):
            continue
        if all(share(site, site.stored(form)) <= threshold for site in sites):
            return str(form)
    return None


def fitting(value: float, width: int) -> int:
    """The smallest I at which value >= 0, rounded half up to W bits, is at most 2^(W-1) - 1."""
    integer = frexp(value)[1] + 1
    return integer + (floor(value * 2.0 ** (width - integer) + 0.5) > (1 << (width - 1)) - 1)


def _answers(lowered: Lowered, form: LiteralFormat, outputs: Outputs) -> npt.NDArray[np.int64]:
    """The classes (N,) with logits of another type, by the constants that it would have."""
    op, real, inputs = _last(lowered, outputs)
    formats = Formats(body=form, edge=form)
    kind, scale = formats.logits
    ratio, constants = (op.out.scale or 1.0) / scale, AutoFormat(form.type.width)
    requant = replace(
        op.requant,
        terms=tuple(constants.quantize(values * ratio, bias=False) for values in real.terms),
        bias=constants.quantize(real.bias * ratio, bias=True),
        out=kind,
        lo=_limit(op.requant.lo, op.out.type, kind, ratio),
        hi=_limit(op.requant.hi, op.out.type, kind, ratio),
    )
    spec = replace(op.out, type=kind, scale=scale)
    codes = moved(lowered.graph, requantize(replace(op, out=spec, requant=requant), inputs))
    return np.asarray(codes.argmax(axis=1), dtype=np.int64)


def _limit(limit: int, old: IntType, new: IntType, ratio: float) -> int:
    """The end of a type becomes that of the other; a limit within it keeps its value."""
    if limit in (old.lo, old.hi):
        return new.lo if limit == old.lo else new.hi
    return min(max(floor(limit * ratio + 0.5), new.lo), new.hi)
