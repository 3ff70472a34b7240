"""Weights and constants in the layouts that the kernels of `sim/engine` read; each header states its own."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq.engine.methods import Choice, Method
from hwq.ir import Conv2d, Linear, Requantize

Packed = npt.NDArray[Any]

# Lavin's G for F(4x4, 3x3), its rows times 24, 6, 6, 24, 24, 6
_WINOGRAD = np.array([[6, 0, 0], [-1, -1, -1], [-1, 1, -1], [1, 2, 4], [1, -2, 4], [0, 0, 6]], np.int64)


def _round_up(count: int, step: int) -> int:
    return -(-count // step) * step


def _output_vectors(count: int, lanes: int) -> int:
    """Vectors that hold `count` outputs: 1, or an even number."""
    return 1 if count <= lanes else _round_up(count, 2 * lanes) // lanes


def weights(op: Conv2d | Linear, method: Method, lanes: int, *, wide: bool) -> Packed:
    """The weights of a sum for its method, C order; `wide` as in `Op`. A Linear is a 1x1 convolution."""
    weight = op.weight if isinstance(op, Conv2d) else op.weight.reshape(op.weight.shape[0], 1, 1, -1)
    groups = op.groups if isinstance(op, Conv2d) else 1
    match method:
        case Method.WORDS | Method.BYTES:
            by_rows = groups == 1 and (not isinstance(op, Conv2d) or op.dilation[1] == 1)
            return _dot(weight, groups, by_rows, lanes, np.int16 if method is Method.WORDS else np.int8)
        case Method.WINOGRAD:
            return _winograd(weight, lanes)
        case Method.DEPTHWISE:
            taps = weight.reshape(weight.shape[0], -1).T
            return _padded(taps, (taps.shape[0], _round_up(taps.shape[1], lanes)), np.int32)
        case _:
            kind = np.int64 if wide else np.int32
            return np.ascontiguousarray(weight.transpose(1, 2, 3, 0), dtype=kind)


def start(op: Conv2d | Linear, method: Method, lanes: int, *, signed: bool) -> Packed | None:
    """First values of the accumulators: BYTES adds 128 to signed codes, which -128 sum(w) takes back."""
    if method is not Method.BYTES or not signed:
        return None
    groups = op.groups if isinstance(op, Conv2d) else 1
    totals = -128 * op.weight.reshape(groups, op.weight.shape[0] // groups, -1).sum(axis=2)
    return _padded(totals, (groups, _output_vectors(totals.shape[1], lanes) * lanes), np.int32)


def _padded(values: npt.NDArray[Any], shape: tuple[int, ...], kind: npt.DTypeLike) -> Packed:
    """The values in the lowest corner of zeros. Kernels count modulo 2^32, and so may the conversion."""
    result = np.zeros(shape, dtype=kind)
    result[tuple(slice(n) for n in values.shape)] = values
    return result


def _dot(weight: npt.NDArray[np.int64], groups: int, by_rows: bool, lanes: int, kind: type) -> Packed:
    outs, high, wide, _ = weight.shape
    size = 4 // np.dtype(kind).itemsize
    segments = high if by_rows else high * wide
    terms = weight.reshape(groups, outs // groups, segments, -1)
    vectors, length = _output_vectors(outs // groups, lanes), _round_up(terms.shape[3], size)
    padded = _padded(terms, (groups, vectors * lanes, segments, length), kind)
    block = 1 if vectors == 1 else 2
    split = padded.reshape(groups, vectors // block, block, lanes, segments, length // size, size)
    return np.ascontiguousarray(split.transpose(0, 1, 4, 5, 2, 3, 6))


def _winograd(weight: npt.NDArray[np.int64], lanes: int) -> Packed:
    outs, taken = weight.shape[0], weight.shape[3]
    spots = np.einsum("ai,oijc,bj->aboc", _WINOGRAD, weight, _WINOGRAD).reshape(36, outs, taken)
    vectors, length = _output_vectors(outs, lanes), _round_up(taken, 2)
    padded = _padded(spots, (36, vectors * lanes, length), np.int16)
    block = 1 if vectors == 1 else 2
    split = padded.reshape(36, vectors // block, block, lanes, length // 2, 2)
    return np.ascontiguousarray(split.transpose(0, 1, 4, 2, 3, 5))


def wide_factors(op: Requantize, method: Method) -> bool:
    """Whether a multiplier of WIDE needs 128 bits."""
    largest = max(int(np.abs(m).max()) for m in op.requant.alignment.multipliers)
    return method is Method.WIDE and largest >= 1 << 63


def requantisation(op: Requantize, choice: Choice, lanes: int) -> dict[str, Packed]:
    """`multipliers` and `bias`; `doubt` for HIGH and FILTERED, else `shift`; for NARROW also `minus`."""
    a, channels, method = op.requant.alignment, op.out.channels, choice.method
    width = _round_up(channels, lanes)
    if choice.cut:
        constants = (*choice.cut.multipliers, choice.cut.bias, choice.cut.doubt)
        *terms, bias, doubt = (np.broadcast_to(values, (channels,)) for values in constants)
        # past the last channel there is no doubt
        return {**_vectors(terms, bias, np.int64, lanes), "doubt": _padded(doubt, (width,), np.uint32)}
    terms = [np.broadcast_to(m, (channels,)) for m in a.multipliers]
    bias = np.broadcast_to(a.bias + a.half, (channels,))
    # a deeper shift of a sum of that many bits leaves its sign alone, as this one does
    deepest = 127 if method is Method.WIDE else 63
    shift = np.broadcast_to(np.minimum(a.fraction, deepest), (channels,)).astype(np.int64)
    if method is not Method.NARROW:
        factors = np.concatenate(terms)
        return {
            "multipliers": _wide(factors) if wide_factors(op, method) else factors.astype(np.int64),
            "bias": _wide(bias) if method is Method.WIDE else bias.astype(np.int64),
            "shift": shift,
        }
    return {
        **_vectors(terms, bias + (1 << 63), np.uint64, lanes),
        "shift": _even_first(_padded(shift, (width,), np.int64), lanes),
        # 2^(63-F), which is 0 modulo 2^32 for F < 32
        "minus": _padded(np.where(shift < 32, 0, np.int64(1) << (63 - shift)), (width,), np.int32),
    }


def _vectors(
    terms: Iterable[npt.NDArray[Any]], bias: npt.NDArray[Any], kind: type, lanes: int
) -> dict[str, Packed]:
    """Multipliers of 32 bits and biases of 64, filled up to whole vectors."""
    width = _round_up(len(bias), lanes)
    return {
        "multipliers": np.stack([_padded(m.astype(np.int64), (width,), np.int32) for m in terms]),
        "bias": _even_first(_padded(bias.astype(kind), (width,), kind), lanes),
    }


def _even_first(values: npt.NDArray[Any], lanes: int) -> Packed:
    return np.ascontiguousarray(values.reshape(-1, lanes // 2, 2).transpose(0, 2, 1))


def _wide(values: npt.NDArray[np.object_]) -> Packed:
    """Python integers as 128-bit ones of this machine."""
    content = b"".join(int(v).to_bytes(16, sys.byteorder, signed=True) for v in values)
    return np.frombuffer(content, dtype=np.uint8)
