"""Rounding and overflow as tables of exact literals; fxpmath where its modes coincide."""

from __future__ import annotations

import numpy as np
import pytest
from fxpmath import Fxp
from hypothesis import given
from hypothesis import strategies as st

from hwq.errors import InputError
from hwq.fixed import FixedType, IntType, Overflow, Rounding, shift_right

HALVES = [-5, -3, -1, 1, 3, 5]
"""-2.5 -1.5 -0.5 0.5 1.5 2.5"""
QUARTERS = [-7, -6, -5, -3, -2, -1, 0, 1, 2, 3, 5, 6, 7]
"""-1.75 -1.5 -1.25 -.75 -.5 -.25 0 .25 .5 .75 1.25 1.5 1.75"""


@pytest.mark.parametrize(
    ("rounding", "halves", "quarters"),
    [
        (Rounding.RND, [-2, -1, 0, 1, 2, 3], [-2, -1, -1, -1, 0, 0, 0, 0, 1, 1, 1, 2, 2]),
        (Rounding.RND_ZERO, [-2, -1, 0, 0, 1, 2], [-2, -1, -1, -1, 0, 0, 0, 0, 0, 1, 1, 1, 2]),
        (Rounding.RND_MIN_INF, [-3, -2, -1, 0, 1, 2], [-2, -2, -1, -1, -1, 0, 0, 0, 0, 1, 1, 1, 2]),
        (Rounding.RND_INF, [-3, -2, -1, 1, 2, 3], [-2, -2, -1, -1, -1, 0, 0, 0, 1, 1, 1, 2, 2]),
        (Rounding.RND_CONV, [-2, -2, 0, 0, 2, 2], [-2, -2, -1, -1, 0, 0, 0, 0, 0, 1, 1, 2, 2]),
        (Rounding.TRN, [-3, -2, -1, 0, 1, 2], [-2, -2, -2, -1, -1, -1, 0, 0, 0, 0, 1, 1, 1]),
        (Rounding.TRN_ZERO, [-2, -1, 0, 0, 1, 2], [-1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1]),
    ],
)
def test_rounding(rounding: Rounding, halves: list[int], quarters: list[int]) -> None:
    for kind in (np.int64, object):
        assert shift_right(np.array(HALVES, kind), 1, rounding).tolist() == halves
        assert shift_right(np.array(QUARTERS, kind), 2, rounding).tolist() == quarters
        assert shift_right(np.array(HALVES, kind), 0, rounding).tolist() == HALVES


@pytest.mark.parametrize(
    ("overflow", "signed", "expected"),
    [
        # three bits; raws -9 -8 -5 -4 -3 0 3 4 5 7 8 12
        (Overflow.SAT, True, [-4, -4, -4, -4, -3, 0, 3, 3, 3, 3, 3, 3]),
        (Overflow.SAT_ZERO, True, [0, 0, 0, -4, -3, 0, 3, 0, 0, 0, 0, 0]),
        (Overflow.SAT_SYM, True, [-3, -3, -3, -3, -3, 0, 3, 3, 3, 3, 3, 3]),
        (Overflow.WRAP, True, [-1, 0, 3, -4, -3, 0, 3, -4, -3, -1, 0, -4]),
        (Overflow.WRAP_SM, True, [0, -1, -4, -4, -3, 0, 3, 3, 2, 0, -1, -4]),
        (Overflow.SAT, False, [0, 0, 0, 0, 0, 0, 3, 4, 5, 7, 7, 7]),
        (Overflow.SAT_ZERO, False, [0, 0, 0, 0, 0, 0, 3, 4, 5, 7, 0, 0]),
        (Overflow.SAT_SYM, False, [0, 0, 0, 0, 0, 0, 3, 4, 5, 7, 7, 7]),
        (Overflow.WRAP, False, [7, 0, 3, 4, 5, 0, 3, 4, 5, 7, 0, 4]),
    ],
)
def test_overflow(overflow: Overflow, signed: bool, expected: list[int]) -> None:
    raw = np.array([-9, -8, -5, -4, -3, 0, 3, 4, 5, 7, 8, 12])
    kind = FixedType(width=3, integer=3, signed=signed, overflow=overflow)
    assert kind.fit(raw).tolist() == expected
    assert kind.cast(raw.astype(object), 0).tolist() == expected


