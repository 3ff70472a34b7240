"""Each requantisation by itself: what it gets in a healthy network, and what other constants do to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq.fixed import ChannelFormat, ConstantFormat, FixedType, LiteralFormat, Rounding
from hwq.ir import Requant, Requantize
from hwq.lower import Lowered, RealConstants
from hwq.simulate import Runner
from hwq.simulate.oracle import requantize

HEALTHY = ChannelFormat(32)
"""Constants within 2^-32 of the real ones: the network whose layers are looked at."""
HEALTHY_EDGE = LiteralFormat(FixedType(width=40, integer=18))
"""Of that network: logits to 2^17, the input's constants within 2^-23."""
KEPT = 1 << 18
"""Codes of a requantisation that are kept: a share of 1% of them is known to about 0.1%."""
_AT_ONCE = 1 << 24
"""Codes held at once while images run."""

Codes = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Site:
    """A Requantize and some of what it got. Arrays have shape (n, C): n pixels of images, C channels.

    op: of the healthy network; its limits and rounding hold for all formats. inputs: integers, one array
    a term. sums: codes before rounding and clamping, with the real constants. codes: after it.
    """

    op: Requantize
    names: tuple[str, ...]
    real: RealConstants
    inputs: tuple[Codes, ...]
    sums: Floats
    codes: Codes

    def stored(self, form: ConstantFormat) -> Requant:
        """The requantisation with its constants in another format."""
        return replace(
            self.op.requant,
            terms=tuple(form.quantize(values, bias=False) for values in self.real.terms),
            bias=form.quantize(self.real.bias, bias=True),
        )


def observe(
    lowered: Lowered,
    runner: Runner,
    pixels: npt.NDArray[np.uint8],
    *,
    kept: int = KEPT,
    progress: Callable[[int], None] = lambda images: None,
) -> dict[str, Site]:
    """Run the images (N, H, W, C) and keep up to about `kept` codes of every Requantize but the logits'.

    lowered: with constants as good as real. Which pixels are kept is drawn once, from a fixed seed, so the
    same images give the same figures. progress is told the images done.
    """
    graph = lowered.graph
    ops = [op for op in graph if isinstance(op, Requantize) and op.name not in graph.output.inputs]
    wanted = {name for op in ops for name in op.inputs}
    chunk = max(1, _AT_ONCE // max(1, sum(graph[name].out.size for name in wanted)))
    held: dict[str, list[tuple[Codes, ...]]] = {op.name: [] for op in ops}
    rng = np.random.default_rng(0)
    for first in range(0, len(pixels), chunk):
        part = pixels[first : first + chunk]
        outputs = runner.run(part, keep=wanted).outputs
        for op in ops:
            inputs = [outputs[name].reshape(-1, op.out.channels) for name in op.inputs]
            share = kept * len(part) // (len(pixels) * op.out.channels)
            rows = some(rng, len(inputs[0]), max(1, share))
            held[op.name].append(tuple(x[rows] for x in inputs))
        progress(first + len(part))
    return {op.name: site_of(op, lowered, held[op.name]) for op in ops}


def some(rng: np.random.Generator, count: int, wanted: int) -> npt.NDArray[np.int64]:
    """`wanted` of `count` indices, in order, or all of them."""
    if wanted >= count:
        return np.arange(count)
    return np.sort(rng.choice(count, wanted, replace=False))


def site_of(op: Requantize, lowered: Lowered, parts: list[tuple[Codes, ...]]) -> Site:
    """Of a Requantize of `lowered`; parts: arrays (n, C), one a term, of some of the images each."""
    inputs = tuple(np.concatenate(column) for column in zip(*parts, strict=True))
    real = lowered.report.real[op.name]
    sums = real.sums(inputs)
    rounded = np.floor(sums + _half(op))
    codes = np.clip(rounded, op.requant.lo, op.requant.hi).astype(np.int64)
    return Site(op=op, names=lowered.report.names[op.name], real=real, inputs=inputs, sums=sums, codes=codes)


def _half(op: Requantize) -> float:
    return 0.5 if op.requant.rounding is Rounding.RND else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Of output codes, 0..1. share: that differ. far: by more than one. predicted: see `measure`."""

    share: float
    far: float
    predicted: float


def share(site: Site, requant: Requant) -> float:
    """Share of the site's codes, 0..1, that these constants change. Exact: integers as in hardware."""
    return float(np.count_nonzero(_moved(site, requant)) / site.codes.size)


def _moved(site: Site, requant: Requant) -> Codes:
    """|new code - code with real constants|."""
    got = requantize(replace(site.op, requant=requant), site.inputs)
    moved: Codes = np.abs(got - site.codes)
    return moved


def measure(site: Site, requant: Requant) -> Loss:
    """What these constants change at a site.

    predicted: were the sums spread evenly between two codes, a sum that moves by e (its constants'
    errors, sum_i x_i dM_i + dB) would change its code with probability min(1, |e|). Moves beyond the
    limits do not count: a clamped code stays what it is. The mean over the site's sums.
    """
    stored = RealConstants(
        terms=tuple(constants.values() for constants in requant.terms), bias=requant.bias.values()
    )
    half = _half(site.op)
    ends = (requant.lo + 0.5, requant.hi + 0.5)  # the boundaries between codes are lo + 1 .. hi
    error = np.clip(stored.sums(site.inputs) + half, *ends) - np.clip(site.sums + half, *ends)
    moved = _moved(site, requant)
    return Loss(
        share=float(np.count_nonzero(moved) / moved.size),
        far=float(np.count_nonzero(moved > 1) / moved.size),
        predicted=float(np.minimum(1.0, np.abs(error)).mean()),
    )
