"""A graph as the flat list of ops that the engine reads: `Op` of sim/engine/plan.h."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq.engine import pack
from hwq.engine.methods import Choice, Method, Stored
from hwq.ir import (
    Concat,
    Conv2d,
    Flatten,
    Graph,
    Input,
    Linear,
    MaxPool,
    Op,
    Output,
    Pad,
    Requantize,
    SumPool,
)
from hwq.simulate import storage_dtype

ABI = 4
"""Of `Op`, `Audit` and the packed layouts; sim/engine/engine.cpp states the same."""


class Kind(IntEnum):
    """The engine's `Kind`."""

    INPUT = 0
    CONV = 1
    LINEAR = 2
    REQUANT = 3
    MAX_POOL = 4
    SUM_POOL = 5
    PAD = 6
    CONCAT = 7
    ALIAS = 8


KINDS: dict[type[Op], Kind] = {
    Input: Kind.INPUT,
    Conv2d: Kind.CONV,
    Linear: Kind.LINEAR,
    Requantize: Kind.REQUANT,
    MaxPool: Kind.MAX_POOL,
    SumPool: Kind.SUM_POOL,
    Pad: Kind.PAD,
    Concat: Kind.CONCAT,
    Flatten: Kind.ALIAS,
    Output: Kind.ALIAS,
}

_Pair = ctypes.c_int32 * 2


class EngineOp(ctypes.Structure):
    """`Op` of sim/engine/plan.h, field by field."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        ("type", ctypes.c_int32),
        ("method", ctypes.c_int32),
        ("inputs", ctypes.c_int32),
        ("shape", ctypes.c_int32 * 3),
        ("kernel", _Pair),
        ("stride", _Pair),
        ("padding", ctypes.c_int32 * 4),
        ("dilation", _Pair),
        ("groups", ctypes.c_int32),
        ("readers", ctypes.c_int32),
        ("before", ctypes.c_int32),
        ("flip", ctypes.c_int32),
        ("kept_bytes", ctypes.c_int32),
        ("lift", ctypes.c_int32),
        ("wide", ctypes.c_int32),
        ("input", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("start", ctypes.c_void_p),
        ("multipliers", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("shift", ctypes.c_void_p),
        ("minus", ctypes.c_void_p),
        ("doubt", ctypes.c_void_p),
        ("exact", ctypes.c_void_p),
        ("lo", ctypes.c_int64),
        ("hi", ctypes.c_int64),
    )


_Square = ctypes.c_uint64 * 2


class EngineAudit(ctypes.Structure):
    """`Audit` of sim/engine/audit.h, field by field."""

    _fields_ = (
        ("multipliers", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("half", ctypes.c_double),
        ("lo", ctypes.c_double),
        ("hi", ctypes.c_double),
        ("wrong", ctypes.c_int64),
        ("reference", _Square),
        ("difference", _Square),
    )

    def counting_from_zero(self) -> EngineAudit:
        """The same constants, nothing counted."""
        return EngineAudit(self.multipliers, self.bias, self.half, self.lo, self.hi)

    def add(self, other: EngineAudit) -> None:
        """The counts of both."""
        self.wrong += other.wrong
        for mine, more in ((self.reference, other.reference), (self.difference, other.difference)):
            total = mine[0] + more[0] + (mine[1] + more[1] << 64)
            mine[:] = total & (1 << 64) - 1, total >> 64


@dataclass(frozen=True, slots=True)
class PackedSum:
    """A layer's packed weights, and what they were packed from."""

    weight: npt.NDArray[np.int64]
    key: tuple[Any, ...]
    arrays: Mapping[str, npt.NDArray[Any] | None]


