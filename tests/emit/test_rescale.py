"""How a requantisation's constants are brought to binary points, and how wide its sums become."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwq.emit.rescale import Scaling, scaling
from hwq.errors import UnsupportedError
from hwq.fixed import Constants, IntType, Rounding
from hwq.ir import Requant


def _constants(raw: Sequence[int], integer: Sequence[int]) -> Constants:
    return Constants(width=16, raw=np.array(raw), integer=np.array(integer), format_name="16,channel")


def _requant(
    multipliers: Constants, bias: Constants, rounding: Rounding = Rounding.RND, out: int = 8
) -> Requant:
    kind = IntType(bits=out, signed=True)
    return Requant(terms=(multipliers,), bias=bias, out=kind, lo=kind.lo, hi=kind.hi, rounding=rounding)


def _bound(*values: int) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    return np.array(values, dtype=object)


def _sums(r: Requant, scale: Scaling, x: Sequence[int]) -> list[int]:
    """The code of each channel as the C++ computes it, each partial sum within the stated width."""
    codes, limit = [], 1 << (scale.bits - 1)
    for c, value in enumerate(x):
        point = int(scale.fraction[c % scale.fraction.size])
        total = 0
        for part, (constants, shift) in zip(
            (value, 1), zip((*r.terms, r.bias), scale.shifts, strict=True), strict=True
        ):
            move = int(shift[c % shift.size])
            assert move >= 0
            total += part * int(constants.raw[c]) << move
            assert -limit <= total < limit
        half = 1 << (point - 1) if r.rounding is Rounding.RND and point else 0
        assert total + half < limit
        codes.append(min(max(total + half >> point, r.lo), r.hi))
    return codes


def _by_definition(r: Requant, x: Sequence[int]) -> list[int]:
    a = r.alignment
    totals = [
        v * int(m) + int(b) + int(h) >> int(f)
        for v, m, b, h, f in zip(x, a.multipliers[0], a.bias, a.half, a.fraction, strict=True)
    ]
    return [min(max(t, r.lo), r.hi) for t in totals]


def test_a_nearly_dead_channel_does_not_widen_the_others() -> None:
    """F = 40 of the second channel would lift the first one's sum by 30 bits."""
    r = _requant(_constants([20000, 20000], [6, -24]), _constants([3, 0], [16, 16]))
    scale = scaling(r, (_bound(1 << 20, 1 << 10),), "op")
    assert scale.own
    assert scale.fraction.tolist() == [10, 40]
    # 20000 * 2^20 + 3 * 2^10 + 2^9 has 35 bits; 20000 * 2^10 + 2^39 has 40
    assert scale.bits == r.sum_bits((_bound(1 << 20, 1 << 10),)) == 41
    assert [s.tolist() for s in scale.shifts] == [[0], [10]]


def test_one_point_serves_all_where_it_costs_nothing() -> None:
    r = _requant(_constants([20000, 1], [6, 7]), _constants([3, 0], [16, 16]))
    scale = scaling(r, (_bound(1 << 20, 1 << 10),), "op")
    assert not scale.own
    assert scale.fraction.tolist() == [10]
    assert scale.bits == r.sum_bits((_bound(1 << 20, 1 << 10),))


def test_what_adds_nothing_widens_nothing() -> None:
    """A large multiplier of a channel that is always 0, as of padding; a zero with a far point."""
    r = _requant(_constants([5, 30000, 0], [16, 16, 2]), _constants([1, 0, 0], [16, 2, 16]))
    scale = scaling(r, (_bound(255, 0, 255),), "op")
    assert scale.fraction.tolist() == [0, 14, 14]
    assert scale.bits == 15  # half a code of the others: 2^13, where 30000 * 2^14 has 29 bits
    assert [s.tolist() for s in scale.shifts] == [[0], [0]]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_sums_reach_the_width_and_never_pass_it(data: st.DataObject) -> None:
    """Every channel's extremes, in the stated width, give the codes of the definition."""
    count = data.draw(st.integers(1, 4))

    def vector(low: int, high: int) -> list[int]:
        return data.draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    terms = _constants(vector(-(1 << 15), (1 << 15) - 1), vector(-30, 20))
    bias = _constants(vector(-(1 << 15), (1 << 15) - 1), vector(-20, 20))
    r = _requant(terms, bias, data.draw(st.sampled_from([Rounding.RND, Rounding.TRN])))
    bounds = vector(0, 1 << 20)
    scale = scaling(r, (_bound(*bounds),), "op")
    for sign in (-1, 1):
        x = [sign * b for b in bounds]
        assert _sums(r, scale, x) == _by_definition(r, x)
    own = r.sum_bits((_bound(*bounds),))
    # the proved width, but for floors of channels in which nothing fills the fraction
    assert scale.bits <= max(own, int(r.alignment.fraction.max()) + 1)
    assert scale.bits >= own


def test_sums_beyond_the_native_integers_are_refused_by_name() -> None:
    r = _requant(_constants([20000], [-40]), _constants([20000], [16]))
    with pytest.raises(UnsupportedError, match="op 'wide': its requantisation sums need 1"):
        scaling(r, (_bound(1 << 120),), "wide")
