"""The sweep: local error shares by hand, sharing, resuming, two at once."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwq.engine import Preference, real_codes, simulator
from hwq.errors import InputError
from hwq.fixed import Rounding, parse_format
from hwq.ir import Requantize
from hwq.lower import RealConstants
from hwq.sweep import (
    Candidate,
    Point,
    Store,
    Sweep,
    Unwatched,
    body_layers,
    clipping_warning,
    digest,
    evaluate,
    local_errors,
    logits_snr,
    memory_bits,
    sampled,
)
from tests.sweep.networks import REALS, S8, chain, images, lower_three, network, three_steps


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize("text", ["8,4", "4,2", "40,auto"])
def test_local_errors_by_hand(text: str, engine: Preference) -> None:
    """Only the body's share counts, and it is that of its own constants on the codes it really got."""
    pixels, labels = images()
    candidate = three_steps(parse_format(text))
    runner = simulator(candidate.graph, 1, engine)
    result = evaluate(candidate, pixels, labels, runner, errors=len(pixels))
    assert body_layers(candidate.graph) == ("r1",)
    body = candidate.graph["r1"]
    assert isinstance(body, Requantize)
    m, b = body.requant.terms[0].values()[0], body.requant.bias.values()[0]
    codes = np.clip(pixels.astype(float) - 128, -127, 127)
    stored = np.clip(np.floor(codes * m + b + 0.5), -127, 127)
    exact = np.clip(np.floor(codes * REALS[1][0] + REALS[1][1] + 0.5), -127, 127)
    assert result.layers == {"r1": np.count_nonzero(stored != exact) / stored.size}
    assert (result.layers["r1"] > 0) == (text != "40,auto")
    assert set(result.edge_layers) == {"r0", "r2"}
    logits = np.clip(np.floor(stored * 0.5 + 0.5), -127, 127).reshape(-1, 2)
    assert result.accuracy == 100 * np.count_nonzero(logits.argmax(1) == labels) / len(labels)
    assert np.array_equal(result.logits, logits)
    found = local_errors(runner, pixels, candidate.real)
    assert (found.noise["r1"], found.signal["r1"]) == (np.sum((stored - exact) ** 2), np.sum(exact**2))
    noise = np.sum((stored - exact) ** 2)
    assert result.snr["r1"] == (10 * np.log10(np.sum(exact**2) / noise) if noise else None)


@settings(max_examples=25)
@given(st.data())
def test_real_codes_are_their_formula(data: st.DataObject) -> None:
    """Whatever shape, rows and slices: the same float64 operations in the same order, element by element."""
    shape = data.draw(st.sampled_from([(3,), (5, 7, 2), (1, 1, 6), (70, 70, 16)]), "shape")
    terms = data.draw(st.integers(1, 2), "terms")
    shared = data.draw(st.booleans(), "shared")
    rounding = data.draw(st.sampled_from([Rounding.RND, Rounding.TRN]), "rounding")
    rng = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    size = 1 if shared else shape[-1]
    real = RealConstants(terms=tuple(rng.normal(size=size) for _ in range(terms)), bias=rng.normal(size=size))
    inputs = [rng.integers(-90, 90, (3, *shape)) for _ in range(terms)]
    candidate = three_steps(parse_format("8,4"), shape[-1])
    op = candidate.graph["r1"]
    assert isinstance(op, Requantize)
    op = replace(op, out=replace(op.out, shape=shape), requant=replace(op.requant, rounding=rounding))
    total = np.zeros((3, *shape))
    for x, m in zip(inputs, real.terms, strict=True):
        total = total + x * m
    total = total + real.bias
    if rounding is Rounding.RND:
        total = total + 0.5
    assert np.array_equal(real_codes(op, real, inputs), np.clip(np.floor(total), S8.lo, S8.hi))


@given(st.integers(1, 200), st.integers(0, 200))
def test_the_sample_is_spread_and_nothing_is_lost(count: int, errors: int) -> None:
    few = min(errors, count)
    order = sampled(count, few)
    assert sorted(order) == list(range(count))
    steps = np.diff(order[:few])
    assert few < 2 or steps.max() - steps.min() <= 1


def test_accuracy_is_of_all_images_and_errors_of_some() -> None:
    pixels, labels = images()
    candidate = three_steps(parse_format("4,2"))
    runner = simulator(candidate.graph, 1)
    whole = evaluate(candidate, pixels, labels, runner, errors=len(pixels))
    some = evaluate(candidate, pixels, labels, runner, errors=7)
    none = evaluate(candidate, pixels, labels, runner, errors=0)
    assert whole.accuracy == some.accuracy == none.accuracy
    assert np.array_equal(whole.logits, some.logits)
    assert some.layers == evaluate(candidate, pixels[:7], labels[:7], runner, errors=7).layers
    assert none.layers == {}