@dataclass(slots=True, kw_only=True)
class Plan:
    """The ops, ready to hand over, with everything they point to. index: op name -> position."""

    ops: ctypes.Array[EngineOp]
    index: Mapping[str, int]
    sums: dict[str, PackedSum]
    _alive: list[Any] = field(default_factory=list)

    @staticmethod
    def of(graph: Graph, choices: Mapping[str, Choice], lanes: int, earlier: Plan | None = None) -> Plan:
        """The plan of a verified graph; uses packed weights of `earlier` again where they are the same."""
        plan = Plan(
            ops=(EngineOp * len(graph.ops))(),
            index={op.name: i for i, op in enumerate(graph)},
            sums={},
        )
        for op, into in zip(graph, plan.ops, strict=True):
            plan._fill(into, op, graph, choices)
            if isinstance(op, Conv2d | Linear):
                old = earlier.sums.get(op.name) if earlier else None
                plan._fill_sum(into, op, choices[op.name].method, choices[op.inputs[0]], lanes, old)
            elif isinstance(op, Requantize):
                plan._fill_requant(into, op, choices[op.name], lanes)
        return plan

    def _fill(self, into: EngineOp, op: Op, graph: Graph, choices: Mapping[str, Choice]) -> None:
        into.kind, into.type, into.method = KINDS[type(op)], choices[op.name].stored, choices[op.name].method
        into.shape[:] = op.out.shape if len(op.out.shape) == 3 else (1, 1, *op.out.shape)
        into.groups = 1
        into.dilation[:] = into.stride[:] = into.kernel[:] = (1, 1)
        if isinstance(op, Conv2d | MaxPool | SumPool):
            into.kernel[:], into.stride[:] = op.kernel, op.stride
        if isinstance(op, Conv2d | MaxPool | SumPool | Pad):
            into.padding[:] = op.padding.sides
        if isinstance(op, Conv2d):
            into.dilation[:], into.groups = op.dilation, op.groups
        if isinstance(op, Pad):
            into.before = op.before
        into.readers = len(graph.consumers[op.name])
        into.kept_bytes = storage_dtype(op.out.type).itemsize
        into.inputs = len(op.inputs)
        self._point(into, {"input": np.array([self.index[name] for name in op.inputs], np.int32)})

    def _fill_sum(
        self,
        into: EngineOp,
        op: Conv2d | Linear,
        method: Method,
        source: Choice,
        lanes: int,
        old: PackedSum | None,
    ) -> None:
        signed = source.stored is not Stored.U8
        geometry = (op.groups, op.dilation) if isinstance(op, Conv2d) else ()
        wide = source.stored is Stored.S64 or int(np.abs(op.weight).max()) >= 1 << 31
        key = (type(op), method, signed, wide, lanes, geometry)
        if old is None or old.key != key or not np.array_equal(old.weight, op.weight):
            arrays = {
                "weights": pack.weights(op, method, lanes, wide=wide),
                "start": pack.start(op, method, lanes, signed=signed),
            }
            old = PackedSum(op.weight, key, arrays)
        self.sums[op.name] = old
        self._point(into, old.arrays)
        into.wide = wide
        into.flip = 0x80 if method is Method.BYTES and signed else 0

    def _fill_requant(self, into: EngineOp, op: Requantize, choice: Choice, lanes: int) -> None:
        method = into.method = choice.method
        self._point(into, pack.requantisation(op, choice, lanes))
        into.wide = pack.wide_factors(op, method)
        into.lift = choice.cut.lift if choice.cut else 0
        top = _limit(method)
        into.lo, into.hi = (min(max(v, -top), top) for v in (op.requant.lo, op.requant.hi))
        if method is Method.FILTERED:
            exact = EngineOp.from_buffer_copy(into)
            self._fill_requant(exact, op, replace(choice, method=Method.WIDE, cut=None), lanes)
            self._alive.append(exact)
            into.exact = ctypes.addressof(exact)

    def _point(self, into: EngineOp, arrays: Mapping[str, npt.NDArray[Any] | None]) -> None:
        for name, array in arrays.items():
            if array is not None:
                self._alive.append(array)
                setattr(into, name, array.ctypes.data)


def _limit(method: Method) -> int:
    """Quotients of the vector methods are proved to lie within 31 bits, so limits beyond them say nothing."""
    return (1 << 31) - 1 if method in (Method.NARROW, Method.HIGH, Method.FILTERED) else (1 << 63) - 1
