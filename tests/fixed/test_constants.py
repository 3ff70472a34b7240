"""Constant formats against exact fractions: rounding, saturation, smallest I, powers of two, parsing."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwq.errors import InputError
from hwq.fixed import (
    AutoFormat,
    ChannelFormat,
    Constants,
    FixedType,
    LiteralFormat,
    Overflow,
    Rounding,
    ShiftFormat,
    parse_edge,
    parse_format,
)

REALS = st.floats(-(2.0**40), 2.0**40, allow_nan=False).map(float)
SMALL = st.floats(-1.0, 1.0, allow_nan=False, allow_subnormal=True)
TIES = st.builds(lambda n, e: n * 2.0**-e, st.integers(-(1 << 20), 1 << 20), st.integers(0, 40))
VALUES = st.lists(REALS | SMALL | TIES, min_size=1, max_size=6).map(np.array)


def half_up(value: float, fraction: int) -> int:
    return floor(Fraction(value) * Fraction(2) ** fraction + Fraction(1, 2))


def ends(width: int) -> tuple[int, int]:
    return -(1 << (width - 1)), (1 << (width - 1)) - 1


@given(VALUES, st.integers(2, 64), st.integers(-30, 80))
def test_literal(values: np.ndarray, width: int, integer: int) -> None:
    integer = max(integer, width - 62)
    made = LiteralFormat(FixedType(width=width, integer=integer)).quantize(values, bias=False)
    lo, hi = ends(width)
    expected = [min(hi, max(lo, half_up(v, width - integer))) for v in values.tolist()]
    assert made.raw.tolist() == expected
    assert made.integer.tolist() == [integer] * values.size


def smallest_integer(values: list[float], width: int) -> int | None:
    """By search upwards from what no number needs; None when all are 0."""
    nonzero = [v for v in values if v != 0]
    if not nonzero:
        return None
    lo, hi = ends(width)
    integer = width - 62
    while not all(lo <= half_up(v, width - integer) <= hi for v in nonzero):
        integer += 1
    return integer


@given(VALUES, st.integers(2, 64), st.booleans())
def test_auto_takes_the_smallest_integer_part(values: np.ndarray, width: int, bias: bool) -> None:
    made = AutoFormat(width).quantize(values, bias=bias)
    integer = smallest_integer(values.tolist(), width)
    if integer is None:
        assert made.raw.tolist() == [0] * values.size
        return
    assert set(made.integer.tolist()) == {integer}
    assert made.raw.tolist() == [half_up(v, width - integer) for v in values.tolist()]


@given(VALUES, st.integers(2, 64))
def test_channel_takes_it_for_each(values: np.ndarray, width: int) -> None:
    made = ChannelFormat(width).quantize(values, bias=False)
    for v, raw, integer in zip(values.tolist(), made.raw.tolist(), made.integer.tolist(), strict=True):
        own = smallest_integer([v], width)
        if own is None:
            assert raw == 0
        else:
            assert (raw, integer) == (half_up(v, width - own), own)


@given(VALUES)
def test_shift_takes_the_nearest_power(values: np.ndarray) -> None:
    made = ShiftFormat().quantize(values, bias=False)
    for v, raw, fraction in zip(values.tolist(), made.raw.tolist(), made.fraction.tolist(), strict=True):
        assert fraction <= 62
        if raw == 0:
            assert abs(Fraction(v)) < Fraction(3, 4) / 2**62
            continue
        power = Fraction(raw) / Fraction(2) ** fraction
        assert power * Fraction(v) > 0
        assert abs(raw) == 1
        distance = abs(abs(Fraction(v)) - abs(power))
        # between two powers the upper one wins the tie (3/4 of it)
        assert distance <= abs(abs(Fraction(v)) - abs(power) / 2) or fraction == 62
        assert distance < abs(abs(Fraction(v)) - abs(power) * 2)


@pytest.mark.parametrize(
    ("value", "power"), [(0.75, 1.0), (0.7499999, 0.5), (-1.5, -2.0), (3.0, 4.0), (1.0, 1.0), (-0.25, -0.25)]
)
def test_shift_literals(value: float, power: float) -> None:
    assert ShiftFormat().quantize(np.array([value]), bias=False).values().tolist() == [power]


def test_shift_stores_biases_in_16_auto() -> None:
    values = np.array([1.3, -200.5, 0.0])
    made, auto = (f.quantize(values, bias=True) for f in (ShiftFormat(), AutoFormat(16)))
    assert made.raw.tolist() == auto.raw.tolist()
    assert made.width == 16


def test_rounds_the_real_value_not_a_rounded_float() -> None:
    # 2^53 + 1 halves: value * 2^F + 0.5 in float64 would already have rounded
    value = float(2**52 + 1) / 2**53
    made = LiteralFormat(FixedType(width=60, integer=8)).quantize(np.array([value]), bias=False)
    assert made.raw.tolist() == [half_up(value, 52)] == [2**51 + 1]


def test_constants_are_read_only() -> None:
    made = AutoFormat(8).quantize(np.array([0.5]), bias=False)
    with pytest.raises(ValueError, match="read-only"):
        made.raw[0] = 1
    with pytest.raises(InputError, match="same length"):
        Constants(width=8, raw=np.zeros(2, np.int64), integer=np.zeros(1, np.int64), format_name="")


@pytest.mark.parametrize(
    "text", ["32,10", "16,-4", "8,20", "32,10,TRN,WRAP", "16,auto", "12,channel", "shift"]
)
def test_a_format_prints_as_it_is_written(text: str) -> None:
    assert str(parse_format(text)) == text


def test_mode_names_take_any_spelling() -> None:
    made = parse_format(" 32, 10, ap_rnd_conv, sat_sym ")
    assert isinstance(made, LiteralFormat)
    assert made.type == FixedType(width=32, integer=10, rounding=Rounding.RND_CONV, overflow=Overflow.SAT_SYM)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a fixed-point format"),
        ("32", "not a fixed-point format"),
        ("32,10,RND,SAT,3", "not a fixed-point format"),
        ("x,10", "W is 'x', not an integer"),
        ("32,ten", "I is 'ten', not an integer"),
        ("1,1", "W must be 2..64"),
        ("65,10", "W must be 2..64"),
        ("0,auto", "W must be 2..64"),
        ("99,channel", "W must be 2..64"),
        ("32,-31", "I must be >= W - 62"),
        ("32,2000", "I must be <= 1024"),
        ("32,10,ROUND", "unknown rounding name 'ROUND'"),
        ("32,10,RND,CLIP", "unknown overflow name 'CLIP'"),
    ],
)
def test_parse_errors_say_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_format(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["33,16", "16,auto", "shift"])
def test_edges_are_literal_and_at_most_32_bits(text: str) -> None:
    with pytest.raises(InputError, match="W at most 32"):
        parse_edge(text)
