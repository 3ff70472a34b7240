"""The search of a format for each layer, against trying every assignment."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwq.errors import InputError
from hwq.fixed import AutoFormat, parse_format
from hwq.ir import Graph, Requantize
from hwq.sweep import Candidate, Network, Point, Store, Sweep, search
from tests.sweep.networks import EDGE, chain

REALS = [(1.0, -128.0), (0.61803, 0.3), (1.4142, -0.7), (0.91377, 2.6181), (0.7131, 0.0)]
PALETTE = ["24,auto", "5,auto", "3,auto"]


def lower(point: Point) -> Candidate:
    """A chain of five requantisations, of which the three inner ones are the body's."""
    formats = point.formats(EDGE)
    forms = [formats.of((f"r{i}",)) if 0 < i < 4 else AutoFormat(40) for i in range(5)]
    graph, real = chain(REALS, forms, 6)
    return Candidate(graph=graph, real=real)


def network(error_images: int = 300) -> Network:
    """Labels are what real constants answer, so that their accuracy is 100%."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 1, 1, 6), dtype=np.uint8)
    codes = np.clip(pixels.reshape(-1, 6).astype(float) - 128, -127, 127)
    for m, b in REALS[1:]:
        codes = np.clip(np.floor(codes * m + b + 0.5), -127, 127)
    return Network.of("abc", "random", EDGE, lower, pixels, codes.argmax(axis=1), error_images=error_images)


def every(folder: Path) -> list[dict[str, Any]]:
    """All 3^3 assignments."""
    points = [
        Point(name="24,auto", layers=tuple((f"r{i}", form) for i, form in enumerate(forms, 1)))
        for forms in product(PALETTE, repeat=3)
    ]
    return Sweep(network(), Store.open(folder / "every.csv")).rows(points)


def test_the_search_holds_the_loss_with_few_bits(tmp_path: Path) -> None:
    whole = every(tmp_path)
    store = Store.open(tmp_path / "s.csv")
    sweep = Sweep(network(), store)
    last = None
    for loss in (0.0, 2.0, 5.0, 10.0, 100.0):
        found = search(sweep, sweep, Point.parse("real"), PALETTE, loss)
        assert found is not None
        assert found["accuracy"] >= 100 - loss
        assert found in Store.open(tmp_path / "s.csv").rows
        good = sorted(row["memory"] for row in whole if row["accuracy"] >= 100 - loss)
        # a greedy search need not find the best; here it is among the best quarter
        assert found["memory"] <= good[len(good) // 4]
        assert last is None or found["memory"] <= last["memory"]
        last = found
    assert last is not None
    assert (last["format"], last["assigned"]) == ("3,auto", [])  # anything goes: the narrowest


def test_a_search_goes_on_from_its_rows(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "s.csv")
    first = search(Sweep(network(), store), Sweep(network(), store), Point.parse("real"), PALETTE, 5.0)
    before = (tmp_path / "s.json").read_bytes()
    sweep = Sweep(network(), Store.open(tmp_path / "s.csv"))
    assert search(sweep, sweep, Point.parse("real"), PALETTE, 5.0) == first
    assert (tmp_path / "s.json").read_bytes() == before


def test_nothing_within_the_loss(tmp_path: Path) -> None:
    sweep = Sweep(network(), Store.open(tmp_path / "s.csv"))
    assert search(sweep, sweep, Point.parse("real"), ["3,auto", "2,auto"], 0.1) is None


@pytest.mark.parametrize(
    ("formats", "error_images", "words"),
    [(["8,auto"], 300, "give two or more"), (["8,auto"] * 2, 300, "give two"), (PALETTE, 0, "error-images")],
)
def test_refusals(tmp_path: Path, formats: list[str], error_images: int, words: str) -> None:
    sweep = Sweep(network(error_images), Store.open(tmp_path / "s.csv"))
    with pytest.raises(InputError, match=words):
        search(sweep, sweep, Point.parse("real"), formats, 0.1)


def test_assignments_are_points_of_their_own() -> None:
    point = Point(name="16,auto", layers=(("r2", "4,auto"),))
    graphs = [lower(p).graph for p in (point, replace(point, layers=()))]
    same = [np.array_equal(_raw(graphs[0], f"r{i}"), _raw(graphs[1], f"r{i}")) for i in range(5)]
    assert same == [True, True, False, True, True]
    assert _raw(graphs[0], "r2") == parse_format("4,auto").quantize(np.array([1.4142]), bias=False).raw


def _raw(graph: Graph, name: str) -> np.ndarray:
    op = graph[name]
    assert isinstance(op, Requantize)
    return op.requant.terms[0].raw
