"""The emitted kernels on FIFOs of the emitted depths: no deadlock, the same codes; with less, a deadlock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from hwq.emit import Folding, emit, parse_fold
from hwq.emit.fifo import SMALLEST
from hwq.fixed import IntType
from hwq.ir import Concat, Flatten, Graph, MaxPool, Op, Pad, Padding, SumPool, TensorSpec
from hwq.simulate.oracle import run_oracle
from tests.emit.bounded import Bounded
from tests.emit.conftest import Maker, assert_equal, every_op, residual
from tests.graphs import SeededSource, random_folding, random_pixels, seeded_graph

IMAGES = 4


def _concat(m: Maker, name: str, *inputs: Op) -> Op:
    first = inputs[0].out
    channels = sum(x.out.channels for x in inputs)
    spec = TensorSpec(shape=(*first.shape[:-1], channels), type=first.type, scale=1.0)
    return m.add(Concat(name=name, inputs=tuple(x.name for x in inputs), out=spec))


def _identity() -> Graph:
    """Two 3x3 convolutions beside a wire, wider inside."""
    m = Maker((7, 6, 4))
    trunk = m.requant("norm", m.input)
    x = m.requant("act", m.conv("first", trunk, 12, 3))
    m.requant("sum", m.conv("second", x, 4, 3), trunk)
    return m.finish()


def _option_a() -> Graph:
    """Stride 2, the shortcut subsampled and padded with channels of zero."""
    m = Maker((6, 28, 4))
    trunk = m.requant("norm", m.input)
    x = m.requant("act", m.conv("first", trunk, 8, 3, stride=2))
    x = m.conv("second", x, 8, 3)
    sub = m.pool(MaxPool, "sub", trunk, 1, 2)
    spec = TensorSpec(shape=(*sub.out.shape[:2], 8), type=sub.out.type, scale=1.0)
    wide = m.add(Pad(name="wide", inputs=("sub",), out=spec, before=2, after=2))
    m.requant("sum", x, wide)
    return m.finish()


def _projection() -> Graph:
    """Stride 2, the shortcut a 1x1 convolution; then a second block."""
    m = Maker((6, 28, 4))
    trunk = m.requant("norm", m.input)
    x = m.requant("act", m.conv("first", trunk, 8, 3, stride=2))
    x = m.requant("sum", m.conv("second", x, 8, 3), m.conv("short", trunk, 8, 1, stride=2))
    y = m.requant("act2", m.conv("third", x, 8, 3))
    m.requant("sum2", m.conv("fourth", y, 8, 3), x)
    return m.finish()


def _branches() -> Graph:
    """Five branches of different lags into one concatenation, the trunk among them."""
    m = Maker((6, 6, 4))
    trunk = m.requant("norm", m.input)
    wire = m.requant("wire", m.conv("one", trunk, 4, 1))
    slow = m.requant("slow1", m.conv("three", trunk, 8, 3))
    slow = m.requant("slow2", m.conv("five", slow, 4, 5))
    side = m.requant("side", m.conv("other", trunk, 6, 3))
    x = _concat(m, "cat", slow, wire, side, trunk, wire)
    m.requant("logits", m.linear("fc", x, 5), kind=IntType(bits=16, signed=True))
    return m.finish()


def _vectors() -> Graph:
    """Residuals and concatenations behind a flatten; words may span pixels there."""
    m = Maker((3, 3, 4))
    x = m.requant("norm", m.input)
    left = m.requant("left", m.linear("fc1", x, 12))
    right = m.requant("right", m.linear("fc2", x, 12))
    both = m.requant("both", left, right)
    flat = m.add(
        Flatten(
            name="flat", inputs=("norm",), out=TensorSpec(shape=(x.out.size,), type=x.out.type, scale=1.0)
        )
    )
    long = m.requant("long", m.requant("fc3.act", m.linear("fc3", x, x.out.size)), flat)
    m.requant("last", _concat(m, "cat", both, long, left))
    return m.finish()


def _pad(m: Maker, name: str, x: Op, padding: Padding, before: int = 0, after: int = 0) -> Op:
    h, w, c = x.out.shape
    shape = (*padding.padded((h, w)), before + c + after)
    spec = TensorSpec(shape=shape, type=x.out.type, scale=x.out.scale)
    made = Pad(name=name, inputs=(x.name,), out=spec, padding=padding, before=before, after=after)
    return m.add(made)


def _zeros() -> Graph:
    """Zeros below on the way to a convolution, above beside it, in front of a pool, and last."""
    m = Maker((5, 9, 4))
    trunk = m.requant("norm", m.input)
    ahead = _pad(m, "ahead", trunk, Padding(bottom=2, right=3))
    left = m.requant("left", m.conv("conv", ahead, 8, 3))
    right = _pad(m, "behind", trunk, Padding(top=2, left=1, right=2), 1, 3)
    x = m.requant("sum", left, right)
    x = _pad(m, "before", x, Padding(left=5))
    x = m.requant("pooled", m.pool(SumPool, "pool", x, 3, 2))
    _pad(m, "last", x, Padding(top=1), 0, 2)
    return m.finish()


STRUCTURES = {
    "zeros": _zeros,
    "identity": _identity,
    "residual 1": lambda: residual(1),
    "residual 3": lambda: residual(3),
    "option A": _option_a,
    "projection": _projection,
    "branches": _branches,
    "vectors": _vectors,
    "every op": every_op,
}


def _bounded(folder: Path, graph: Graph, folding: Mapping[str, Folding] | None = None) -> Bounded:
    return Bounded(emit(graph, folding=folding), graph, folder)


def _assert_runs(bounded: Bounded) -> None:
    pixels = random_pixels(bounded.graph, IMAGES, 1)
    outcome = bounded.run(pixels)
    assert outcome.deadlock == ()
    want = run_oracle(bounded.graph, pixels)
    assert_equal(dict(outcome.codes), want, [op.name for op in bounded.graph])


@pytest.fixture(scope="module")
def structures(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bounded]:
    """Each compiled once, with the default folding."""
    return cache(lambda name: _bounded(tmp_path_factory.mktemp("bounded"), STRUCTURES[name]()))


@pytest.mark.parametrize("name", STRUCTURES)
def test_structures_never_block(structures: Callable[[str], Bounded], name: str) -> None:
    _assert_runs(structures(name))


@pytest.mark.parametrize(("name", "fold"), [("branches", "4,2"), ("vectors", "1,64"), ("every op", "4,2")])
def test_nor_when_folded(tmp_path: Path, name: str, fold: str) -> None:
    graph = STRUCTURES[name]()
    _assert_runs(_bounded(tmp_path, graph, parse_fold(graph, [fold])))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40, 80))
def test_many_random_graphs_never_block(tmp_path: Path, seed: int) -> None:
    graph = seeded_graph(seed)
    _assert_runs(_bounded(tmp_path, graph, random_folding(graph, SeededSource(seed))))


@pytest.mark.parametrize("seed", [6, 13, 29])
def test_random_graphs_never_block(tmp_path: Path, seed: int) -> None:
    graph = seeded_graph(seed)
    _assert_runs(_bounded(tmp_path, graph, random_folding(graph, SeededSource(seed))))


def _least(bounded: Bounded, name: str) -> int:
    """The smallest depth of one FIFO that ends without deadlock."""
    pixels = random_pixels(bounded.graph, 2, 1)
    low, high = 1, bounded.depths[name]
    while low < high:
        middle = (low + high) // 2
        if bounded.run(pixels, {name: middle}).deadlock:
            low = middle + 1
        else:
            high = middle
    return low


@pytest.mark.parametrize("name", ["identity", "option A", "projection", "branches", "zeros"])
def test_too_small_a_fifo_deadlocks(structures: Callable[[str], Bounded], name: str) -> None:
    bounded = structures(name)
    deep = max(bounded.depths, key=bounded.depths.__getitem__)
    outcome = bounded.run(random_pixels(bounded.graph, 1, 1), {deep: SMALLEST})
    assert any(line.startswith(f"full  {deep} (depth {SMALLEST})") for line in outcome.deadlock)
    assert any(line.startswith("empty ") for line in outcome.deadlock)


@pytest.mark.parametrize("name", ["residual 1", "residual 3", "identity"])
def test_residual_depths_are_exact(structures: Callable[[str], Bounded], name: str) -> None:
    """One word less still ends here, two deadlock.

    The sum takes a word of its first input before it waits for the second, and so holds one itself; a
    pipeline that pops both in the same cycle does not, so hardware needs that word of room.
    """
    bounded = structures(name)
    deep = max(bounded.depths, key=bounded.depths.__getitem__)
    assert _least(bounded, deep) == bounded.depths[deep] - 1


def test_images_do_not_mix(structures: Callable[[str], Bounded]) -> None:
    """The comparison sees one wrong code."""
    bounded = structures("residual 1")
    pixels = random_pixels(bounded.graph, 2, 1)
    other = pixels.copy()
    other[1, 3, 3, 0] ^= 128
    first, second = bounded.run(pixels).codes, bounded.run(other).codes
    assert not np.array_equal(first["sum"][1], second["sum"][1])
    np.testing.assert_array_equal(first["sum"][0], second["sum"][0])
