"""How many images a simulation takes unasked, and whose accuracies stand beside its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hwq.cli.export import ExportOptions, export_run
from hwq.cli.simulate import default_images
from hwq.cosim.manifest import read_manifest
from hwq.train import train
from tests.train.runs import recipe, sample


@pytest.mark.parametrize(
    ("macs", "build", "total", "count"),
    [
        (40_550_000, "ap", 10_000, 200),  # ResNet-20
        (40_550_000, "ap", 150, 150),
        (1_813_563_392, "ap", 50_000, 8),  # ResNet-18 at 224 pixels
        (1_813_563_392, "native", 50_000, 50_000),
        (99_000_000_000, "ap", 50_000, 1),
        (0, "ap", 355, 200),
    ],
)
def test_default_images(macs: int, build: str, total: int, count: int) -> None:
    assert default_images(macs, build, total) == count


def test_training_says_nothing_about_other_images(tmp_path: Path) -> None:
    train(recipe(epochs=0), tmp_path / "run", test_images=sample())
    pixels = np.zeros((8, 8), np.uint8)
    for name in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "images" / name / "0.png")
    for data, known in ((None, True), ("digits", True), (f"folder:{tmp_path / 'images'}", False)):
        done = export_run(tmp_path / "run", ExportOptions(allow_lossy=True, out=tmp_path / "hls", data=data))
        assert bool(read_manifest(done.folder).raw["accuracy"]) is known
