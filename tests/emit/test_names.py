"""Nothing a user types reaches C++ unescaped."""

from __future__ import annotations

import re

import numpy as np
import pytest

from hwq.emit import emit
from hwq.emit.names import c_string, clean, identifiers
from hwq.ir import Graph, Input, Output
from hwq.simulate.oracle import run_oracle
from tests.emit.conftest import Maker, Runner
from tests.graphs import random_pixels

HOSTILE = [
    'a"; system("x',
    "*/ int evil; /*",
    "// \\",
    "a\nb",
    "while",
    "int",
    "std",
    "",
    "3d",
    "été",
    "été ",
    "名前",
    "a b",
    "a_b",
    "A_B",
    "a__b_",
    "??/",
    "%s%n",
    "{{ 7*7 }}",
    "x" * 300,
    "errno",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_clean(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*", clean(name))
    assert len(clean(name)) <= 43


def test_identifiers_differ_even_without_case() -> None:
    found = identifiers(HOSTILE)
    assert len({name.lower() for name in found.values()}) == len(HOSTILE)


def test_identifiers_that_collide_with_a_suffix() -> None:
    assert len(set(identifiers(["a b", "a_b", "a_b_2", "a.b"]).values())) == 4


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("conv1", '"conv1"'),
        ('a"b', '"a\\042b"'),
        ("\\1", '"\\1341"'),
        ("é", '"\\303\\251"'),
        ("??/", '"\\077\\077/"'),
    ],
)
def test_c_string(text: str, literal: str) -> None:
    assert c_string(text) == literal


def test_hostile_names_compile_and_run(runner: Runner) -> None:
    m = Maker((2, 2, 2))
    x = m.input
    for name in HOSTILE:
        x = m.requant(name or "?", x)
    made = m.finish(name='net"; */ system("x')
    pixels = random_pixels(made, 2, 0)
    project = emit(made)
    got = runner.run(project, made, pixels, "native")
    np.testing.assert_array_equal(got["out"], run_oracle(made, pixels)["out"])
    code = b"".join(c for n, c in project.files.items() if n.startswith(("firmware/", "vi", "hls_config")))
    assert b'system("' not in code
    assert b"evil; /*" not in code


def test_input_straight_to_output(runner: Runner) -> None:
    m = Maker((2, 3, 1))
    graph = m.finish()
    assert isinstance(graph, Graph)
    assert [type(op) for op in graph] == [Input, Output]
    pixels = random_pixels(graph, 3, 0)
    for build in ("ap", "native"):
        np.testing.assert_array_equal(runner.run(emit(graph), graph, pixels, build)["out"], pixels)
