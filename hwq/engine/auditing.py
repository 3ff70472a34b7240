"""What storing the constants cost: codes that differ from those of real-valued constants, op by op."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, log10
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hwq.engine.engine import Engine
from hwq.engine.methods import Stored
from hwq.engine.plan import EngineAudit
from hwq.errors import InputError
from hwq.fixed import Rounding
from hwq.ir import Requantize
from hwq.simulate import Runner
from hwq.simulate.runner import Codes

CHUNK = 16
"""Images whose codes numpy holds at once."""


class Real(Protocol):
    """A requantisation's constants before they were stored: `hwq.lower.RealConstants`, or anything alike."""

    @property
    def terms(self) -> tuple[npt.NDArray[np.float64], ...]:
        """The multipliers, one vector of 1 or C values a term."""

    @property
    def bias(self) -> npt.NDArray[np.float64]:
        """1 or C values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerErrors:
    """One requantisation over all images: all four are exact integers.

    values: codes compared. wrong: those that differ from the real constants' on identical inputs.
    signal: sum of squared reference codes. noise: sum of squared differences.
    """

    values: int
    wrong: int
    signal: int
    noise: int

    @property
    def share(self) -> float:
        """Of the codes that differ, 0..1."""
        return self.wrong / self.values

    @property
    def decibels(self) -> float:
        """Signal to noise; infinite without noise."""
        return 10 * (log10(max(self.signal, 1)) - log10(self.noise)) if self.noise else inf


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Audit:
    """layers: by name of the Requantize, in the order of the graph. logits: (N, classes) of the same run.
    predictions: int64 (N,), ties take the lowest class.
    """

    layers: Mapping[str, LayerErrors]
    logits: Codes
    predictions: npt.NDArray[np.int64]


def audit(
    runner: Runner,
    pixels: npt.NDArray[np.uint8],
    real: Mapping[str, Real],
    progress: Callable[[int], None] = lambda images: None,
) -> Audit:
    """Run images (N, H, W, C), N >= 1, and compare every Requantize named in `real` with `real_codes`.

    The native engine compares on the way, in its threads, and keeps nothing; any other engine's codes are
    kept for a few images at a time and compared by numpy. Both count alike. progress is told the images
    done. Raises InputError for images of another shape, and for a name that is no Requantize.
    """
    ops = [op for op in runner.graph if isinstance(op, Requantize) and op.name in real]
    unknown = sorted(set(real) - {op.name for op in ops})
    if unknown:
        raise InputError(f"there is no requantisation named '{unknown[0]}'")
    if isinstance(runner, Engine) and all(runner.choices[op.name].stored < Stored.S64 for op in ops):
        sums, logits = _native(runner, pixels, ops, real, progress)
    else:
        sums, logits = _by_numpy(runner, pixels, ops, real, progress)
    layers = {}
    for op in ops:
        wrong, signal, noise = sums[op.name]
        layers[op.name] = LayerErrors(
            values=len(pixels) * op.out.size, wrong=wrong, signal=signal, noise=noise
        )
    return Audit(layers=layers, logits=logits, predictions=logits.argmax(axis=1).astype(np.int64))


def real_codes(op: Requantize, real: Real, inputs: Sequence[Codes]) -> npt.NDArray[np.float64]:
    """clamp(floor(sum_i x_i * M_i + B [+ 0.5]), lo, hi) with the real constants, in float64, terms in order.

    inputs: (N, *shape) codes or sums a term. Rounds as the requantisation does (half up, or floor), so only
    the constants differ.
    """
    total = inputs[0] * real.terms[0].astype(np.float64)
    for x, multiplier in zip(inputs[1:], real.terms[1:], strict=True):
        total = total + x * multiplier
    total = total.astype(np.float64, copy=False) + real.bias
    if op.requant.rounding is Rounding.RND:
        total += 0.5
    codes: npt.NDArray[np.float64] = np.clip(np.floor(total), float(op.requant.lo), float(op.requant.hi))
    return codes


Sums = dict[str, tuple[int, int, int]]
"""By name: codes that differ, squared reference codes, squared differences."""


def _by_numpy(
    runner: Runner,
    pixels: npt.NDArray[np.uint8],
    ops: Sequence[Requantize],
    real: Mapping[str, Real],
    progress: Callable[[int], None],
) -> tuple[Sums, Codes]:
    wanted = {name for op in ops for name in (op.name, *op.inputs)}
    sums: Sums = {op.name: (0, 0, 0) for op in ops}
    logits = []
    for first in range(0, max(1, len(pixels)), CHUNK):  # no images: the engine says so
        trace = runner.run(pixels[first : first + CHUNK], keep=wanted)
        for op in ops:
            reference = real_codes(op, real[op.name], [trace.outputs[name] for name in op.inputs])
            wrong, signal, noise = sums[op.name]
            more = _compare(reference, trace.outputs[op.name])
            sums[op.name] = (wrong + more[0], signal + more[1], noise + more[2])
        logits.append(trace.logits)
        progress(min(first + CHUNK, len(pixels)))
    return sums, np.concatenate(logits)


def _compare(reference: npt.NDArray[np.float64], codes: Codes) -> tuple[int, int, int]:
    if np.abs(reference).max() < 1 << 31 and codes.dtype.itemsize <= 4:
        exact = reference.astype(np.int64)
        off = exact - codes
        return int(np.count_nonzero(off)), _squares(exact), _squares(off)
    pairs = [(int(r), int(c)) for r, c in zip(reference.flat, codes.flat, strict=True)]
    return (
        sum(r != c for r, c in pairs),
        sum(r * r for r, _ in pairs),
        sum((r - c) ** 2 for r, c in pairs),
    )


def _squares(values: npt.NDArray[np.int64]) -> int:
    """The sum of squares of values below 2^32, exact: halves of squares are summed apart."""
    squares = np.square(values.astype(np.uint64))
    low, high = squares & np.uint64((1 << 32) - 1), squares >> np.uint64(32)
    return int(low.sum(dtype=np.uint64)) + (int(high.sum(dtype=np.uint64)) << 32)


def _native(
    engine: Engine,
    pixels: npt.NDArray[np.uint8],
    ops: Sequence[Requantize],
    real: Mapping[str, Real],
    progress: Callable[[int], None],
) -> tuple[Sums, Codes]:
    def spread(op: Requantize, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.broadcast_to(values, (op.out.channels,)).astype(np.float64)

    audits, alive = {}, []
    for op in ops:
        given = real[op.name]
        multipliers = np.stack([spread(op, values) for values in given.terms])
        bias = spread(op, given.bias)
        alive += [multipliers, bias]
        audits[op.name] = EngineAudit(
            multipliers=multipliers.ctypes.data,
            bias=bias.ctypes.data,
            half=0.5 if op.requant.rounding is Rounding.RND else 0.0,
            lo=float(op.requant.lo),
            hi=float(op.requant.hi),
        )
    logits = engine.run_audited(pixels, audits, progress)
    return {
        name: (a.wrong, *(low + (high << 64) for low, high in (a.reference, a.difference)))
        for name, a in audits.items()
    }, logits
