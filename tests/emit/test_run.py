"""Emitted projects, compiled and run: every op equal to the oracle."""

from __future__ import annotations

import pytest

from hwq.emit import Folding, emit
from hwq.emit.kernels import KERNELS
from hwq.emit.rescale import scaling
from hwq.fixed import ChannelFormat, FixedType, LiteralFormat, ShiftFormat
from hwq.ir import Op, Requantize, ops
from hwq.simulate.oracle import run_oracle
from tests.emit.conftest import Maker, Runner, assert_equal, every_op
from tests.graphs import random_pixels


def test_every_op_class_has_a_kernel() -> None:
    found = {c for c in vars(ops).values() if isinstance(c, type) and issubclass(c, Op) and c is not Op}
    assert set(KERNELS) == found


def test_the_hand_made_graph_holds_every_op_class() -> None:
    assert {type(op) for op in every_op()} == set(KERNELS)


@pytest.mark.parametrize("build", ["ap", "native"])
def test_every_op(runner: Runner, build: str) -> None:
    graph = every_op()
    pixels = random_pixels(graph, 4, 0)
    got = runner.run(emit(graph), graph, pixels, build)
    assert_equal(got, run_oracle(graph, pixels), [op.name for op in graph])


_FOLDINGS = [
    {"stem": (8, 3), "dw": (4, 1), "pair": (4, 2), "main": (2, 6), "down": (12, 1), "fc": (5, 6)},
    {"stem": (1, 1), "dw": (1, 1), "pair": (12, 4), "main": (8, 12), "down": (3, 8), "fc": (2, 36)},
    # PE 4 of 'pair' spans no group, 12 both; 10 outputs of fc by 1
    {"stem": (2, 3), "dw": (8, 1), "pair": (3, 1), "main": (4, 4), "down": (6, 2), "fc": (1, 4)},
]


@pytest.mark.parametrize(("build", "number"), [("folded", 0), ("folded", 1), ("folded", 2), ("ap", 1)])
def test_any_folding_gives_the_same_bits(runner: Runner, number: int, build: str) -> None:
    graph = every_op()
    pixels = random_pixels(graph, 3, 1)
    folding = {name: Folding(*pair) for name, pair in _FOLDINGS[number].items()}
    got = runner.run(emit(graph, folding=folding), graph, pixels, build)
    assert_equal(got, run_oracle(graph, pixels), [op.name for op in graph])


@pytest.mark.parametrize("build", ["ap", "native"])
def test_constants_of_every_format(runner: Runner, build: str) -> None:
    """Per-channel binary points, shifts, negative I, I > W, and sums past 64 bits."""
    m = Maker((3, 4, 5))
    x = m.requant("channel", m.input, form=ChannelFormat(12))
    x = m.requant("shift", x, m.input, form=ShiftFormat())
    x = m.requant("small", x, form=LiteralFormat(FixedType(width=8, integer=1)))
    x = m.requant("large", x, form=LiteralFormat(FixedType(width=4, integer=7)))
    x = m.requant("wide", x, form=LiteralFormat(FixedType(width=64, integer=10)))
    m.requant("widest", x, x, x, form=ChannelFormat(60))
    graph = m.finish()
    pixels = random_pixels(graph, 5, 2)
    got = runner.run(emit(graph), graph, pixels, build)
    assert_equal(got, run_oracle(graph, pixels), [op.name for op in graph])


def test_threads_never_mix(runner: Runner) -> None:
    """Taps and streams belong to the calling thread."""
    import concurrent.futures

    graph = every_op()
    project = emit(graph)
    pixels = [random_pixels(graph, 3, seed) for seed in range(6)]
    place = runner.folder / "threads"
    project.write(place)
    path = runner.compile(place, "native", "sim/bridge.cpp", "firmware/net_top.cpp")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda p: runner.call(path, graph, p), pixels * 5))
    for got, given in zip(found, pixels * 5, strict=True):
        want = run_oracle(graph, given)
        assert_equal(got, want, [op.name for op in graph])


def test_channels_with_points_of_their_own_are_in_the_graph() -> None:
    """The formats test does reach sums with a binary point of each channel."""
    m = Maker((3, 4, 5))
    m.requant("widest", m.input, form=ChannelFormat(60))
    graph = m.finish()
    op = graph["widest"]
    assert isinstance(op, Requantize)
    assert scaling(op.requant, graph.input_bounds(op), op.name).own
