"""How grids are written, and every way to write one wrongly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hwq.errors import InputError
from hwq.sweep import Point, grid, parse_bits, parse_roundings, parse_rules, parse_widths, width_formats


@pytest.mark.parametrize(
    ("parse", "text", "found"),
    [
        (parse_widths, "8:32:8", [8, 16, 24, 32]),
        (parse_widths, "8:13:2", [8, 10, 12]),
        (parse_widths, "6:8", [6, 7, 8]),
        (parse_widths, " 12, 8,12", [12, 8]),
        (parse_widths, "2:4,64", [2, 3, 4, 64]),
        (parse_rules, "auto,channel,4,-2,04", ["auto", "channel", "4", "-2"]),
        (parse_roundings, "rnd,TRN,rnd", ["rnd", "trn"]),
        (parse_bits, "8,6/4,8/8,own", ["8/8", "6/4", ""]),
    ],
)
def test_written_well(parse: Callable[[str], list[Any]], text: str, found: list[Any]) -> None:
    assert parse(text) == found


@pytest.mark.parametrize(
    ("parse", "text", "words"),
    [
        (parse_widths, "0:4", "W must be 2..64, not 0"),
        (parse_widths, "1", "W must be 2..64, not 1"),
        (parse_widths, "8:65", "W must be 2..64, not 65"),
        (parse_widths, "8:9999999999999999999999", "W must be 2..64"),
        (parse_widths, "8:6", "is empty"),
        (parse_widths, "8:16:0", "the step is 0"),
        (parse_widths, "8:16:-2", "'8:16:-2' is not a width or a span"),
        (parse_widths, "-8", "'-8' is not a width"),
        (parse_widths, "", "'' is not a width"),
        (parse_widths, "8,,16", "'' is not a width"),
        (parse_widths, "eight", "'eight' is not a width"),
        (parse_widths, "8:16:2:1", "is not a width or a span"),
        (parse_rules, "x", "'x' is none of auto, channel, or a number"),
        (parse_rules, "", "'' is none of"),
        (parse_rules, "auto,4.5", "'4.5' is none of"),
        (parse_roundings, "up", "'up' is none of rnd, trn"),
        (parse_roundings, "rnd,", "'' is none of"),
        (parse_bits, "0", "widths are 1..16, not 0"),
        (parse_bits, "8/32", "widths are 1..16, not 8/32"),
        (parse_bits, "8/4/2", "is no width"),
        (parse_bits, "-4", "is no width"),
        (parse_bits, "", "'' is no width"),
    ],
)
def test_written_wrongly(parse: Callable[[str], list[Any]], text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("widths", "rules", "kept", "left"),
    [
        ([8, 12], ["auto", "channel"], ["8,auto", "12,auto", "8,channel", "12,channel"], []),
        ([8, 12], ["8", "-4"], ["12,8", "8,-4", "12,-4"], ["8,8"]),
        ([62, 64], ["1"], ["62,1"], ["64,1"]),  # at most 62 fraction bits
    ],
)
def test_widths_by_rules(widths: list[int], rules: list[str], kept: list[str], left: list[str]) -> None:
    assert width_formats(widths, rules) == (kept, left)


def test_nothing_left_of_a_grid() -> None:
    with pytest.raises(InputError, match=r"no format is left: 4,8, 8,8"):
        width_formats([4, 8], ["8"])


def test_a_grid_has_every_point_once_and_its_references() -> None:
    points = grid(["16,8", "16,8,RND,SAT", "real", "8,auto"], ["rnd", "trn"], ["", "4/4"])
    assert len(points) == len(set(points)) == 3 * 2 * 2
    assert [p.name for p in points[:3]] == ["real", "16,8", "8,auto"]
    assert {p.network for p in points} == {("", "rnd"), ("", "trn"), ("4/4", "rnd"), ("4/4", "trn")}
    assert [str(p) for p in points[-2:]] == ["16,8 w4a4 trn", "8,auto w4a4 trn"]


def test_a_grid_that_nobody_can_wait_for() -> None:
    with pytest.raises(InputError, match=r"has 20,002 points; at most 10,000"):
        grid(["8,auto"] * 10_000, ["rnd", "trn"], [""])


@pytest.mark.parametrize("text", ["16", "16,8,UP", "1,auto", "65,auto", "16,-50"])
def test_unknown_formats(text: str) -> None:
    with pytest.raises(InputError):
        Point.parse(text)
