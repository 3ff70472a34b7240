"""Tap buffers: how the compiled C++ hands over every op's output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hwq.errors import InputError
from hwq.ir import Graph, TensorSpec

_WIDTHS = (8, 16, 32, 64)


def tap_dtype(spec: TensorSpec) -> np.dtype[Any]:
    """The smallest built-in integer that holds the codes, unsigned for unsigned codes up to 32 bits.

    Raises InputError past 64 bits.
    """
    for bits in _WIDTHS:
        unsigned = not spec.type.signed and bits < 64
        info = np.iinfo(f"{'u' if unsigned else ''}int{bits}")
        if info.min <= spec.type.lo and spec.type.hi <= info.max:
            return info.dtype
    raise InputError(f"codes of type {spec.type} do not fit 64 bits: the C simulation cannot record them")


@dataclass(frozen=True, slots=True)
class Tap:
    """One op's output: `shape` without the batch, `offset` bytes per image before it."""

    op: str
    kind: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of one image."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class TapPlan:
    """Where every op's output of a batch lies in one buffer: op after op, each 64-byte aligned."""

    pixels: tuple[int, ...]
    taps: tuple[Tap, ...]

    @staticmethod
    def of(graph: Graph) -> TapPlan:
        """One tap an op, in the graph's order."""
        taps: list[Tap] = []
        offset = 0
        for op in graph:
            tap = Tap(op.name, type(op).__name__, op.out.shape, tap_dtype(op.out), offset)
            taps.append(tap)
            offset += -(-tap.nbytes // 64) * 64
        return TapPlan(graph.input.out.shape, tuple(taps))

    @property
    def image_bytes(self) -> int:
        """Tap bytes of one image, padding included."""
        last = self.taps[-1]
        return last.offset + -(-last.nbytes // 64) * 64

    @property
    def pixel_bytes(self) -> int:
        return int(np.prod(self.pixels))

    def positions(self, count: int) -> list[int]:
        """Byte offset of every tap in a buffer of `count` images."""
        return [tap.offset * count for tap in self.taps]

    def views(self, buffer: memoryview, count: int) -> dict[str, np.ndarray[Any, Any]]:
        """op -> (count, *shape) arrays over the buffer, in the taps' own types."""
        found: dict[str, np.ndarray[Any, Any]] = {}
        for tap in self.taps:
            size = tap.nbytes // tap.dtype.itemsize
            flat = np.frombuffer(buffer, tap.dtype, count * size, tap.offset * count)
            found[tap.op] = flat.reshape(count, *tap.shape)
        return found
