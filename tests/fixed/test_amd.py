"""`FixedType.cast` against AMD's compiled ap_fixed: 7 quantisation x 5 overflow modes, >= 1e6 values each."""

from __future__ import annotations

import shutil
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hwq.errors import InputError
from hwq.fixed import FixedType, Overflow, Rounding
from tests.fixed.amd import Case, build, case, is_wide, run

FORMATS = (
    ("s24,12", "s8,4"),
    ("s24,12", "s6,-2"),  # I < 0
    ("s24,12", "s5,9"),  # I > W
    ("s24,12", "s16,4"),  # nothing to round
    ("s20,16", "s12,2"),  # gains fraction bits
    ("s24,30", "s8,20"),  # I > W on both sides
    ("s24,-3", "s9,-7"),
    ("s40,20", "s32,10"),
    ("s24,12", "u7,3"),
    ("s24,12", "u6,-1"),
    ("u24,12", "s8,4"),
    ("u24,12", "u6,8"),
    ("u24,12", "u24,0"),
    ("s12,6", "s2,1"),
    ("s12,6", "s1,1"),
    ("s12,6", "u1,1"),
    ("s100,40", "s80,30"),  # beyond 64 bits
    ("s100,40", "u70,20"),
    ("u90,30", "s66,50"),
    ("s120,60", "s10,4"),
)
CASES = [case(source, target, odd=bool(i % 2)) for i, (source, target) in enumerate(FORMATS)]
VALUES = 250_000
"""Raw values a case, so that the narrow cases make more than 1e6 a pair of modes."""
WIDE_VALUES = 1_500


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    return build(CASES, tmp_path_factory.mktemp("amd"))


@cache
def raw_values(c: Case, count: int, seed: int) -> npt.NDArray[Any]:
    """Raw values of the source: all of a small one; else ties and their neighbours at the ends, and noise."""
    lo, hi = c.source.lo, c.source.hi
    if hi - lo < count:
        return np.arange(lo, hi + 1, dtype=np.int64)
    rng = np.random.default_rng(seed)
    shift = max(0, c.source.fraction - c.target.fraction)
    step, t = 1 << shift, c.target
    period = 1 << t.width
    near = {base + d for base in (0, t.lo, t.hi, -t.hi, period, -period, 2 * period) for d in range(-40, 41)}
    ends = {(r << shift) + part for r in near for part in (0, 1, -1, step // 2, step // 2 + 1, step // 2 - 1)}
    ends |= {end + d for end in (lo, hi) for d in range(-50, 51)}
    random = [int(a) << 62 | int(b) for a, b in rng.integers(0, 1 << 62, (count, 2))]
    spread = [lo + v % (hi - lo + 1) for v in random[: count // 2]]
    # inside the target's range, half of them exact ties
    inside = [((v % (2 * period)) - period << shift) + (v >> 40) % step for v in random[count // 2 :: 2]]
    ties = [((v % (2 * period)) - period << shift) + step // 2 for v in random[count // 2 + 1 :: 2]]
    values = [v for v in (*ends, *spread, *inside, *ties) if lo <= v <= hi]
    return np.array(values, dtype=object if is_wide(c) else np.int64)


@pytest.mark.parametrize("position", range(len(CASES)), ids=lambda i: f"{CASES[i].source}-{CASES[i].target}")
def test_cast_is_amds(binary: Path, position: int) -> None:
    c = CASES[position]
    raw = raw_values(c, WIDE_VALUES if is_wide(c) else VALUES, position)
    theirs = run(binary, CASES, position, raw)
    for (q, o), expected in zip(c.modes, theirs, strict=True):
        got = c.under(q, o).cast(raw, c.source.fraction)
        wrong = np.flatnonzero(got != expected)
        assert wrong.size == 0, (
            f"{c.source} -> {c.under(q, o)}: {wrong.size} of {raw.size} differ, first raw {raw[wrong[0]]}: "
            f"hwq {got[wrong[0]]}, AMD {expected[wrong[0]]}"
        )


def test_a_million_values_a_pair_of_modes() -> None:
    counts: Counter[tuple[Rounding, Overflow]] = Counter()
    for position, c in enumerate(CASES):
        if not is_wide(c):
            size = raw_values(c, VALUES, position).size
            counts.update(dict.fromkeys(c.modes, size))
    assert set(counts) == {(q, o) for q in Rounding for o in Overflow}
    assert min(counts.values()) >= 1_000_000


def test_unsigned_sign_magnitude_is_refused() -> None:
    with pytest.raises(InputError, match="AP_WRAP_SM"):
        FixedType(width=8, integer=4, signed=False, overflow=Overflow.WRAP_SM)


def test_a_wrong_mode_shows(binary: Path) -> None:
    """The comparison is alive: towards zero is not half up."""
    c = CASES[0]
    raw = raw_values(c, 5_000, 0)
    (_, overflow), theirs = c.modes[0], run(binary, CASES, 0, raw)[0]
    assert c.modes[0][0] is Rounding.RND
    assert (c.under(Rounding.TRN_ZERO, overflow).cast(raw, 12) != theirs).any()
