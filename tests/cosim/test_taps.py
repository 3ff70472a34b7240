"""Tap buffers of random graphs: a library that plays back recorded taps must compare equal."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from hwq.cosim.build import Build, build
from hwq.cosim.compare import compare, new_verdict
from hwq.cosim.session import cosimulate
from hwq.cosim.taps import TapPlan, tap_dtype
from hwq.cosim.trace import TraceFile
from hwq.errors import InputError
from hwq.fixed import IntType
from hwq.ir import TensorSpec
from hwq.simulate import Simulator, run_oracle
from tests.cosim.stub import passing_graph
from tests.graphs import random_pixels, seeded_graph

PLAYER = r"""
#include <cstdint>
#include <cstdio>
extern "C" int hwq_abi(void) { return 1; }
extern "C" int hwq_run(const uint8_t*, int64_t count, void* const* taps) {
  static FILE* file = fopen("PATH", "rb");
  static const long sizes[] = {SIZES};
  for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; ++i)
    if (fread(taps[i], sizes[i], count, file) != (size_t)count) return 1;
  return 0;
}
"""


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("s1", "int8"), ("u1", "uint8"), ("s8", "int8"), ("u8", "uint8"), ("s9", "int16"), ("u9", "uint16"),
        ("u16", "uint16"), ("s16", "int16"), ("s17", "int32"), ("u17", "uint32"), ("u32", "uint32"),
        ("s33", "int64"), ("u33", "int64"), ("u63", "int64"), ("s64", "int64"),
    ],
)  # fmt: skip
def test_tap_dtype(kind: str, dtype: str) -> None:
    spec = TensorSpec(shape=(1,), type=IntType(bits=int(kind[1:]), signed=kind[0] == "s"))
    assert tap_dtype(spec) == np.dtype(dtype)


@pytest.mark.parametrize("kind", [("u", 64), ("s", 65)])
def test_too_wide(kind: tuple[str, int]) -> None:
    spec = TensorSpec(shape=(1,), type=IntType(bits=kind[1], signed=kind[0] == "s"))
    with pytest.raises(InputError, match="do not fit 64 bits"):
        tap_dtype(spec)


@pytest.mark.parametrize("seed", range(4))
def test_playback(tmp_path: Path, seed: int) -> None:
    graph = seeded_graph(seed)
    plan = TapPlan.of(graph)
    pixels = random_pixels(graph, 5, seed)
    values = run_oracle(graph, pixels)
    with (tmp_path / "taps").open("wb") as file:
        for first, end in ((0, 2), (2, 4), (4, 5)):
            for tap in plan.taps:
                file.write(values[tap.op][first:end].astype(tap.dtype).tobytes())
    sizes = ", ".join(str(tap.nbytes) for tap in plan.taps)
    text = PLAYER.replace("SIZES", sizes).replace("PATH", str(tmp_path / "taps"))
    (tmp_path / "player.cpp").write_text(text)
    names = ["player.cpp"]
    built = build(tmp_path, Build.AP, files=names, sources=names, includes=["."])
    simulator = Simulator(graph, threads=1)
    trace = TraceFile(tmp_path / "trace.npz", plan, len(pixels))
    outcome = cosimulate(
        graph,
        built.library,
        pixels,
        lambda images: simulator.run(images, keep="all").outputs,
        batch=2,
        sink=trace,
    )
    assert outcome.verdict.mismatches == 0
    assert outcome.verdict.values == 5 * sum(op.out.size for op in graph)
    trace.write()
    with np.load(tmp_path / "trace.npz") as stored:
        assert sorted(stored) == sorted(graph.by_name)
        for op in graph:
            assert np.array_equal(stored[op.name], values[op.name])


def test_every_wrong_value_is_counted() -> None:
    graph = seeded_graph(3)
    pixels = random_pixels(graph, 4, 3)
    values = run_oracle(graph, pixels)
    rng = np.random.default_rng(0)
    verdict = new_verdict(TapPlan.of(graph))
    wrong = {}
    for op in graph:
        got = values[op.name].copy()
        flips = rng.random(got.shape) < 0.1
        got[flips] += 1
        wrong[op.name] = (int(flips.sum()), np.argwhere(flips))
        compare(verdict_of_one := new_verdict(TapPlan.of(graph)), values, {**values, op.name: got}, 100)
        row = next(row for row in verdict_of_one.rows if row.op == op.name)
        assert row.mismatches == verdict_of_one.mismatches == wrong[op.name][0]
        if row.first:
            first = tuple(int(i) for i in wrong[op.name][1][0])
            assert row.first.index == (100 + first[0], *first[1:])
    assert verdict.values == 0


def test_trace_too_large(tmp_path: Path) -> None:
    plan = TapPlan.of(passing_graph())
    with pytest.raises(InputError, match=r"a trace of .* images takes .* MiB; --images \d+ would fit"):
        TraceFile(tmp_path / "t.npz", plan, 1 << 28)


def test_trace_of_hostile_names(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    trace = TraceFile(path, TapPlan.of(passing_graph()), 1)
    trace._arrays = {"file": np.ones(1), 'a"; system("x")': np.ones(2)}
    trace.write()
    assert len(zipfile.ZipFile(path).namelist()) == 2
