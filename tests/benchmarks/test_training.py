"""The plumbing of the training benchmarks, on tiny sizes; Brevitas is not needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import brevitas_compare, training
from benchmarks.brevitas_compare import Entrant, Figures, Setting, compare
from hwq.data import Images
from hwq.models import build
from hwq.quant import ACT_METHODS, WEIGHT_METHODS
from hwq.train.batches import Batches
from hwq.train.restore import Normalise
from hwq.train.schedule import Schedule

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
TINY = ["--model", "resnet8", "--size", "8", "--batch", "4", "--rounds", "1"]


@pytest.fixture(autouse=True)
def _one_thread_only_here() -> object:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_every_method_stands_in_a_row() -> None:
    pairs = training.pairs()
    assert {w for w, _ in pairs} == set(WEIGHT_METHODS)
    assert {a for _, a in pairs} == set(ACT_METHODS)
    assert len(set(pairs)) == len(pairs)


def test_the_table_of_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.json"
    training.main([*TINY, "--only", "lsq+lsq,dorefa+mpact,brevitas", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    names = [row["name"] for row in rows if not row["name"].startswith("brevitas")]
    assert sorted(names) == ["dorefa+mpact", "float", "lsq+lsq"]
    assert rows[0]["name"] == "float"
    assert rows[0]["ratio"] == 1
    assert all(row["cpu"] > 0 and row["rate"] > 0 for row in rows)
    assert "| lsq+lsq |" in capsys.readouterr().out


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        training.main([*TINY, "--only", "lsq+nothing"])
    assert stopped.value.code == 2
    assert "no network is called lsq+nothing" in capsys.readouterr().err


def test_ratios_are_of_the_same_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine whose speed changes: the median of 2, 3, 2, not the ratio of medians 12 and 4."""
    clock = [0.0]
    monkeypatch.setattr(training.time, "process_time", lambda: clock[0])
    monkeypatch.setattr(training.time, "perf_counter", lambda: clock[0])

    def takes(*seconds: float) -> Callable[[], None]:
        left = iter((100, 100, *seconds))  # two rounds of warming up

        def step() -> None:
            clock[0] += next(left)

        return step

    steps = {"float": takes(1, 4, 16), "other": takes(2, 12, 32)}
    first, other = training.measure(steps, rounds=3, batch=8, device=torch.device("cpu"))
    assert (first.cpu, first.wall, first.ratio, first.rate) == (4, 4, 1, 2)
    assert (other.cpu, other.wall, other.ratio, other.rate) == (12, 12, 2, 8 / 12)


class Plain(Entrant):
    """The float network itself."""

    def start(self) -> None:
        """Nothing is quantised."""


def _images(count: int) -> Images:
    source = np.random.default_rng(count)
    pixels = source.integers(0, 256, (count, 8, 8, 3), np.uint8)
    return Images(pixels=pixels, labels=source.integers(0, 3, count), classes=("a", "b", "c"))


def _setting(epochs: int = 2) -> Setting:
    schedule = Schedule(epochs=epochs, batch=4, lr=0.02, schedule="onecycle", augment="crop", pad=1)
    batches = Batches(_images(12), schedule, Normalise(MEAN, STD, "cpu"), "cpu")
    return Setting(batches, schedule, _images(20), MEAN, STD, 4)


def _entrants(setting: Setting) -> dict[str, Entrant]:
    def network() -> nn.Module:
        torch.manual_seed(0)
        return build("resnet8", (8, 8, 3), 3)

    return {"hwq": brevitas_compare.Hwq(network(), setting), "float": Plain(network(), setting)}


def test_a_comparison_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    setting = _setting()
    whole = compare(_entrants(setting), setting, tmp_path, save_every=100)
    assert [len(f.losses) for f in whole.values()] == [6, 6]
    assert all(f.images == 24 for f in whole.values())
    assert whole["hwq"].integer is not None
    assert whole["float"].integer is None

    class Stopped(Exception):
        pass

    class Stops(Batches):
        def epoch(self, epoch: int, first: int = 0):  # type: ignore[no-untyped-def]
            for step, batch in enumerate(super().epoch(epoch, first), first):
                if (epoch, step) == (1, 1):
                    raise Stopped
                yield batch

    folder = tmp_path / "stopped"
    folder.mkdir()
    stops = Stops(_images(12), setting.schedule, setting.batches.normalise, "cpu")
    stopped = Setting(stops, setting.schedule, setting.test, MEAN, STD, 4)
    with pytest.raises(Stopped):
        compare(_entrants(setting), stopped, folder, save_every=1)
    again = compare(_entrants(setting), setting, folder, save_every=1)
    for name, figures in whole.items():
        assert again[name].losses == figures.losses
        assert (again[name].calibrated, again[name].trained) == (figures.calibrated, figures.trained)

    other = _setting(epochs=3)
    with pytest.raises(SystemExit, match="another --out"):
        compare(_entrants(other), other, folder)


def test_the_table_of_accuracies() -> None:
    results = {
        "a": Figures(calibrated=10, trained=88.126, integer=88.13, seconds=2, images=300),
        "b": Figures(calibrated=9, trained=87, seconds=4, images=300),
    }
    assert brevitas_compare.table(results).splitlines()[2:] == [
        "| a | 10.00 | 88.13 | 88.13 | 150 | 1.00 |",
        "| b | 9.00 | 87.00 | no simulator | 75 | 0.50 |",
    ]


def test_the_comparison_runs_without_brevitas(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(brevitas_compare, "brevitas_version", lambda: None)
    monkeypatch.setattr(brevitas_compare, "load_split", lambda spec, split: _images(12))
    normalisation = ["--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25"]
    brevitas_compare.main(
        ["--data", "digits", "--out", str(tmp_path), "--model", "resnet8", "--batch", "4", *normalisation]
    )
    stored = json.loads((tmp_path / "result.json").read_text())
    assert list(stored["results"]) == ["hwq"]
    assert stored["results"]["hwq"]["images"] == 12
    said = capsys.readouterr().out
    assert "Brevitas left out: not installed" in said
    assert "| hwq |" in said
