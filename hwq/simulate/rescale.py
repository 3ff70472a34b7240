"""The requantisation in torch: floats while the aligned sum is exact in them, else int64, one or two.

All constants of a channel are scaled by 2^-F, exactly, so that
floor(sum_i x_i * M_i' + B') needs no shift; products and sums stay exact because the integer sum they
stand for fits the mantissa. Runs in slices that stay in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hwq.ir import Bound, Requantize
from hwq.simulate.paths import Arithmetic, limb_bits

SLICE = 1 << 16
"""Codes handled at once: two float64 buffers of 512 KiB."""
ROW = 1 << 12
"""Constants are repeated to rows of about this many codes, so inner loops are long."""

Rescaler = Callable[[Sequence[Tensor]], Tensor]


def rescaler(
    op: Requantize, bounds: Sequence[Bound], work: Arithmetic, store: torch.dtype, device: torch.device
) -> Rescaler:
    """A function of the inputs (N, *shape), contiguous -> codes of dtype `store`, same shape.

    bounds: max|x_i| of each input's channels. work: anything but WIDE.
    """
    match work:
        case Arithmetic.FLOAT32:
            return _floating(op, torch.float32, store, device)
        case Arithmetic.FLOAT64:
            return _floating(op, torch.float64, store, device)
        case Arithmetic.INT64:
            return _integer(op, store, device)
        case Arithmetic.LIMBS:
            return _limbs(op, bounds, store, device)
        case Arithmetic.WIDE:
            raise AssertionError("torch has no integers beyond 64 bits")
        case _:
            assert_never(work)


def _repeats(op: Requantize) -> int:
    """How many pixels of one image share a row: the largest divisor of H*W that keeps rows short."""
    pixels, channels = op.out.size // op.out.channels, op.out.channels
    return max(r for r in range(1, pixels + 1) if pixels % r == 0 and (r == 1 or r * channels <= ROW))


def _floating(op: Requantize, work: torch.dtype, store: torch.dtype, device: torch.device) -> Rescaler:
    a = op.requant.alignment
    channels, repeats = op.out.channels, _repeats(op)
    lo, hi = float(op.requant.lo), float(op.requant.hi)

    def row(values: npt.NDArray[np.object_]) -> Tensor:
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


def _int64(values: npt.NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(values.astype(np.int64)).to(device)


def _weighted(inputs: Sequence[Tensor], multipliers: Sequence[Tensor], offset: Tensor) -> Tensor:
    """sum_i x_i * M_i + offset in int64."""
    total = offset.expand(inputs[0].shape)
    for x, multiplier in zip(inputs, multipliers, strict=True):
        total = total + x * multiplier
    return total


def _integer(op: Requantize, store: torch.dtype, device: torch.device) -> Rescaler:
    a = op.requant.alignment
    multipliers = [_int64(m, device) for m in a.multipliers]
    offset, shift = _int64(a.bias + a.half, device), _int64(a.fraction, device)
    lo, hi = op.requant.lo, op.requant.hi

    def run(inputs: Sequence[Tensor]) -> Tensor:
        total = _weighted([x.to(torch.int64) for x in inputs], multipliers, offset)
        return (total >> shift).clamp_(lo, hi).to(store)

    return run


def _limbs(op: Requantize, bounds: Sequence[Bound], store: torch.dtype, device: torch.device) -> Rescaler:
    """floor(S / 2^F) = floor((high + floor(low / 2^k)) / 2^(F-k)) for S = high * 2^k + low."""
    a, bits = op.requant.alignment, limb_bits(op, bounds)
    assert bits is not None
    wide = bits.astype(object)
    constants = (*a.multipliers, a.bias + a.half)
    *highs, high_offset = [_int64(c >> wide, device) for c in constants]
    *lows, low_offset = [_int64(c - ((c >> wide) << wide), device) for c in constants]
    carry, shift = _int64(bits, device), _int64(a.fraction - bits, device)
    lo, hi = op.requant.lo, op.requant.hi

    def run(inputs: Sequence[Tensor]) -> Tensor:
        integers = [x.to(torch.int64) for x in inputs]
        total = _weighted(integers, highs, high_offset)
        total = total + (_weighted(integers, lows, low_offset) >> carry)
        return (total >> shift).clamp_(lo, hi).to(store)

    return run
