"""Each method of the native engine on layers of awkward sizes, on every CPU path, against the oracle."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest

from hwq.engine import Method
from hwq.engine.methods import ALL, FALLBACKS
from hwq.fixed import AutoFormat, IntType, Rounding
from hwq.ir import Conv2d, Flatten, Graph, Linear, Op, Padding, TensorSpec, accumulator_type
from tests.engine.conftest import (
    U8,
    Case,
    Variant,
    assert_same,
    constants,
    convolution,
    extreme_pixels,
    finish,
    pixels_input,
    requantize,
    spread,
)

CHANNELS = (1, 2, 3, 5, 8, 16, 17, 33)
TYPES = [
    *(IntType(bits=b, signed=s) for b in (2, 4, 8, 15) for s in (False, True)),
    *(IntType(bits=16, signed=True), IntType(bits=16, signed=False), IntType(bits=30, signed=True)),
]
LAYERS = 55


def sides(top: int, bottom: int, left: int, right: int) -> Padding:
    return Padding(top=top, bottom=bottom, left=left, right=right)


@cache
def case(seed: int) -> Case:
    graph = layer(seed)
    return Case.of(graph, extreme_pixels(graph, 4, seed))


def layer(seed: int) -> Graph:
    """Codes of some type, a convolution, and a requantisation, half the time with a residual term."""
    rng = np.random.default_rng(seed)

    def pick(*options: Any) -> Any:
        return options[int(rng.integers(len(options)))]

    c, kind = pick(*CHANNELS), TYPES[seed % len(TYPES)]
    h, w = (int(n) for n in rng.integers(1, 12, 2))
    groups = c if seed % 5 == 0 else pick(*(g for g in (1, 1, 2, 3, 8, 11) if c % g == 0))
    outs = groups * (
        1
        if seed % 5 == 0 and seed % 2
        else pick(1, 2, 3, 5, 8, 9, 16, 17, 33)
        if groups < 4
        else pick(1, 2, 3)
    )
    geometry: dict[str, Any] = {"groups": groups}
    kernel = []
    draws = {"stride": (1, 1, 2, 3), "dilation": (1, 1, 1, 2)}
    for name, options in draws.items():
        geometry[name] = (pick(*options), pick(*options))
    geometry["padding"] = padding = sides(*(pick(0, 1, 1, 2, 3) for _ in range(4)))
    for n, d in zip(padding.padded((h, w)), geometry["dilation"], strict=True):
        kernel.append(min(pick(1, 2, 3, 3, 3, 5), (n - 1) // d + 1))
    if seed % 4 == 0:  # what Winograd takes
        h, w, kernel, c, groups = h + 2, w + 2, [3, 3], max(c, 8), 1
        geometry = {
            "padding": sides(*pick((0, 0, 0, 0), (1, 1, 1, 1), (2, 0, 1, 3), (0, 1, 0, 1))),
            "groups": 1,
        }
        outs = pick(8, 9, 16, 24, 33)
    top = pick(1, 7, 127, 127, 127, 2047, 32767)
    shape = (outs, *kernel, c // groups)
    weight = pick(
        rng.integers(-top, top + 1, shape), rng.choice([-top, top], shape), np.full(shape, pick(-top, top))
    )
    pixels = pixels_input((h, w, c))
    codes = spread("codes", pixels, kind)
    sums = convolution("sums", codes, weight, **geometry)
    terms: list[Op] = [sums]
    if sums.out.shape == codes.out.shape and seed % 2:
        terms = [sums, codes] if seed % 3 else [codes, sums]
    out = pick(IntType(bits=8, signed=False), IntType(bits=8, signed=True), IntType(bits=12, signed=True))
    form = AutoFormat(pick(8, 16, 24))
    multipliers = [
        form.quantize(rng.uniform(-2, 2, outs) * out.hi / max(1, np.sqrt(float(op.out.type.hi))), bias=False)
        for op in terms
    ]
    bias = form.quantize(rng.uniform(-1, 1, outs) * out.hi, bias=True)
    rounding = pick(Rounding.RND, Rounding.TRN)
    return finish(pixels, codes, sums, requantize("y", terms, out, multipliers, bias, rounding))


@pytest.mark.parametrize(
    "methods",
    [ALL, FALLBACKS | {Method.WORDS, Method.NARROW}, ALL - {Method.HIGH, Method.NARROW}, FALLBACKS],
    ids=["all", "words", "filtered", "plain"],
)
def test_layers(compiled: Variant, methods: frozenset[Method]) -> None:
    """Ragged last batches, three images in one go and alone."""
    used: Counter[Method] = Counter()
    for seed in range(LAYERS):
        engine = compiled.engine(case(seed).graph, methods=methods)
        assert_same(engine, case(seed).pixels, case(seed).expected, batch=(3, 1, 4)[seed % 3])
        used.update(choice.method for choice in engine.choices.values())
    wanted = {m for m in methods if m is not Method.WIDE} - (
        {Method.BYTES} if compiled.path.value != "vnni" else {Method.WINOGRAD}
    )
    assert set(used) >= wanted


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    ("h", "w", "padding"),
    [
        (5, 5, (0, 0, 0, 0)),
        (3, 9, (1, 1, 1, 1)),
        (4, 4, (0, 1, 0, 1)),
        (8, 8, (1, 1, 1, 1)),
        (5, 7, (0, 4, 3, 0)),
        (33, 6, (1, 1, 1, 1)),
        (1, 1, (9, 5, 0, 7)),
    ],
)
def test_winograd_at_its_limits(
    compiled: Variant, h: int, w: int, padding: tuple[int, int, int, int], signed: bool
) -> None:
    """Weights and codes at both ends, tiles that reach over the edge, channels that fill no vector."""
    rng = np.random.default_rng(h * w)
    for c, outs in ((16, 16), (17, 33), (40, 24)):
        pixels = pixels_input((h, w, c))
        codes = spread("codes", pixels, IntType(bits=8, signed=signed))
        weight = rng.choice([-127, 127], (outs, 3, 3, c))
        weight[0], weight[1], weight[2, :, ::2] = 127, -127, -127
        graph = finish(pixels, codes, convolution("sums", codes, weight, padding=sides(*padding)))
        engine = compiled.engine(graph, methods=ALL - {Method.BYTES})
        assert engine.choices["sums"].method is Method.WINOGRAD
        assert_same(engine, extreme_pixels(graph, 5))


@pytest.mark.parametrize("excess", [0, 1])
def test_winograd_needs_25_bits(compiled: Variant, excess: int) -> None:
    """The largest sum that its modular arithmetic brings back, and one more."""
    total = ((1 << 25) - 1) // 255 + excess
    weight = np.full((16, 3, 3, 64), total // 576, np.int64)
    weight[:, 0, 0, 0] += total - int(weight[0].sum())
    weight[1::2] *= -1
    pixels = pixels_input((6, 6, 64))
    graph = finish(pixels, convolution("sums", pixels, weight, padding=Padding.even(1, 1)))
    engine = compiled.engine(graph, methods=ALL - {Method.BYTES})
    assert (engine.choices["sums"].method is Method.WINOGRAD) == (excess == 0)
    assert_same(engine, extreme_pixels(graph, 4))


@pytest.mark.parametrize("count", [1, 2, 5, 11])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (7, 3), (64, 10), (33, 40)])
def test_linear(compiled: Variant, count: int, inputs: int, outputs: int) -> None:
    rng = np.random.default_rng(inputs)
    pixels = pixels_input((1, 1, inputs))
    spec = TensorSpec(shape=(inputs,), type=U8, scale=1.0)
    flat = Flatten(name="flat", inputs=("pixels",), out=spec)
    weight = rng.choice([-127, 0, 127], (outputs, inputs)).astype(np.int64)
    out = TensorSpec(shape=(outputs,), type=accumulator_type(weight, U8))
    kind = IntType(bits=8, signed=True)
    linear = Linear(name="fc", inputs=("flat",), out=out, weight=weight, weight_type=kind)
    form = AutoFormat(16)
    m = form.quantize(np.full(outputs, 0.01), bias=False)
    y = requantize("y", [linear], kind, [m], form.quantize(np.zeros(outputs), bias=True))
    graph = finish(pixels, flat, linear, y)
    assert_same(compiled.engine(graph), extreme_pixels(graph, count), batch=4)


def test_codes_of_64_bits_meet_small_weights(compiled: Variant) -> None:
    pixels = pixels_input((3, 3, 2))
    wide = spread("codes", pixels, IntType(bits=48, signed=True))
    weight = np.array([[3, -2], [-1, 1]]).reshape(2, 1, 1, 2)
    graph = finish(pixels, wide, convolution("sums", wide, weight))
    assert_same(compiled.engine(graph), extreme_pixels(graph, 3))


def test_weights_of_40_bits(compiled: Variant) -> None:
    pixels = pixels_input((3, 3, 2))
    weight = np.random.default_rng(0).integers(-(1 << 40), 1 << 40, (3, 2, 2, 2))
    graph = finish(pixels, convolution("sums", pixels, weight, padding=Padding.even(1, 0)))
    assert_same(compiled.engine(graph), extreme_pixels(graph, 3))


# -- requantisations
FRACTIONS = {
    Rounding.RND: (31, 32, 33, 40, 47, 61, 62),  # one more, and the half itself needs 62 bits
    Rounding.TRN: (31, 32, 33, 40, 47, 62, 63, 64, 90),
}


@pytest.mark.parametrize("rounding", [Rounding.RND, Rounding.TRN])
@pytest.mark.parametrize("top_bits", [29, 24])
def test_narrow_requantisation_at_its_limits(compiled: Variant, rounding: Rounding, top_bits: int) -> None:
    """31-bit multipliers, 61-bit sums, every shift the fields can hold, a channel each."""
    fractions = list(FRACTIONS[rounding])
    pixels = pixels_input((3, 2, len(fractions)))
    codes = spread("codes", pixels, IntType(bits=top_bits + 1, signed=True))
    largest = (1 << 31) - 1
    raw = [largest if i % 2 else -largest for i in range(len(fractions))]
    m = constants(33, raw, fractions)
    b = constants(33, [12345 - i for i in range(len(fractions))], fractions)
    kind = IntType(bits=32, signed=True)
    graph = finish(pixels, codes, requantize("y", [codes], kind, [m], b, rounding))
    engine = compiled.engine(graph)
    assert engine.choices["y"].method is Method.NARROW
    assert_same(engine, extreme_pixels(graph, 20))


@pytest.mark.parametrize("rounding", [Rounding.RND, Rounding.TRN])
@pytest.mark.parametrize(
    "kind", [IntType(bits=b, signed=s) for b, s in ((8, False), (8, True), (13, True), (31, True))]
)
@pytest.mark.parametrize("channels", [1, 3, 8, 11, 19])
def test_quotients_in_the_upper_half(
    compiled: Variant, channels: int, kind: IntType, rounding: Rounding
) -> None:
    """31-bit multipliers, residual factors up to thousands, shifts up to 32, codes of every size."""
    rng = np.random.default_rng(channels)
    pixels = pixels_input((5, 3, channels))
    codes = spread("codes", pixels, IntType(bits=min(30, kind.bits), signed=True))
    fractions = [32 - i % 4 for i in range(channels)]
    largest = [((1 << 31 - i % 4) - 1) * (-1) ** i for i in range(channels)]
    factor = min(9999, 1 + kind.hi // 999)  # outputs must not all saturate
    residual = [int(rng.choice([-1, 1])) * (i % 3 + factor) for i in range(channels)]
    terms = [constants(33, largest, fractions), constants(33, residual, [0] * channels)]
    b = constants(33, [int(v) for v in rng.integers(-(1 << 31), 1 << 31, channels)], fractions)
    ops: list[Op] = [codes, pixels]
    for count in (1, 2):
        y = requantize("y", ops[:count], kind, terms[:count], b, rounding)
        graph = finish(pixels, codes, y)
        for methods in (ALL, ALL - {Method.HIGH}):
            engine = compiled.engine(graph, methods=methods)
            assert (engine.choices["y"].method is Method.HIGH) == (methods is ALL)
            assert_same(engine, extreme_pixels(graph, 4))


@pytest.mark.parametrize("excess", [0, 1])
def test_a_multiplier_of_one_half_is_too_much(compiled: Variant, excess: int) -> None:
    """2^31 in units of 2^-32; and a factor whose low bits a shift of codes would drop."""
    pixels = pixels_input((2, 2, 1))
    kind, zero = IntType(bits=9, signed=True), constants(33, [0], [32])
    half = constants(33, [(1 << 31) - 1 + excess], [32])
    fine = constants(34, [(1 << 32) - 2 + excess], [32])
    for terms in ([half], [zero, fine]):
        graph = finish(pixels, requantize("y", [pixels] * len(terms), kind, terms, zero))
        engine = compiled.engine(graph)
        assert (engine.choices["y"].method is Method.HIGH) == (excess == 0)
        assert_same(engine, extreme_pixels(graph, 4))


@pytest.mark.parametrize("rounding", [Rounding.RND, Rounding.TRN])
@pytest.mark.parametrize(
    ("width", "fraction", "method"),
    [
        (8, [7, 6, 9], Method.NARROW),
        (31, [36, 32, 24], Method.NARROW),
        (33, [5, 1, 2], Method.LONG),  # quotients past 31 bits
        (50, [47, 62, 55], Method.LONG),
        (64, [62, 63, 64], Method.WIDE),
        (64, [62, 0, -20], Method.WIDE),
    ],
)
def test_requantisation_by_width(
    compiled: Variant, width: int, fraction: list[int], method: Method, rounding: Rounding
) -> None:
    top = (1 << (width - 1)) - 1
    m = constants(width, [top, -top - 1, top // 3], fraction)
    b = constants(width, [top, top // 5, -top - 1], fraction)
    pixels = pixels_input((4, 5, 3))
    kind = IntType(bits=16, signed=True)
    graph = finish(pixels, requantize("y", [pixels], kind, [m], b, rounding, limits=(-30000, 1234)))
    engine = compiled.engine(graph)
    assert engine.choices["y"].method is method
    assert_same(engine, extreme_pixels(graph, 6))


def test_sums_are_fused_only_where_nobody_else_reads_them(compiled: Variant) -> None:
    """One convolution read by two requantisations, and one requantisation of two convolutions."""
    rng = np.random.default_rng(0)
    pixels = pixels_input((6, 6, 16))
    first, second = (
        convolution(name, pixels, rng.integers(-100, 100, (16, 3, 3, 16)), padding=Padding.even(1, 1))
        for name in "ab"
    )
    kind, form = IntType(bits=8, signed=True), AutoFormat(16)
    m, b = (
        form.quantize(rng.uniform(0, 1e-3, 16), bias=False),
        form.quantize(rng.uniform(-9, 9, 16), bias=True),
    )
    one = requantize("one", [first], kind, [m], b)
    two = requantize("two", [first, second], kind, [m, m], b)
    both = requantize("both", [one, two, one], kind, [m, m, m], b)
    graph = finish(pixels, first, second, one, two, both)
    assert isinstance(graph["a"], Conv2d)
    assert_same(compiled.engine(graph), extreme_pixels(graph, 5), batch=2)
