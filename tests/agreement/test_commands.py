"""`hwq simulate` and `hwq evaluate --integer`: networks that agree, a planted fault, and a project alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from hwq.data import DataSpec, load_split
from hwq.lower.values import Term
from hwq.train import Normalise, restore
from tests.cli.conftest import Hwq


@pytest.fixture(scope="module")
def own(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the trained run to export into."""
    return Path(shutil.copytree(trained, tmp_path_factory.mktemp("own") / "run"))


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every multiplier has the wrong sign: Python and C++ agree about another network than the user's."""
    right = Term.multiplier
    monkeypatch.setattr(Term, "multiplier", lambda self, scale: -right(self, scale))


def torch_answers(run: Path, pixels: np.ndarray) -> np.ndarray:
    model, meta = restore(run)
    with torch.no_grad():
        return model(Normalise(meta.mean, meta.std, "cpu")(torch.from_numpy(pixels))).argmax(1).numpy()


def test_simulate_states_what_agrees(own: Path, tmp_path: Path, hwq: Hwq) -> None:
    assert hwq("export", own).code == 0
    done = hwq("simulate", own, "--build", "native", "--json", tmp_path / "v.json")
    assert done.code == 0, done.err
    assert "WARNING" not in done.out
    verdict = json.loads((tmp_path / "v.json").read_text())
    split = load_split(DataSpec(name="digits"), "test").head(250)
    right = np.count_nonzero(torch_answers(own, split.pixels) == split.labels)
    found = verdict["agreement"]
    assert found["answers"]["images"] == 250
    assert found["answers"]["trained"] == 100 * right / 250
    assert found["answers"]["agreement"] >= 99
    assert f"agreement with the fake-quantised network: {found['answers']['agreement']:.2f}%" in done.out
    assert "codes that differ on equal inputs: " in done.out
    assert found["codes"]["images"] == 100
    assert found["codes"]["layers"][0]["op"] == "input_quant"
    assert found["codes"]["share"] < 0.001
    assert (verdict["warnings"], verdict["agreement_unknown"]) == ([], "")
    assert verdict["logits"]["form"] == "32,16"
    assert verdict["logits"]["clipped"] == 0
    page = (own / "hls" / "report.html").read_text()
    assert "Trained network and integers" in page
    assert 'class="alarm"' not in page


def test_a_network_that_is_not_the_users(own: Path, tmp_path: Path, hwq: Hwq, faulty: None) -> None:
    """Equal to the bit, so exit code 0; but nobody can miss that it is another network."""
    assert hwq("export", own, "--out", own / "bad").code == 0
    done = hwq("simulate", own / "bad", "--build", "native", "--json", tmp_path / "v.json")
    assert done.code == 0
    last = done.out[done.out.index("PASS: ") :]
    assert "WARNING: the integers answer " in last
    assert "This is not the network that was trained" in last
    verdict = json.loads((tmp_path / "v.json").read_text())
    assert verdict["passed"]
    assert verdict["agreement"]["answers"]["beyond_chance"]
    assert all(line in " ".join(done.out.split()) for line in verdict["warnings"])
    assert 'class="alarm"' in (own / "bad" / "report.html").read_text()
    # without the checkpoint what training recorded still tells
    alone = Path(shutil.copytree(own / "bad", tmp_path / "alone"))
    done = hwq("simulate", alone, "--build", "native")
    assert done.code == 0
    assert "not compared with the trained network: no checkpoint.safetensors" in done.out
    assert "in training: more than chance explains" in done.out
    # as evaluate says, of the network that it lowers itself
    done = hwq("evaluate", own, "--integer", "--images", 100)
    assert done.code == 0
    assert "WARNING: the integers answer " in done.out


