"""Hand-made graphs, and a compiler for the projects they become."""

from __future__ import annotations

import ctypes
import itertools
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hwq.cosim.toolchain import find_headers
from hwq.emit import Project
from hwq.emit.tables import ctype
from hwq.fixed import AutoFormat, ConstantFormat, IntType
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
    Padding,
    Requant,
    Requantize,
    SumPool,
    TensorSpec,
    accumulator_type,
    pooled_size,
    verify,
)

U8 = IntType(bits=8, signed=False)
S8 = IntType(bits=8, signed=True)
FLAGS = {
    "ap": ("-O1",),
    "native": ("-O1", "-DHWQ_NATIVE=1"),
    "folded": ("-O1", "-DHWQ_NATIVE=1", "-DHWQ_FOLDED=1"),  # native types, the hardware's schedule
}


class Maker:
    """Builds a graph by hand, op by op."""

    def __init__(self, shape: tuple[int, int, int], seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.ops: list[Op] = []
        self.input = self.add(
            Input(name="pixels", inputs=(), out=TensorSpec(shape=shape, type=U8, scale=1.0))
        )

    def add(self, op: Op) -> Op:
        self.ops.append(op)
        return op

    def conv(self, name: str, x: Op, outs: int, kernel: int, *, groups: int = 1, stride: int = 1) -> Op:
        h, w, c = x.out.shape
        weight = self.rng.integers(-7, 8, (outs, kernel, kernel, c // groups))
        padding = Padding.even(kernel // 2, kernel // 2)
        size = pooled_size((h, w), (kernel, kernel), (stride, stride), padding)
        return self.add(
            Conv2d(
                name=name,
                inputs=(x.name,),
                out=TensorSpec(shape=(*size, outs), type=accumulator_type(weight, x.out.type)),
                weight=weight,
                weight_type=S8,
                stride=(stride, stride),
                padding=padding,
                groups=groups,
            )
        )

    def requant(self, name: str, *inputs: Op, form: ConstantFormat | None = None, kind: IntType = S8) -> Op:
        form, c = form or AutoFormat(16), inputs[0].out.channels
        terms = tuple(
            form.quantize(self.rng.uniform(0.2, 1, c) * 64 / x.out.type.hi, bias=False) for x in inputs
        )
        bias = form.quantize(self.rng.uniform(-9, 9, c), bias=True)
        made = Requant(terms=terms, bias=bias, out=kind, lo=kind.lo, hi=kind.hi)
        spec = TensorSpec(shape=inputs[0].out.shape, type=kind, scale=1.0)
        return self.add(Requantize(name=name, inputs=tuple(x.name for x in inputs), out=spec, requant=made))

    def pool(self, kind: type[MaxPool] | type[SumPool], name: str, x: Op, kernel: int, stride: int) -> Op:
        h, w, c = x.out.shape
        size = pooled_size((h, w), (kernel, kernel), (stride, stride), Padding())
        spec = TensorSpec(shape=(*size, c), type=x.out.type, scale=x.out.scale)
        if kind is SumPool:
            bits = x.out.type.bits + (kernel * kernel).bit_length()
            spec = TensorSpec(shape=(*size, c), type=IntType(bits=bits, signed=x.out.type.signed))
        pairs = {"kernel": (kernel, kernel), "stride": (stride, stride)}
        return self.add(kind(name=name, inputs=(x.name,), out=spec, **pairs))

    def linear(self, name: str, x: Op, outs: int) -> Op:
        flat = self.add(
            Flatten(
                name=f"{name}.flat",
                inputs=(x.name,),
                out=TensorSpec(shape=(x.out.size,), type=x.out.type, scale=x.out.scale),
            )
        )
        weight = self.rng.integers(-7, 8, (outs, x.out.size))
        spec = TensorSpec(shape=(outs,), type=accumulator_type(weight, x.out.type))
        return self.add(Linear(name=name, inputs=(flat.name,), out=spec, weight=weight, weight_type=S8))

    def finish(self, name: str = "net") -> Graph:
        last = self.ops[-1]
        self.add(Output(name="out", inputs=(last.name,), out=last.out))
        graph = Graph(name=name, ops=tuple(self.ops))
        verify(graph)
        return graph


def every_op(name: str = "net") -> Graph:
    """Each op class; dense, depthwise and grouped convolutions; a residual block."""
    m = Maker((6, 5, 3))
    x = m.requant("norm", m.input)
    x = m.requant("stem.act", m.conv("stem", x, 8, 3))
    trunk = x
    x = m.requant("dw.act", m.conv("dw", x, 8, 3, groups=8))
    x = m.requant("pair.act", m.conv("pair", x, 12, 3, groups=2))
    a = m.conv("main", x, 8, 3)
    x = m.requant("sum", a, trunk, kind=U8)
    sub = m.pool(MaxPool, "sub", x, 1, 2)
    spec = TensorSpec(shape=(*sub.out.shape[:2], 12), type=sub.out.type, scale=1.0)
    wide = m.add(Pad(name="wide", inputs=("sub",), out=spec, before=2, after=2))
    b = m.requant("down.act", m.conv("down", x, 12, 3, stride=2), kind=U8)
    spec = TensorSpec(shape=(*spec.shape[:2], 36), type=U8, scale=1.0)
    x = m.add(Concat(name="cat", inputs=(b.name, wide.name, b.name), out=spec))
    x = m.requant("pooled", m.pool(SumPool, "pool", x, 2, 1))
    m.requant("logits", m.linear("fc", x, 10), kind=IntType(bits=16, signed=True))
    return m.finish(name)


def residual(length: int = 2) -> Graph:
    """A chain of 3x3 convolutions beside a wire."""
    m = Maker((7, 6, 2))
    x = trunk = m.requant("norm", m.input)
    for i in range(length):
        x = m.requant(f"act{i}", m.conv(f"conv{i}", x, 2, 3))
    m.requant("sum", x, trunk)
    return m.finish()


class Runner:
    """Compiles projects under a folder and runs them in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = itertools.count()

    def compile(self, project: Path, build: str, *sources: str, shared: bool = True) -> Path:
        target = self.folder / f"built{next(self._count)}"  # never one path twice: the loader remembers it
        shape = ("-fPIC", "-shared", "-fno-gnu-unique") if shared else ()
        includes = ("-Ifirmware", "-Ihls", "-Isim", "-isystem", str(find_headers().folder))
        command = ["g++", "-std=c++11", *FLAGS[build], *shape, *includes, *sources, "-o", str(target)]
        subprocess.run(command, cwd=project, check=True, capture_output=True)
        return target

    def run(
        self, project: Project, graph: Graph, pixels: npt.NDArray[np.uint8], build: str
    ) -> dict[str, npt.NDArray[Any]]:
        """Every op's codes, (n, *shape)."""
        place = self.folder / f"project{next(self._count)}"
        project.write(place)
        (top,) = (n for n in project.files if n.startswith("firmware/") and n.endswith("_top.cpp"))
        return self.call(self.compile(place, build, "sim/bridge.cpp", top), graph, pixels)

    def call(self, path: Path, graph: Graph, pixels: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        library = ctypes.CDLL(str(path))
        library.hwq_run.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
        assert library.hwq_abi() == 1
        codes = {op.name: np.full((len(pixels), *op.out.shape), 99, ctype(op.out.type)) for op in graph}
        taps = (ctypes.c_void_p * len(codes))(*[array.ctypes.data for array in codes.values()])
        pixels = np.ascontiguousarray(pixels)
        assert library.hwq_run(pixels.ctypes.data, len(pixels), taps) == 0
        return codes


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


def assert_equal(
    got: dict[str, npt.NDArray[Any]], want: dict[str, npt.NDArray[Any]], names: Sequence[str]
) -> None:
    for name in names:
        np.testing.assert_array_equal(got[name], want[name].reshape(got[name].shape), err_msg=name)


MakeGraph = Callable[[], Graph]
