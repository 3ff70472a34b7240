"""Folding: defaults, files, options, and what is said when they do not divide."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwq.emit import Folding, complete, default_folding, parse_fold, read_folding
from hwq.emit.folding import cycles, limits
from hwq.errors import InputError
from hwq.ir import Conv2d, Linear
from tests.emit.conftest import every_op


def test_default_divides_and_balances() -> None:
    graph = every_op()
    small, large = default_folding(graph, 8), default_folding(graph, 512)
    for op in graph:
        if isinstance(op, Conv2d | Linear):
            for found in (small, large):
                assert limits(op)[0] % found[op.name].pe == 0
                assert limits(op)[1] % found[op.name].simd == 0
            assert cycles(op, large[op.name]) <= cycles(op, small[op.name])


def test_options() -> None:
    graph = every_op()
    found = parse_fold(graph, ["4,2", "main=8,6"])
    assert found["main"] == Folding(8, 6)
    assert found["dw"] == Folding(4, 1)  # depthwise: one input an output
    assert found["fc"] == Folding(2, 2)  # the largest divisors of 10 and 72 up to 4 and 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["main=3,1"],
            r"folding of op 'main': PE = 3 does not divide its 8 output channels; legal: 1, 2, 4, 8",
        ),
        (
            ["main=2,5"],
            r"SIMD = 5 does not divide its 12 input channels \(per group\); legal: 1, 2, 3, 4, 6, 12",
        ),
        (["dw=2,8"], r"SIMD = 8 does not divide its 1 input"),
        (["nope=1,1"], r"op 'nope', which is no convolution"),
        (["main=0,1"], r"must be at least 1"),
        (["main=two,1"], r"write op=PE,SIMD"),
        (["4"], r"write op=PE,SIMD"),
    ],
)
def test_bad_options(options: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_fold(every_op(), options)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("f.toml", "main = [8, 6]\nstem = [2, 3]\n"),
        ("f.json", '{"main": [8, 6], "stem": [2, 3]}'),
    ],
)
def test_files(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    found = read_folding(every_op(), path)
    assert (found["main"], found["stem"]) == (Folding(8, 6), Folding(2, 3))
    assert found["fc"] == default_folding(every_op())["fc"]


@pytest.mark.parametrize(
    "text", ["main = [8", "main = [8, 6, 1]", 'main = ["8", 6]', "main = 8", "a.b = [1, 1]"]
)
def test_bad_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "f.toml"
    path.write_text(text)
    with pytest.raises(InputError):
        read_folding(every_op(), path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_folding(every_op(), tmp_path / "none.toml")


def test_complete_checks_what_is_given() -> None:
    with pytest.raises(InputError, match="does not divide"):
        complete(every_op(), {"stem": Folding(5, 1)})
