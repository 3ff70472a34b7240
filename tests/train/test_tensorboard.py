"""TensorBoard's files, and how codes are used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from hwq.errors import InputError
from hwq.models import build
from hwq.quant import ActQuantizer, Policy, prepare
from hwq.train import Interrupted, load, resume_recipe
from hwq.train.tensorboard import Board
from hwq.train.usage import code_usage
from tests.train.runs import STEPS, TINY, metrics, recipe, run


def _points(out: Path) -> dict[str, dict[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(out / "tensorboard")).Reload()
    return {tag: {e.step: e.value for e in read.Scalars(tag)} for tag in read.Tags()["scalars"]}


def test_points_are_those_of_the_run(tmp_path: Path) -> None:
    chosen = recipe(tensorboard=True, epochs=4)
    with pytest.raises(Interrupted):
        run(chosen, tmp_path / "run", at=3 * STEPS + 2)
    run(resume_recipe(tmp_path / "run"), tmp_path / "run", resume=True)
    points = _points(tmp_path / "run")
    rows = metrics(tmp_path / "run")
    for name in ("loss", "test_accuracy", "lr"):
        expected = {STEPS * int(row["epoch"]): pytest.approx(row[name], rel=1e-6) for row in rows}  # float32
        assert points[f"epoch/{name}"] == expected
    assert list(points["train/loss"]) == list(points["train/lr"]) == [10, 20]
    scales = {tag for tag in points if tag.startswith("weights_scale/")}
    assert scales == {f"weights_scale/{name}" for name in ("stem", "conv", "linear")}
    used = {t: v for t, v in points.items() if "codes_used" in t}
    assert len(used) == 3 + 4
    assert all(0 < share <= 1 for line in used.values() for share in line.values())
    alpha = load(tmp_path / "run").model["relu1_quant.raw"]
    bound = points["activations_bound/relu1_quant"][4 * STEPS]
    assert bound == pytest.approx(float(nn.functional.softplus(alpha)), rel=1e-5)  # float32


def test_what_came_after_the_checkpoint_is_dropped(tmp_path: Path) -> None:
    for first, last, loss in ((1, 30, 1.0), (16, 20, 2.0)):
        board = Board(tmp_path / "tensorboard", first - 1)
        for done in range(first, last + 1):
            board.step(done, loss, 0.1)
        board.close()
    assert _points(tmp_path)["train/loss"] == {10: 1.0, 20: 2.0}


def test_usage_counts_codes() -> None:
    torch.manual_seed(0)
    policy = Policy(weight_bits=2, act_bits=2, weight_method="uniform", act_method="uniform")
    model = prepare(build(TINY, (8, 8, 1), 10), policy, (8, 8, 1)).eval()
    model.train(True)
    with torch.no_grad():
        model.conv.weight.fill_(1.0)
    rows = {row.name: row for row in code_usage(model, torch.randn(8, 1, 8, 8))}
    assert model.training
    assert (rows["conv"].share, rows["conv"].scale, rows["conv"].bound) == (1 / 3, 1.0, 1.0)
    assert rows["stem"].share == 1.0
    quantizer = model.get_submodule("relu1_quant")
    assert isinstance(quantizer, ActQuantizer)
    quantizer.set_bound(1e6)  # everything rounds to code 0 of 0..3
    assert {r.name: r for r in code_usage(model, torch.randn(8, 1, 8, 8))}["relu1_quant"].share == 0.25


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwq.train.tensorboard.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'hwq\[tensorboard\]'"):
        run(recipe(tensorboard=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_nothing_is_written_unasked(tmp_path: Path) -> None:
    run(recipe(epochs=0), tmp_path / "run")
    assert not (tmp_path / "run" / "tensorboard").exists()
