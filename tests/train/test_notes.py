"""What was left out of a network, or replaced, reaches its user; runs of such networks go on."""

from __future__ import annotations

from pathlib import Path

import torch
from click.testing import CliRunner
from torch import nn

from hwq.cli import group
from hwq.models import build
from hwq.quant import logits_network
from hwq.train import load, train
from hwq.train.checkpoint import fill, load_weights
from hwq.train.distill import load_teacher
from hwq.train.posttraining import Calibration, calibrate_run
from tests.train.runs import FLOAT, TINY, W4, Watch, recipe, run, sample

SOFTENED = f"{Path(__file__).with_name('tiny.py')}:softened"
NOTES = (
    "weight_norm of 'conv' is computed once: from here on its weight is trained itself",
    "the last x.softmax is left out: logits have the same largest class, and the loss uses logits",
)


def test_training_calibration_and_inspection_say_so(tmp_path: Path) -> None:
    watch = Watch()
    chosen = recipe(model=SOFTENED, policy=FLOAT, epochs=1)
    train(chosen, tmp_path / "float", reporter=watch, test_images=sample())
    assert [note for note in watch.notes if note in NOTES] == list(NOTES)
    options = Calibration(images=64, test_images=50)
    done = calibrate_run(recipe(model=SOFTENED, policy=W4), tmp_path / "float", tmp_path / "w4", options)
    assert "the last x.softmax is left out" in "\n".join(done.notes)
    shown = CliRunner().invoke(group, ["inspect", str(tmp_path / "w4")])
    assert shown.exit_code == 0, shown.output
    assert all(note in shown.output.splitlines() for note in NOTES)
    again = recipe(model=SOFTENED, policy=W4, start=tmp_path / "w4", epochs=1)
    result, _ = run(again, tmp_path / "trained")
    assert result.accuracy > 0


def test_a_teacher_teaches_with_its_logits(tmp_path: Path) -> None:
    """From a float run of such a network: both its own accuracy and its lessons are those of logits."""
    run(recipe(model=SOFTENED, policy=FLOAT, epochs=1), tmp_path / "float")
    chosen = recipe(model=SOFTENED, policy=W4, start=tmp_path / "float", epochs=1, distill=0.5)
    run(chosen, tmp_path / "taught")
    meta = load(tmp_path / "float").meta
    teacher = load_teacher(chosen, meta)
    assert teacher is not None
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = teacher(images)
        plain = build(SOFTENED, meta.image_shape, 10)
        fill(plain, load_weights(tmp_path / "float", plain)[0], "run", "net")
        (shares,) = plain.eval()(images).values()
    assert float((logits.sum(1) - 1).abs().min()) > 1e-3  # no shares of 1
    # float32: log(softmax) of either
    torch.testing.assert_close(logits.log_softmax(1), shares.log(), rtol=0, atol=1e-5)


def test_networks_that_return_logits_are_taken_as_they_are() -> None:
    network = build(TINY, (8, 8, 1), 10)
    assert logits_network(network, (8, 8, 1)) is network
    other = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(144, 10))
    assert logits_network(other, (8, 8, 1)) is other