def test_one_signed_bit() -> None:
    raw = np.array([-2, -1, 0, 1])
    for overflow, expected in ((Overflow.SAT, [-1, -1, 0, 0]), (Overflow.SAT_SYM, [-1, -1, 0, 0])):
        assert FixedType(width=1, integer=1, overflow=overflow).fit(raw).tolist() == expected


FXPMATH = [
    ("floor", Rounding.TRN),
    ("fix", Rounding.TRN_ZERO),
    ("around", Rounding.RND_CONV),
]
"""fxpmath's rounding that means the same as one of AMD's."""


@pytest.mark.parametrize(("name", "rounding"), FXPMATH)
@pytest.mark.parametrize(("limit", "overflow"), [("saturate", Overflow.SAT), ("wrap", Overflow.WRAP)])
@pytest.mark.parametrize(("signed", "width", "fraction"), [(True, 8, 4), (False, 7, 2), (True, 6, -2)])
def test_fxpmath(
    name: str, rounding: Rounding, limit: str, overflow: Overflow, signed: bool, width: int, fraction: int
) -> None:
    raw = np.arange(-6000, 6000)
    theirs = Fxp(raw / 64, signed, width, fraction, rounding=name, overflow=limit).val
    kind = FixedType(
        width=width, integer=width - fraction, signed=signed, rounding=rounding, overflow=overflow
    )
    assert np.array_equal(kind.cast(raw, 6), np.asarray(theirs).astype(np.int64))


@given(
    raw=st.lists(st.integers(-(1 << 200), 1 << 200), min_size=1, max_size=5),
    fraction=st.integers(-40, 200),
    width=st.integers(2, 130),
    integer=st.integers(-60, 140),
    rounding=st.sampled_from(Rounding),
)
def test_wide_casts_stay_exact(
    raw: list[int], fraction: int, width: int, integer: int, rounding: Rounding
) -> None:
    """A saturating cast is within one step of the real value wherever it fits."""
    kind = FixedType(width=width, integer=integer, rounding=rounding)
    scale = max(0, fraction, kind.fraction)
    for value, got in zip(raw, kind.cast(np.array(raw, object), fraction).tolist(), strict=True):
        real, one = value << (scale - fraction), 1 << (scale - kind.fraction)
        if kind.lo * one <= real <= kind.hi * one:
            assert abs(got * one - real) < one
        else:
            assert got in (kind.lo, kind.hi)


@pytest.mark.parametrize("value", [0.49999999999999994, -0.5, 2.5, -2.5, 1e-300, 123.4375])
def test_quantize_rounds_the_real_value(value: float) -> None:
    expected = {0.49999999999999994: 0, -0.5: 0, 2.5: 3, -2.5: -2, 1e-300: 0, 123.4375: 123}[value]
    assert FixedType(width=16, integer=16).quantize(value) == expected


@pytest.mark.parametrize("width", [0, -1, 1025])
def test_width_out_of_range(width: int) -> None:
    with pytest.raises(InputError, match=r"1\.\.1024"):
        FixedType(width=width, integer=4)
    with pytest.raises(InputError, match=r"1\.\.1024"):
        IntType(bits=width, signed=True)


@pytest.mark.parametrize(
    ("kind", "lo", "hi", "storage"),
    [
        (IntType(bits=8, signed=True), -127, 127, 8),
        (IntType(bits=8, signed=False), 0, 255, 8),
        (IntType(bits=2, signed=True), -1, 1, 2),
        (IntType(bits=1, signed=True), -1, 1, 2),
        (IntType(bits=1, signed=False), 0, 1, 1),
    ],
)
def test_codes_are_symmetric(kind: IntType, lo: int, hi: int, storage: int) -> None:
    assert (kind.lo, kind.hi, kind.storage_bits) == (lo, hi, storage)


@given(st.integers(-(1 << 70), 1 << 70), st.integers(0, 1 << 70))
def test_holding_is_the_smallest(lo: int, span: int) -> None:
    kind = IntType.holding(lo, lo + span)
    assert kind.lo <= lo
    assert lo + span <= kind.hi
    if kind.bits > 2:
        less = IntType(bits=kind.bits - 1, signed=kind.signed)
        assert lo < less.lo or lo + span > less.hi
