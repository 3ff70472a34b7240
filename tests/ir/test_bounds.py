"""Bounds of channels: no integer exceeds them, a layer by itself reaches them, no graph can claim others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwq.errors import VerifyError
from hwq.fixed import AutoFormat, IntType
from hwq.ir import (
    Bound,
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
    output_bound,
    sum_type,
    verify,
    weighted,
)
from hwq.passes import run_passes
from hwq.simulate.oracle import ORACLE, run_oracle
from tests.graphs import graphs, random_pixels

U8, S8 = IntType(bits=8, signed=False), IntType(bits=8, signed=True)


def _bound(*values: int) -> Bound:
    return np.array(values, dtype=object)


def _conv(weight: npt.NDArray[np.int64], size: tuple[int, int], groups: int = 1) -> Conv2d:
    """One output position: the kernel covers the map."""
    out = TensorSpec(shape=(1, 1, len(weight)), type=IntType(bits=62, signed=True))
    assert weight.shape[1:3] == size
    kind = IntType(bits=16, signed=True)
    return Conv2d(name="c", inputs=("x",), out=out, weight=weight, weight_type=kind, groups=groups)


# -- what is proved holds ------------------------------------------------------------------------


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs(), st.integers(0, 2**32 - 1))
def test_no_channel_of_a_random_graph_exceeds_its_bound(graph: Graph, seed: int) -> None:
    ends = random_pixels(graph, 3, seed)
    pixels = np.concatenate([ends, (ends > 127).astype(np.uint8) * 255])  # extremes are met oftener
    outputs = run_oracle(graph, pixels)
    for op in graph:
        bound = graph.bounds[op.name]
        assert bound.shape == (op.out.channels,)
        seen = np.abs(outputs[op.name].astype(object)).reshape(-1, op.out.channels).max(axis=0)
        assert (seen <= bound).all(), op.name
        assert int(bound.max()) <= max(op.out.type.hi, 1)


# -- and is reached ------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_convolution_reaches_its_bound_in_every_channel(data: st.DataObject) -> None:
    """x = +-bound with the signs of the weights gives exactly sum|w| * bound, and its negative."""
    groups, outs, taken = (data.draw(st.integers(1, 3)) for _ in range(3))
    size = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    weight = rng.integers(-127, 128, (groups * outs, *size, taken))
    bound = rng.integers(0, 1 << data.draw(st.integers(0, 31)), groups * taken, endpoint=True)
    bound = np.where(rng.random(bound.size) < 0.2, 0, bound).astype(object)
    op = _conv(weight, size, groups)
    wanted = output_bound(op, [bound])
    for o in range(groups * outs):
        first = o // outs * taken
        x = np.zeros((1, *size, groups * taken), np.int64)
        x[0, :, :, first : first + taken] = np.sign(weight[o]) * bound[first : first + taken]
        for sign in (1, -1):
            assert int(ORACLE[Conv2d](op, [sign * x])[0, 0, 0, o]) == sign * wanted[o]


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_a_linear_layer_after_flatten_reaches_its_bound(h: int, w: int, c: int, seed: int) -> None:
    """Each position has the bound of its own channel."""
    rng = np.random.default_rng(seed)
    bound = rng.integers(0, 300, c).astype(object)
    weight = rng.integers(-127, 128, (4, h * w * c))
    spec = TensorSpec(shape=(h * w * c,), type=S8, scale=1.0)
    flat = output_bound(Flatten(name="f", inputs=("x",), out=spec), [bound])
    kind = IntType(bits=40, signed=True)
    op = Linear(name="l", inputs=("f",), out=TensorSpec(shape=(4,), type=kind), weight=weight, weight_type=S8)
    reached = output_bound(op, [flat])
    largest = np.broadcast_to(bound, (h, w, c)).reshape(-1)
    for o in range(4):
        x = (np.sign(weight[o]) * largest).astype(np.int64)[None]
        assert int(ORACLE[Linear](op, [x])[0, o]) == reached[o]


def test_sums_beyond_64_bits_are_exact() -> None:
    weight = np.full((1, 1, 1, 3), (1 << 32) - 1, np.int64)
    assert weighted(weight, _bound(1 << 40, 1, 0)).tolist() == [((1 << 32) - 1) * ((1 << 40) + 1)]
    assert weighted(weight, _bound(1 << 40)).tolist() == [3 * ((1 << 32) - 1) << 40]


# -- op by op ------------------------------------------------------------------------------------

A_MAP = TensorSpec(shape=(2, 2, 2), type=S8, scale=1.0)


def _requantize(lo: int, hi: int) -> Requantize:
    one = AutoFormat(16).quantize(np.ones(1), bias=False)
    requant = Requant(terms=(one,), bias=one, out=S8, lo=lo, hi=hi)
    return Requantize(name="r", inputs=("x",), out=A_MAP, requant=requant)


TABLE: list[tuple[Op, list[Bound], list[int]]] = [
    (Input(name="i", inputs=(), out=replace(A_MAP, type=U8)), [], [255, 255]),
    (_requantize(-127, 127), [_bound(9, 9)], [127, 127]),
    (_requantize(0, 6), [_bound(9, 9)], [6, 6]),
    (_requantize(-5, 3), [_bound(9, 9)], [5, 5]),
    (_requantize(-7, -7), [_bound(9, 9)], [7, 7]),
    (MaxPool(name="m", inputs=("x",), out=A_MAP, kernel=(2, 2), stride=(1, 1)), [_bound(3, 0)], [3, 0]),
    (SumPool(name="s", inputs=("x",), out=A_MAP, kernel=(3, 2), stride=(1, 1)), [_bound(3, 0)], [18, 0]),
    (Pad(name="p", inputs=("x",), out=A_MAP, before=1, after=2), [_bound(3, 4)], [0, 3, 4, 0, 0]),
    (Pad(name="q", inputs=("x",), out=A_MAP, padding=Padding(top=1, right=2)), [_bound(3, 4)], [3, 4]),
    (Concat(name="j", inputs=("x", "y"), out=A_MAP), [_bound(3), _bound(4, 5)], [3, 4, 5]),
    (
        Flatten(name="f", inputs=("x",), out=TensorSpec(shape=(6,), type=S8)),
        [_bound(3, 4)],
        [3, 4, 3, 4, 3, 4],
    ),
    (Output(name="o", inputs=("x",), out=A_MAP), [_bound(3, 4)], [3, 4]),
]


@pytest.mark.parametrize(("op", "inputs", "wanted"), TABLE, ids=lambda v: getattr(v, "name", None))
def test_bounds_by_hand(op: Op, inputs: list[Bound], wanted: list[int]) -> None:
    assert output_bound(op, inputs).tolist() == wanted


@pytest.mark.parametrize(
    ("bound", "signed", "bits"),
    [
        *((0, True, 2), (1, True, 2), (2, True, 3), (127, True, 8), (128, True, 9)),
        *((0, False, 1), (1, False, 1), (255, False, 8), (256, False, 9)),
    ],
)
def test_the_narrowest_type(bound: int, signed: bool, bits: int) -> None:
    assert sum_type(_bound(0, bound), signed=signed) == IntType(bits=bits, signed=signed)


# -- no graph can claim others -------------------------------------------------------------------


def _graph(weight: int, acc: IntType, hi: int) -> Graph:
    """pixels -> codes 0..hi -> one 1x1 convolution -> codes."""
    shape = (1, 1, 1)
    pixels = Input(name="pixels", inputs=(), out=TensorSpec(shape=shape, type=U8, scale=1.0))
    one = AutoFormat(16).quantize(np.ones(1), bias=False)
    zero = AutoFormat(16).quantize(np.zeros(1), bias=True)
    codes = Requantize(
        name="codes",
        inputs=("pixels",),
        out=TensorSpec(shape=shape, type=U8, scale=1.0),
        requant=Requant(terms=(one,), bias=zero, out=U8, lo=0, hi=hi),
    )
    conv = Conv2d(
        name="conv",
        inputs=("codes",),
        out=TensorSpec(shape=shape, type=acc),
        weight=np.full((1, 1, 1, 1), weight),
        weight_type=S8,
    )
    end = Requantize(
        name="end",
        inputs=("conv",),
        out=TensorSpec(shape=shape, type=S8, scale=1.0),
        requant=Requant(terms=(one,), bias=zero, out=S8, lo=-127, hi=127),
    )
    out = Output(name="out", inputs=("end",), out=end.out)
    return Graph(name="g", ops=(pixels, codes, conv, end, out))


def test_limits_narrow_the_accumulator_and_an_edit_of_them_is_refused() -> None:
    """100 * 10 has 10 bits and a sign; the whole of u8 would want 16."""
    verify(_graph(100, IntType(bits=11, signed=True), hi=10))
    with pytest.raises(VerifyError, match=r"conv.*accumulator s11 cannot hold every sum, s12 can"):
        verify(_graph(100, IntType(bits=11, signed=True), hi=11))
    with pytest.raises(VerifyError, match=r"conv.*accumulator s11 cannot hold every sum, s12 can"):
        verify(_graph(103, IntType(bits=11, signed=True), hi=10))
    assert accumulator_type(np.full((1, 1), 100), U8).bits == 16


def test_passes_and_sums_use_them() -> None:
    wide = _graph(100, IntType(bits=30, signed=True), hi=10)
    made: Any = run_passes(wide)
    graph = made if isinstance(made, Graph) else made.graph
    assert graph["conv"].out.type == IntType(bits=11, signed=True)
    end = wide["end"]
    assert isinstance(end, Requantize)
    # M = 1 as 2^14 * 2^-14: 1000 * 2^14 + half a code
    assert wide.sum_bits(end) == ((1000 << 14) + (1 << 13)).bit_length() + 1