def test_logits_snr() -> None:
    real = np.array([[3, -4], [0, 0]])
    assert logits_snr(real, real) is None
    assert logits_snr(real + np.array([[0, 1], [0, 0]]), real) == 10 * np.log10(25 / 1)


@pytest.mark.parametrize(
    ("text", "bits"),
    # two vectors of one value each (r1), and four of 40 bits
    [("8,4", 16 + 160), ("16,auto", 32 + 160), ("12,channel", 24 + 160), ("shift", 2 + 16 + 160)],
)
def test_memory(text: str, bits: int) -> None:
    assert memory_bits(three_steps(parse_format(text)).graph) == bits


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("16,8", "18,10", True),  # the same eight fraction bits
        ("16,8", "16,8,RND,WRAP", True),  # nothing overflows
        ("16,8", "16,7", False),
        ("8,auto", "9,auto", False),
    ],
)
def test_digests(one: str, other: str, same: bool) -> None:
    graphs = [three_steps(parse_format(text)).graph for text in (one, other)]
    assert (digest(graphs[0]) == digest(graphs[1])) is same


class Lowered:
    """A lowering that keeps a list of what it lowered, and of what was run."""

    def __init__(self, stop: str = "") -> None:
        self.names: list[str] = []
        self.run: list[str] = []
        self.stop = stop

    def __call__(self, point: Point) -> Candidate:
        if point.name == self.stop:
            raise KeyboardInterrupt
        self.names.append(point.name)
        return lower_three(point)

    def images(self, point: Point, done: int) -> None:
        if done < 150 and point.name not in self.run:
            self.run.append(point.name)

    def note(self, text: str) -> None: ...


def points(*names: str) -> list[Point]:
    return [Point.parse(name) for name in names]


def test_stored_rows_are_not_computed_again(tmp_path: Path) -> None:
    path = tmp_path / "sweep.csv"
    first = Sweep(network(), Store.open(path)).rows(points("real", "8,4"))
    made = Lowered()
    rows = Sweep(network(made), Store.open(path)).rows(points("real", "8,4", "16,auto", "8,4"))
    assert made.names == ["real", "16,auto"]  # the reference again: its logits are not in the files
    assert rows[:2] == first
    assert [row["format"] for row in rows] == ["real", "8,4", "16,auto"]
    again = Lowered()
    assert Sweep(network(again), Store.open(path)).rows(points("real", "8,4", "16,auto")) == rows
    assert again.names == []
    # another checkpoint is another measurement; the old rows stay
    Sweep(network(checkpoint="def"), Store.open(path)).rows(points("8,4"))
    found = [(row["checkpoint"], row["format"]) for row in Store.open(path).rows]
    assert found == [("abc", "real"), ("abc", "8,4"), ("abc", "16,auto"), ("def", "real"), ("def", "8,4")]


def test_equal_constants_run_once(tmp_path: Path) -> None:
    """Here and in an earlier sweep; what belongs to the format itself is its own."""
    path = tmp_path / "sweep.csv"
    made = Lowered()
    sweep = Sweep(network(made), Store.open(path), watcher=made)
    _, narrow, wide = sweep.rows(points("real", "16,8", "18,10"))
    assert made.run == ["real", "16,8"]
    later = Lowered()
    (wider,) = Sweep(network(later), Store.open(path), watcher=later).rows(points("20,12"))
    assert later.run == ["real"]
    own = {"format", "memory", "seal"}
    for other in (wide, wider):
        assert {k for k in narrow if narrow[k] != other[k]} == own
    assert wide["memory"] - narrow["memory"] == 4


def test_another_threshold_judges_stored_rows_anew(tmp_path: Path) -> None:
    def clean(point: Point) -> Candidate:
        return replace(lower_three(point), harmful={})

    found = []
    for above in (0.0, 1.0):
        sweep = Sweep(network(clean), Store.open(tmp_path / "s.csv"), wrong_above=above)
        found.append([row["first_wrong"] for row in sweep.rows(points("real", "8,4"))])
        assert [row["first_wrong"] for row in Store.open(tmp_path / "s.csv").rows] == found[-1]
    assert found == [["", "r1"], ["", ""]]


