"""FILTERED: quotients of cut constants, proved or computed again; sums on the edge of both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwq.engine import CpuPath, Engine, Method, audit, best_path, pack
from hwq.engine.methods import ALL, MAX_DOUBT, Cut, choose
from hwq.engine.plan import EngineOp
from hwq.fixed import IntType, Rounding, parse_edge
from hwq.ir import Graph, Op, Requantize
from hwq.simulate import Simulator, run_oracle
from hwq.sweep import Point
from hwq.sweep.points import REAL
from tests.engine.conftest import (
    Case,
    Variant,
    assert_same,
    constants,
    extreme_pixels,
    finish,
    pixels_input,
    requantize,
)
from tests.engine.test_audit import nearby
from tests.nets import lowered_net

ONLY = ALL - {Method.HIGH, Method.NARROW}
"""Methods that leave FILTERED whatever it can take."""
ALL_PIXELS = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
FRACTIONS = (33, 40, 47, 54)
LOW_HALVES = (0, 1, -2, -1, 1 << 31)
"""Of the sum, modulo 2^32."""
FROM_DOUBT = (-2, -1, 0, 1)
"""Other lower halves, from the channel's doubt on."""
FROM_WHOLE = (-1, 0, 1)
"""Where the exact sum lies instead, from a multiple of 2^F on."""
PLACES = (0, 255, 101)
"""The pixel at which it does."""


