"""Every way the engine's C++ can be compiled on this machine, and graphs of one layer at a time."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hwq.engine import CpuPath, Engine, Method
from hwq.engine.library import _NEEDS, _cpu_flags
from hwq.engine.methods import ALL
from hwq.fixed import AutoFormat, Constants, IntType, Rounding
from hwq.ir import (
    Conv2d,
    Graph,
    Input,
    Op,
    Output,
    Padding,
    Requant,
    Requantize,
    TensorSpec,
    accumulator_type,
    pooled_size,
    verify,
)
from hwq.simulate import run_oracle, storage_dtype

U8 = IntType(bits=8, signed=False)
STRICT = ("-Wall", "-Wextra", "-Wshadow", "-Werror")


def simde() -> tuple[str, ...] | None:
    """The flags that find SIMDe, AVX-512 in software: in $HWQ_SIMDE, or where the compiler looks anyway."""
    named = os.environ.get("HWQ_SIMDE")
    if named and (Path(named) / "simde/x86/avx512.h").is_file():
        return ("-isystem", named)
    # the compiler looks there by itself, and must not be told to look there first
    found = any(
        Path(folder, "simde/x86/avx512.h").is_file() for folder in ("/usr/include", "/usr/local/include")
    )
    return () if found else None


@dataclass(frozen=True)
class Variant:
    """A CPU path as it is compiled for a test."""

    path: CpuPath
    flags: tuple[str, ...] = ()

    def engine(self, graph: Graph, threads: int = 1, methods: frozenset[Method] = ALL) -> Engine:
        return Engine(graph, threads, self.path, methods, self.flags)


def variant(name: str) -> Variant:
    """The variant, or a skip that says what is missing."""
    if name == "plain":  # what a CPU that is not x86 gets
        return Variant(CpuPath.PORTABLE, ("-O1", *STRICT, "-DHWQ_ENGINE_PLAIN"))
    if name == "emulated":
        include = simde()
        if include is None:
            pytest.skip("no SIMDe (Debian: apt-get install libsimde-dev, or set HWQ_SIMDE)")
        off = ("-mno-avx512f", "-mno-avx512bw", "-mno-avx512vl", "-mno-avx512vnni")
        return Variant(CpuPath.VNNI, ("-O1", *off, "-DHWQ_ENGINE_SIMDE", *include))
    path = CpuPath(name)
    if not _NEEDS.get(path, set()) <= _cpu_flags():
        pytest.skip(f"this CPU has no {name}")
    return Variant(path)


VARIANTS = ("avx2", "portable", "plain", "vnni", "emulated")


@pytest.fixture(params=VARIANTS)
def compiled(request: pytest.FixtureRequest) -> Variant:
    return variant(request.param)


Codes = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Case:
    """A graph, images, and what the oracle says of every op: made once for all variants."""

    graph: Graph
    pixels: npt.NDArray[np.uint8]
    expected: Codes

    @staticmethod
    def of(graph: Graph, pixels: npt.NDArray[np.uint8]) -> Case:
        return Case(graph, pixels, run_oracle(graph, pixels))


def assert_same(
    engine: Engine, pixels: npt.NDArray[np.uint8], expected: Codes | None = None, **options: Any
) -> None:
    """Every op against the oracle, with all outputs kept; then the logits with nothing else kept."""
    if expected is None:
        expected = run_oracle(engine.graph, pixels)
    got = engine.run(pixels, keep="all", **options)
    for op in engine.graph:
        ours, theirs = got.outputs[op.name], expected[op.name]
        assert ours.dtype == storage_dtype(op.out.type)
        assert ours.shape == (len(pixels), *op.out.shape)
        assert np.array_equal(ours.astype(object), theirs.astype(object)), (op.name, engine.choices[op.name])
    fused = engine.run(pixels, **options)
    assert set(fused.outputs) == {engine.graph.output.name}
    assert np.array_equal(fused.logits, got.logits), "fused sums differ"
    assert np.array_equal(fused.predictions, got.logits.argmax(axis=1))


# -- graphs of a few ops
def pixels_input(shape: tuple[int, int, int]) -> Input:
    return Input(name="pixels", inputs=(), out=TensorSpec(shape=shape, type=U8, scale=1.0))


def constants(width: int, raw: list[int], fraction: list[int]) -> Constants:
    """raw * 2^-fraction each."""
    integer = width - np.array(fraction, np.int64)
    return Constants(width=width, raw=np.array(raw, np.int64), integer=integer, format_name="test")


def requantize(
    name: str,
    inputs: list[Op],
    kind: IntType,
    terms: list[Constants],
    bias: Constants,
    rounding: Rounding = Rounding.RND,
    limits: tuple[int, int] | None = None,
) -> Requantize:
    lo, hi = limits or (kind.lo, kind.hi)
    r = Requant(terms=tuple(terms), bias=bias, out=kind, lo=lo, hi=hi, rounding=rounding)
    spec = TensorSpec(shape=inputs[0].out.shape, type=kind, scale=1.0)
    return Requantize(name=name, inputs=tuple(op.name for op in inputs), out=spec, requant=r)


def spread(name: str, op: Op, kind: IntType) -> Requantize:
    """Pixels 0 .. 255 onto all of a type: 0 becomes its lowest code, 255 its highest."""
    form = AutoFormat(40)
    m = form.quantize(np.array([(kind.hi - kind.lo) / 255]), bias=False)
    return requantize(name, [op], kind, [m], form.quantize(np.array([float(kind.lo)]), bias=True))


def convolution(name: str, op: Op, weight: npt.NDArray[Any], **geometry: Any) -> Conv2d:
    """weight (O, KH, KW, C / groups); geometry: stride and dilation pairs, padding and groups."""
    pairs = {key: geometry.get(key, default) for key, default in PAIRS.items()}
    size = pooled_size(
        op.out.shape[:2], weight.shape[1:3], pairs["stride"], pairs["padding"], pairs["dilation"]
    )
    bits = IntType(bits=max(2, int(np.abs(weight).max()).bit_length() + 1), signed=True)
    return Conv2d(
        name=name,
        inputs=(op.name,),
        out=TensorSpec(shape=(*size, weight.shape[0]), type=accumulator_type(weight, op.out.type)),
        weight=weight.astype(np.int64),
        weight_type=bits,
        groups=geometry.get("groups", 1),
        **pairs,
    )


PAIRS: dict[str, Any] = {"stride": (1, 1), "padding": Padding(), "dilation": (1, 1)}


def finish(*ops: Op) -> Graph:
    """The ops and an Output, verified."""
    last = Output(name="out", inputs=(ops[-1].name,), out=ops[-1].out)
    graph = Graph(name="layers", ops=(*ops, last))
    verify(graph)
    return graph


def extreme_pixels(graph: Graph, count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """All black, all white, both by turns, then noise."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (max(count, 3), *graph.input.out.shape), dtype=np.uint8)
    pixels[0], pixels[1] = 0, 255
    pixels[2] = rng.choice([0, 255], pixels[2].shape)
    return pixels[:count]