def test_harmful_constants_are_wrong_whatever_the_codes(tmp_path: Path) -> None:
    sweep = Sweep(network(), Store.open(tmp_path / "s.csv"), wrong_above=1.0)
    (row,) = sweep.rows(points("8,4"))
    assert (row["first_wrong"], row["saturated"], row["vanished"], row["harmful"]) == ("r1", 1, 2, 3)


def test_an_interrupted_sweep_keeps_its_rows(tmp_path: Path) -> None:
    sweep = Sweep(network(Lowered(stop="16,auto")), Store.open(tmp_path / "s.csv"))
    with pytest.raises(KeyboardInterrupt):
        sweep.rows(points("real", "8,4", "16,auto"))
    assert [row["format"] for row in Store.open(tmp_path / "s.csv").rows] == ["real", "8,4"]
    assert {p.name for p in tmp_path.iterdir()} >= {"s.csv", "s.json"}


def test_a_row_of_another_sweep_is_taken_when_it_comes(tmp_path: Path) -> None:
    """Both sweeps start without rows; the second has measured everything before the first gets to it."""
    path = tmp_path / "s.csv"
    wanted = points("real", "8,4", "16,auto")

    class Slow(Unwatched):
        def images(self, point: Point, done: int) -> None:
            if point.name == "real" and not self.beaten:
                self.beaten = Sweep(network(), Store.open(path)).rows(wanted)

        beaten: list[dict[str, object]] | None = None

    made = Lowered()
    slow = Slow()
    rows = Sweep(network(made), Store.open(path), watcher=slow).rows(wanted)
    assert rows == slow.beaten
    assert Store.open(path).rows == rows


def _write(path: Path, widths: range) -> None:
    sweep = Sweep(network(), Store.open(path), engine="native", threads=1)
    sweep.rows([Point.parse(f"{w},auto") for w in widths])


def test_two_sweeps_into_one_file_at_once(tmp_path: Path) -> None:
    """Overlapping points: the union of the rows, each once."""
    path = tmp_path / "s.csv"
    simulator(three_steps(parse_format("8,4")).graph, 1, "native")  # compiled before the processes part
    fork = multiprocessing.get_context("fork")
    runs = [fork.Process(target=_write, args=(path, span)) for span in (range(4, 16), range(10, 22))]
    for run in runs:
        run.start()
    for run in runs:
        run.join(120)
    assert [run.exitcode for run in runs] == [0, 0]
    names = [row["format"] for row in json.loads(path.with_suffix(".json").read_text())["rows"]]
    assert sorted(names) == sorted(["real", *(f"{w},auto" for w in range(4, 22))])
    assert len(path.read_text().splitlines()) == len(names) + 1


def test_a_lowering_that_fails_is_the_users_error(tmp_path: Path) -> None:
    def refuse(point: Point) -> Candidate:
        raise InputError("not this one")

    with pytest.raises(InputError, match="not this one"):
        Sweep(network(refuse), Store.open(tmp_path / "s.csv")).rows(points("8,4"))


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize("errors", [0, 40, 150])
def test_clipped_logits_are_counted(tmp_path: Path, engine: Preference, errors: int) -> None:
    """Logits of 2 * r1 in 8 bits: what leaves +-127, of all images, in every row and in words."""
    reals = [*REALS[:2], (2.0, 0.0)]

    def lower(point: Point) -> Candidate:
        graph, real = chain(reals, [parse_format(text) for text in ("40,auto", "8,4", "40,auto")], 2)
        return Candidate(graph=graph, real=real)

    swept = replace(network(lower), error_images=errors)
    rows = Sweep(swept, Store.open(tmp_path / "s.csv"), engine=engine, threads=1).rows([Point.parse("8,4")])
    body = lower(Point.parse("8,4")).graph["r1"]
    assert isinstance(body, Requantize)
    m, b = body.requant.terms[0].values()[0], body.requant.bias.values()[0]
    codes = np.clip(np.floor((np.clip(swept.pixels.astype(float) - 128, -127, 127)) * m + b + 0.5), -127, 127)
    beyond = np.abs(2 * codes.reshape(-1, 2)) > 127
    assert 0 < rows[0]["clipped_images"] < len(beyond)
    assert (rows[0]["clipped"], rows[0]["clipped_images"]) == (beyond.sum(), beyond.any(axis=1).sum())
    assert f"at most {beyond.sum()} in {beyond.any(axis=1).sum()} of 150 images" in clipping_warning(rows)
    assert clipping_warning([{**rows[0], "clipped": 0}]) == ""