def test_a_project_of_another_network(own: Path, tmp_path: Path, hwq: Hwq) -> None:
    run = Path(shutil.copytree(own, tmp_path / "run", ignore=shutil.ignore_patterns("hls", "bad")))
    assert hwq("export", run, "--fixed", "24,auto").code == 0
    model, meta = restore(run)
    from hwq.train.checkpoint import LAST, save_checkpoint

    with torch.no_grad():
        next(model.parameters()).mul_(-1)
    save_checkpoint(run / LAST, meta, model, {})
    done = hwq("simulate", run, "--build", "native", "--images", 5)
    assert done.code == 0
    assert "is not what this project was exported from" in done.out


def test_clipped_logits(own: Path, tmp_path: Path, hwq: Hwq) -> None:
    """An edge of 12,1 clips: as often in every command as sums leave +-2047."""
    pixels = load_split(DataSpec(name="digits"), "test").pixels
    done = hwq("export", own, "--edge-fixed", "12,1", "--out", own / "narrow", "--allow-lossy")
    assert done.code == 0
    done = hwq("simulate", own / "narrow", "--build", "native", "--json", tmp_path / "v.json")
    assert done.code == 0
    found = json.loads((tmp_path / "v.json").read_text())["logits"]
    from hwq.serde import load
    from hwq.simulate import Simulator, unclipped

    graph = load(own / "narrow")
    free = unclipped(graph, Simulator(graph, 1).run(pixels, keep="all").outputs)
    assert found["clipped"] == np.count_nonzero(np.abs(free) > 2047) > 0
    assert found["clipped_images"] == np.count_nonzero((np.abs(free) > 2047).any(axis=1))
    line = f"WARNING: {found['clipped']:,} of {free.size:,} logits"
    assert line in done.out[done.out.index("PASS: ") :]
    done = hwq("evaluate", own, "--integer", "--edge-fixed", "12,1", "--json", tmp_path / "e.json")
    assert done.code == 0
    assert line in done.out
    assert json.loads((tmp_path / "e.json").read_text())["logits"] == found
    done = hwq(
        "sweep", own, "--fixed", "32,10", "--edge-fixed", "12,1", "--no-picture", "--out", tmp_path / "s.csv"
    )
    assert done.code == 0
    rows = json.loads((tmp_path / "s.json").read_text())["rows"]
    stored = next(row for row in rows if row["format"] == "32,10")
    assert {key: stored[key] for key in ("clipped", "clipped_images")} == {
        key: found[key] for key in ("clipped", "clipped_images")
    }
    worst = max(rows, key=lambda row: (row["clipped_images"], row["clipped"]))
    assert (
        f"at most {worst['clipped']:,} in {worst['clipped_images']:,} of {len(pixels):,} images"
        in " ".join(done.out.split())
    )


def test_evaluate_as_simulate(own: Path, tmp_path: Path, hwq: Hwq) -> None:
    done = hwq("evaluate", own, "--integer", "--json", tmp_path / "e.json")
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "e.json").read_text())
    split = load_split(DataSpec(name="digits"), "test")
    right = np.count_nonzero(torch_answers(own, split.pixels) == split.labels)
    assert found["answers"]["trained"] == 100 * right / len(split)
    assert f"fake-quantised {100 * right / len(split):.2f}%, integers" in done.out
    plain = hwq("evaluate", own)
    assert f"{100 * right / len(split):.2f}% of {len(split)}" in plain.out
    assert hwq("evaluate", own, "--fixed", "16,8").code != 0


def test_a_network_trained_for_its_constants(trained: Path, tmp_path: Path, hwq: Hwq) -> None:
    """Its answers are compared as it was trained, with floor: by half up they would be another network's."""
    out = tmp_path / "floor"
    formats = ("--fixed", "16,auto", "--round", "trn")
    assert hwq("train", "--finetune", trained, *formats, "--epochs", 0, "--out", out).code == 0
    done = hwq("evaluate", out, "--integer", *formats, "--json", tmp_path / "e.json")
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "e.json").read_text())
    assert (found["trained_network"], found["warnings"]) == ("fixed-point trained", [])
    assert found["answers"]["agreement"] >= 99
    # floor changes half of the codes that are not clamped
    assert 0.1 < found["codes"]["share"] < 0.6