def symmetric_codes(op: Op, most: int) -> Requantize:
    """-most .. most, both reached: the proved bound is sharp."""
    kind = IntType(bits=most.bit_length() + 1, signed=True)
    m = constants(64, [(2 * most << 24) // 255 + 1], [24])
    return requantize("codes", [op], kind, [m], constants(64, [-most], [0]), limits=(-most, most))


@dataclass(frozen=True)
class Edge:
    """Where a channel's sum is put."""

    fraction: int
    place: int
    low: int | None = None
    from_doubt: int | None = None
    from_whole: int | None = None
    spare: bool = False  # the bias's bits past 32: all set, or none


EDGES = [
    Edge(fraction, place, **target, spare=spare)
    for spare, target, fraction, place in product(
        (False, True),
        [{"low": v} for v in LOW_HALVES]
        + [{"from_doubt": v} for v in FROM_DOUBT]
        + [{"from_whole": v} for v in FROM_WHOLE],
        FRACTIONS,
        PLACES,
    )
]


def cut_of(op: Requantize, bounds: list[int]) -> Cut:
    cut = Cut.of(op, [np.full(op.out.channels, b, dtype=object) for b in bounds])
    assert cut is not None
    return cut


def edges(
    wanted: list[Edge], kind: IntType, rounding: Rounding, *, two: bool, most: int = (1 << 19) - 1
) -> Graph:
    """A requantisation whose channels meet their edges. With `two` its second term is lifted."""
    rng = np.random.default_rng(len(wanted))
    channels, pixels = len(wanted), pixels_input((16, 16, len(wanted)))
    fractions = [edge.fraction for edge in wanted]
    codes = symmetric_codes(pixels, most)

    below = rng.integers(2, size=channels)

    def multipliers(least: int, lift: int) -> list[int]:
        # what is cut is half of the last place, so that half too much remains; or one bit less: too little
        halves = [
            (int(n) * 2 + 1) << (f - 33 + lift)
            for n, f in zip(rng.integers(least, 2 * least, channels), fractions, strict=True)
        ]
        return [int(rng.choice([-1, 1])) * m - int(bit) for m, bit in zip(halves, below, strict=True)]

    terms = [constants(62, multipliers(1 << 14, 0), fractions)]
    if two:
        terms.append(constants(62, multipliers(1 << 30, 4), fractions))
    ops: list[Op] = [codes, pixels][: len(terms)]
    bounds = [most, 255][: len(terms)]

    def op(bias: list[int]) -> Requantize:
        return requantize("y", ops, kind, terms, constants(64, bias, fractions), rounding)

    bare = op([0] * channels)
    cut, a = cut_of(bare, bounds), bare.requant.alignment
    assert cut.lift == (4 if two else 0)
    x = codes_of(finish(pixels, codes, bare), ops)
    bias = []
    for c, edge in enumerate(wanted):
        at = [int(values[edge.place, c]) for values in x]
        down, half = edge.fraction - 32, int(a.half[c])
        if edge.from_whole is not None:
            total = sum(v * int(m[c]) for v, m in zip(at, a.multipliers, strict=True))
            bias.append((edge.from_whole - total) % (1 << edge.fraction) - half)
            continue
        lifted = [v << lift for v, lift in zip(at, (0, cut.lift), strict=False)]
        total = sum(v * int(m[c]) for v, m in zip(lifted, cut.multipliers, strict=True))
        low = edge.low if edge.low is not None else int(cut.doubt[c]) + int(edge.from_doubt or 0)
        kept = (low - total - int(cut.doubt[c]) // 2) % (1 << 32)
        bias.append((kept << down) + ((1 << down) - 1 if edge.spare else 0) - half)
    return finish(pixels, codes, op(bias))


def codes_of(graph: Graph, ops: list[Op]) -> list[npt.NDArray[np.object_]]:
    """What each op gives for the pixels 0 .. 255: (256, C)."""
    outputs = run_oracle(graph, shown(graph))
    return [outputs[op.name].reshape(256, -1).astype(object) for op in ops]


def shown(graph: Graph) -> npt.NDArray[np.uint8]:
    """One image with every pixel value in every channel."""
    return np.ascontiguousarray(np.broadcast_to(ALL_PIXELS, (1, *graph.input.out.shape)))


@dataclass(frozen=True)
class Sums:
    """What the vector kernel has before it looks at doubt, and the truth: (256, C) Python integers."""

    upper: npt.NDArray[Any]
    lower: npt.NDArray[Any]
    exact: npt.NDArray[Any]
    doubt: npt.NDArray[Any]

    @staticmethod
    def of(graph: Graph) -> Sums:
        y = graph["y"]
        assert isinstance(y, Requantize)
        ops = [graph[name] for name in y.inputs]
        x, a = codes_of(graph, ops), y.requant.alignment
        choice = choose(graph, ONLY, lanes=8, has_bytes=False)["y"]
        assert choice.method is Method.FILTERED
        cut = choice.cut
        assert cut is not None
        total, exact = cut.bias + 0 * x[0], a.bias + a.half + 0 * x[0]
        for values, m, whole, lift in zip(x, cut.multipliers, a.multipliers, (0, cut.lift), strict=False):
            total, exact = total + (values << lift) * m, exact + values * whole
        return Sums(
            upper=total >> 32,
            lower=total & ((1 << 32) - 1),
            exact=exact >> a.fraction.astype(object),
            doubt=cut.doubt,
        )


KINDS = [IntType(bits=8, signed=False), IntType(bits=13, signed=True), IntType(bits=31, signed=True)]
Setting = tuple[int, int, IntType, Rounding, bool]
SETTINGS: list[Setting] = [
    (len(EDGES), 0, KINDS[2], Rounding.RND, False),
    (len(EDGES), 0, KINDS[2], Rounding.RND, True),
    (len(EDGES) - 1, 1, KINDS[1], Rounding.TRN, True),
    (len(EDGES) - 3, 0, KINDS[0], Rounding.TRN, False),
    *(
        (channels, 19 * i, KINDS[i % 3], rounding, two)
        for i, (channels, rounding, two) in enumerate(
            product((1, 3, 8, 11, 17), (Rounding.RND, Rounding.TRN), (False, True))
        )
    ),
]


@cache
def edge_case(channels: int, first: int, kind: IntType, rounding: Rounding, two: bool) -> Case:
    wanted = (EDGES * 3)[first : first + channels]
    graph = edges(wanted, kind, rounding, two=two)
    return Case.of(graph, shown(graph))


@pytest.mark.parametrize("setting", SETTINGS[:3])
def test_what_is_not_in_doubt_is_right_and_the_edge_is_sharp(setting: Setting) -> None:
    """The proof, on numbers; and one unit less of doubt would be too little, downwards and upwards."""
    sums = Sums.of(edge_case(*setting).graph)
    doubtful = sums.lower < sums.doubt
    wrong = sums.upper != sums.exact
    assert not wrong[~doubtful].any()
    assert ((sums.lower == sums.doubt - 1) & wrong).any()
    assert ((sums.lower == sums.doubt) & ~wrong).any()
    assert ((sums.lower == 0) & wrong).any()
    assert ((sums.lower == 0) & ~wrong).any()
    assert ((sums.lower == (1 << 32) - 1) & ~wrong).any()
    assert (doubtful & ~wrong & (sums.exact < 0)).any()
    assert (doubtful & wrong & (sums.exact < 0)).any()


def test_edges(compiled: Variant) -> None:
    for setting in SETTINGS:
        case = edge_case(*setting)
        engine = compiled.engine(case.graph, methods=ONLY)
        assert engine.choices["y"].method is Method.FILTERED
        assert_same(engine, case.pixels, case.expected)
        others = compiled.engine(case.graph, methods=ONLY - {Method.FILTERED})
        assert others.choices["y"].method in (Method.LONG, Method.WIDE)
        assert_same(others, case.pixels, case.expected)


def test_only_vectors_in_doubt_are_computed_again(compiled: Variant) -> None:
    """Told by an op for the second computation that gives one code, whatever it is asked."""
    mark = 77
    for setting in SETTINGS:
        case = edge_case(*setting)
        engine, sums = compiled.engine(case.graph, methods=ONLY), Sums.of(case.graph)
        exact = EngineOp.from_address(engine._plan.ops[engine._plan.index["y"]].exact)
        exact.lo = exact.hi = mark
        firsts = range(0, setting[0], engine._library.lanes)
        again = np.logical_or.reduceat(sums.lower < sums.doubt, firsts, axis=1)
        marked = np.repeat(again, engine._library.lanes, axis=1)[:, : setting[0]]
        expected = np.where(marked, mark, case.expected["y"].reshape(256, -1))
        assert np.array_equal(engine.run(case.pixels, keep="all").outputs["y"].reshape(256, -1), expected)


@pytest.mark.parametrize("setting", SETTINGS[:3])
def test_edges_as_torch(setting: Setting) -> None:
    case = edge_case(*setting)
    ours = Engine(case.graph, 1).run(case.pixels, keep="all").outputs
    theirs = Simulator(case.graph, 1).run(case.pixels, keep="all").outputs
    assert all(np.array_equal(ours[name], codes) for name, codes in theirs.items())


@pytest.mark.parametrize("excess", [0, 1])
def test_the_largest_doubt(compiled: Variant, excess: int) -> None:
    """2^28 - 2: four in ten vectors of 8 are in doubt; and two more."""
    wanted = [edge for edge in EDGES if edge.fraction == 40 and edge.low is None][:21]
    graph = edges(wanted, KINDS[2], Rounding.RND, two=False, most=MAX_DOUBT - 2 + excess)
    engine = compiled.engine(graph, methods=ONLY)
    choice = engine.choices["y"]
    assert choice.method is (Method.FILTERED, Method.LONG)[excess]
    if choice.cut:
        sums = Sums.of(graph)
        assert max(choice.cut.doubt) == MAX_DOUBT - 2
        assert 0.02 < (sums.lower < sums.doubt).mean() < 0.1
        assert ((sums.lower == sums.doubt - 1) & (sums.upper != sums.exact)).any()
    assert_same(engine, shown(graph))


@pytest.mark.parametrize("channels", [2, 5, 12, 16, 19])
def test_exact_channels_and_padding_have_no_doubt(channels: int) -> None:
    """Zeros, as of a pruned channel without a rounding half, are multiples of 2^32 at every pixel."""
    fractions = [54] * channels
    raw = [0 if i % 3 == 0 else (1 << 50) - 1 - i for i in range(channels)]
    pixels = pixels_input((4, 4, channels))
    bias = constants(62, [i << 54 for i in range(channels)], fractions)
    y = requantize("y", [pixels], KINDS[1], [constants(62, raw, fractions)], bias, Rounding.TRN)
    choice = choose(finish(pixels, y), lanes=8, has_bytes=False)["y"]
    assert choice.method is Method.FILTERED
    doubt = pack.requantisation(y, choice, 8)["doubt"]
    assert doubt.shape == (-(-channels // 8) * 8,)
    assert [bool(d) for d in doubt[:channels]] == [i % 3 > 0 for i in range(channels)]
    assert not doubt[channels:].any()


def test_a_fine_bias_alone_leaves_no_doubt(compiled: Variant) -> None:
    """HIGH then, whatever bits the bias has past 32: they cannot carry."""
    pixels = pixels_input((16, 16, 3))
    m = constants(33, [(1 << 30) + 1] * 3, [32] * 3)
    b = constants(64, [-1, (1 << 60) - 1, 1], [60] * 3)
    for rounding in (Rounding.RND, Rounding.TRN):
        graph = finish(pixels, requantize("y", [pixels], KINDS[1], [m], b, rounding))
        engine = compiled.engine(graph)
        assert engine.choices["y"].method is Method.HIGH
        assert_same(engine, shown(graph))


@pytest.mark.parametrize("seed", range(4))
def test_real_constants_of_a_network(compiled: Variant, seed: int) -> None:
    """54-bit mantissas: the reference row of a sweep. FILTERED but for first factors past one half."""
    graph = real_net(seed)
    engine = compiled.engine(graph)
    small = [
        engine.choices[op.name].method
        for op in graph
        if isinstance(op, Requantize) and np.abs(op.requant.terms[0].values()).max() < 0.5
    ]
    assert Method.FILTERED in small
    assert not {Method.LONG, Method.WIDE} & set(small)
    pixels = extreme_pixels(graph, 5, seed)
    assert_same(engine, pixels, batch=3)
    real = nearby(graph, seed)
    assert audit(engine, pixels, real).layers == audit(Simulator(graph, 1), pixels, real).layers


@cache
def real_net(seed: int) -> Graph:
    return lowered_net(seed, Point.parse(REAL).formats(parse_edge("32,16")))


@st.composite
def requantisations(draw: st.DrawFn) -> Graph:
    """One or two terms of any fraction and width, aimed at 32-bit quotients."""
    channels = draw(st.integers(1, 20))
    pixels = pixels_input((16, 16, channels))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    codes = symmetric_codes(pixels, draw(st.sampled_from([1, 7, 127, 32767, (1 << 22) + 1])))
    fractions = [int(f) for f in rng.integers(20, 62, channels)]
    digits = draw(st.integers(20, 60))

    def values(bits: int) -> Any:
        raw = [
            int(rng.integers(-(1 << 62), 1 << 62)) >> (62 - min(digits, max(1, bits + f))) for f in fractions
        ]
        return constants(64, raw, fractions)

    terms = [values(draw(st.integers(-18, -1)))] + [values(draw(st.integers(-3, 4)))] * draw(st.booleans())
    bias = values(draw(st.integers(-10, 1)))
    kind = draw(st.sampled_from(KINDS))
    limits = draw(st.sampled_from([None, (0, 99), (-1, 1)] if kind.signed else [None, (0, 99)]))
    rounding = draw(st.sampled_from([Rounding.RND, Rounding.TRN]))
    y = requantize("y", [codes, pixels][: len(terms)], kind, terms, bias, rounding, limits)
    return finish(pixels, codes, y)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(requantisations(), st.booleans())
def test_random_constants(graph: Graph, portable: bool) -> None:
    assert_same(Engine(graph, 1, CpuPath.PORTABLE if portable else best_path(), ONLY), shown(graph))
