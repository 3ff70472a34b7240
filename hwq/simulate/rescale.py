"""The requantisation in torch: floats while the aligned sum is exact in them, else int64.

All constants of a channel are scaled by 2^-F, exactly, so that
floor(sum_i x_i * M_i' + B') needs no shift; products and sums stay exact because the integer sum they
stand for fits the mantissa. Runs in slices that stay in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from hwq.ir import Requantize

SLICE = 1 << 15
"""Codes handled at once: two float64 buffers of 256 KiB."""
ROW = 1 << 12
"""Constants are repeated to rows of about this many codes, so inner loops are long."""

Rescaler = Callable[[Sequence[Tensor]], Tensor]


def rescaler(op: Requantize, work: torch.dtype, store: torch.dtype, device: torch.device) -> Rescaler:
    """A function of the inputs (N, *shape), contiguous -> codes of dtype `store`, same shape."""
    if work is torch.int64:
        return _integer(op, store, device)
    return _floating(op, work, store, device)


def _repeats(op: Requantize) -> int:
    """How many pixels of one image share a row: the largest divisor of H*W that keeps rows short."""
    pixels, channels = op.out.size // op.out.channels, op.out.channels
    return max(r for r in range(1, pixels + 1) if pixels % r == 0 and (r == 1 or r * channels <= ROW))


def _floating(op: Requantize, work: torch.dtype, store: torch.dtype, device: torch.device) -> Rescaler:
    a = op.requant.alignment
    channels, repeats = op.out.channels, _repeats(op)
    lo, hi = float(op.requant.lo), float(op.requant.hi)

    def row(values: np.ndarray) -> Tensor:  # type: ignore[type-arg]
        # object integers below 2^53 -> exact floats, times an exact power of two
        scaled = np.ldexp(values.astype(np.float64), -a.fraction)
        return torch.from_numpy(np.tile(np.broadcast_to(scaled, (channels,)), repeats)).to(device, work)

    multipliers = [row(m) for m in a.multipliers]
    bias = row(a.bias + a.half)
    length = channels * repeats
    step = max(1, SLICE // length)

    def run(inputs: Sequence[Tensor]) -> Tensor:
        sources = [x.reshape(-1, length) for x in inputs]
        result = torch.empty(sources[0].shape, dtype=store, device=device)
        total = torch.empty((step, length), dtype=work, device=device)
        term = torch.empty_like(total) if len(sources) > 1 or sources[0].dtype != work else total
        for first in range(0, result.shape[0], step):
            into = result[first : first + step]
            n = into.shape[0]
            acc, x = total[:n], term[:n]
            offset = bias.expand(n, length)
            for source, multiplier in zip(sources, multipliers, strict=True):
                part = source[first : first + step]
                part = part if part.dtype == work else x.copy_(part)
                torch.addcmul(offset, part, multiplier, out=acc)
                offset = acc
            into.copy_(acc.floor_().clamp_(lo, hi))
        return result.reshape(inputs[0].shape)

    return run


def _integer(op: Requantize, store: torch.dtype, device: torch.device) -> Rescaler:
    a = op.requant.alignment
    multipliers = [torch.from_numpy(m.astype(np.int64)).to(device) for m in a.multipliers]
    offset = torch.from_numpy((a.bias + a.half).astype(np.int64)).to(device)
    shift = torch.from_numpy(a.fraction).to(device)
    lo, hi = op.requant.lo, op.requant.hi

    def run(inputs: Sequence[Tensor]) -> Tensor:
        total = offset.expand(inputs[0].shape)
        for x, multiplier in zip(inputs, multipliers, strict=True):
            total = total + x.to(torch.int64) * multiplier
        return (total >> shift).clamp_(lo, hi).to(store)

    return run
