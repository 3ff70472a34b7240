"""Clipping values from values seen: the largest, a percentile, or the one of least squared error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from hwq.errors import InputError

LIMIT = 1 << 18
"""Values that a sample keeps at most."""
FINE_BITS = 12
"""From so many bits on rounding costs less than any clipping could save: the peak is the range."""
_STEPS = 257
_PER_OCTAVE = 32
METHODS = ("max", "percentile", "mse")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """How a clipping value is chosen: a name of `METHODS`; percentile in (0, 100], for that one alone."""

    method: str = "mse"
    percentile: float = 99.9

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"unknown ranges '{self.method}'; known: {', '.join(METHODS)}")
        if not 0 < self.percentile <= 100:
            raise InputError(f"a percentile is above 0 and at most 100, not {self.percentile:g}")

    def bound(self, sample: Sample, bits: int, hi: int) -> float:
        """The clipping value of a sampled tensor for codes up to `hi`; 0 where nothing but 0 was seen."""
        if self.method == "max" or bits >= FINE_BITS or sample.peak == 0:
            return sample.peak
        sizes = sample.sizes()[None]
        if self.method == "percentile":
            return float(percentile_bounds(sizes, self.percentile))
        return float(mse_bounds(sizes, hi))


def percentile_bounds(sizes: Tensor, percentile: float) -> Tensor:
    """Per row of sizes (C, N), N >= 1: the least value that `percentile` % of the row do not exceed, (C,).

    One of the row's own values (nearest rank, no interpolation).
    """
    count = sizes.shape[1]
    rank = math.ceil(count * Fraction(str(percentile)) / 100)  # exact: 0.999 * 1000 is not 999 in floats
    return sizes.kthvalue(max(1, rank), dim=1).values


def mse_bounds(sizes: Tensor, hi: int) -> Tensor:
    """Per row of sizes (C, N) >= 0: the clipping value of least squared error for codes 0 .. hi, (C,).

    In float64. Candidates are peak * 2^(-i/32), i = 0..256. The error of every candidate is exact up to
    rounding, from sorted values and their prefix sums: with c_k = number of x >= (k - 1/2) s,

        sum (x - k s)^2 = sum x^2 - 2 s sum_k (sum of x >= (k - 1/2) s) + s^2 sum_k (2k - 1) c_k
    """
    rows = sizes.double().sort(dim=1).values
    count = rows.shape[1]
    sums = torch.nn.functional.pad(rows.cumsum(1), (1, 0))
    total, square, peak = sums[:, -1:], rows.square().sum(1), rows[:, -1]
    codes = torch.arange(1, hi + 1, dtype=torch.float64, device=rows.device)
    shares = codes.new_tensor([2.0 ** (-i / _PER_OCTAVE) for i in range(_STEPS)])
    best, least = peak.clone(), torch.full_like(peak, torch.inf)
    # as many candidates at once as a million edges hold
    for some in torch.split(shares, max(1, (1 << 20) // (len(rows) * hi))):
        bounds = peak[:, None] * some
        s = bounds / hi
        edges = (codes - 0.5) * s[:, :, None]
        below = torch.searchsorted(rows, edges.flatten(1))
        inner = (total - sums.gather(1, below)).view_as(edges).sum(2)
        energy = ((2 * codes - 1) * (count - below.view_as(edges))).sum(2)
        error, index = (square[:, None] - 2 * s * inner + s.square() * energy).min(1)
        better = error < least
        best = torch.where(better, bounds.gather(1, index[:, None]).squeeze(1), best)
        least = torch.where(better, error, least)
    return best


class Sample:
    """At most `LIMIT` of the values added, evenly spread over them; all while they fit. The peak is of all.

    Every stride-th value of each tensor is kept. The stride triples, and what is kept is thinned to
    every third, when the sample is full: an odd stride, since a power of two would fall on the same
    pixels and channels again and again.
    """

    def __init__(self, *, signed: bool) -> None:
        self.signed = signed
        self.peak = 0.0
        self.seen = 0
        self.stride = 1
        self._kept = torch.empty(0)

    @torch.no_grad()
    def add(self, x: Tensor) -> None:
        """Note a tensor of any shape."""
        flat = x.detach().flatten()
        if not flat.numel():
            return
        low = -float(flat.min()) if self.signed else 0.0
        self.peak = max(self.peak, float(flat.max()), low)
        self.seen += flat.numel()
        while len(self._kept) + len(flat) // self.stride >= LIMIT:
            self._kept, self.stride = self._kept[::3], self.stride * 3
        self._kept = torch.cat([self._kept, flat[:: self.stride].cpu().to(torch.float32)])

    def sizes(self) -> Tensor:
        """What codes must cover, (n,) float32: |x|, or max(x, 0) of a tensor with unsigned codes."""
        return self._kept.abs() if self.signed else self._kept.clamp_min(0)
