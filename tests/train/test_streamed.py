"""Training on images that are decoded while they are used: the same batches whatever decodes them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hwq.data import DataSpec, load_split
from hwq.errors import InputError
from hwq.train import Interrupted, Recipe, Schedule, Silent, resume_recipe, train
from hwq.train.batches import Batches
from hwq.train.distributed import World
from hwq.train.recipe import default_recipe, recipe_from_dict
from hwq.train.restore import Normalise

COUNT = 20


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of flat colours, 20 images each, of many sizes."""
    base, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split in ("train", "test"):
        for label, name in enumerate(("dark", "light")):
            (base / split / name).mkdir(parents=True)
            for i in range(COUNT):
                height, width = random.integers(12, 30, 2)
                pixels = random.integers(0, 100, (height, width, 3)) + 150 * label
                Image.fromarray(pixels.astype(np.uint8)).save(base / split / name / f"{i:02}.png")
    return base


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.set_num_threads(1)


def _spec(root: Path, **keys: Any) -> DataSpec:
    return DataSpec(name="folder", root=str(root), size=10, resize=12, **keys)


def _batches(root: Path, world: World | None = None, *, workers: int = 0, **keys: Any) -> Batches:
    schedule = Schedule(**{"batch": 8, "augment": "resized-crop", "jitter": 0.3, **keys})
    files = schedule.augment == "resized-crop"
    split = load_split(_spec(root), "train", files=files, workers=workers)
    return Batches(split, schedule, Normalise((0.5,) * 3, (0.2,) * 3, "cpu"), "cpu", world)


def _all(batches: Batches, epoch: int, first: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(images.clone(), labels.clone()) for images, labels in batches.epoch(epoch, first)]


def _equal(one: Any, other: Any) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    )


@pytest.mark.parametrize("augment", ["resized-crop", "crop-flip"])
def test_a_batch_depends_on_its_position_alone(root: Path, augment: str) -> None:
    keys = {"augment": augment, "jitter": 0.3 if augment == "resized-crop" else 0.0}
    whole = _all(_batches(root, **keys), 3)
    assert [len(labels) for _, labels in whole] == [8] * 5
    for workers, first in ((0, 2), (2, 0), (2, 4)):
        assert _equal(_all(_batches(root, workers=workers, **keys), 3, first), whole[first:])
    assert not _equal(_all(_batches(root, **keys), 4), whole)
    assert not _equal(_all(_batches(root, **keys, seed=1), 3), whole)


@pytest.mark.parametrize("augment", ["resized-crop", "crop-flip"])
def test_processes_share_what_one_would_see(root: Path, augment: str) -> None:
    keys = {"augment": augment, "jitter": 0.0, "batch": 7}
    whole = _all(_batches(root, **keys), 1)
    shares = [_all(_batches(root, World(rank=rank, size=3), **keys), 1) for rank in range(3)]
    for step, (images, labels) in enumerate(whole):
        assert torch.equal(torch.cat([share[step][0] for share in shares]), images)
        assert torch.equal(torch.cat([share[step][1] for share in shares]), labels)


def test_streamed_and_resident_sets_give_one_sample(root: Path) -> None:
    one, other = (_batches(root, augment=a, jitter=0.0) for a in ("resized-crop", "none"))
    assert _equal([(x,) for x in one.sample(30, 16)], [(x,) for x in other.sample(30, 16)])
    assert [len(part) for part in one.sample(40)] == [40]


class _CtrlC(Silent):
    def __init__(self, at: int) -> None:
        self.at, self.losses = at, list[float]()

    def step(self, loss: float, speed: float) -> None:
        self.losses.append(loss)
        if len(self.losses) == self.at:
            os.kill(os.getpid(), signal.SIGINT)


def test_resume_is_exact_with_other_workers(root: Path, tmp_path: Path) -> None:
    schedule = Schedule(epochs=2, batch=8, lr=0.05, augment="resized-crop", calibrate=16)
    recipe = Recipe(model="resnet8", data=_spec(root, memory=0.0), train=schedule)
    whole, first, second = _CtrlC(-1), _CtrlC(7), _CtrlC(-1)
    train(recipe, tmp_path / "whole", reporter=whole, workers=0)
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "parts", reporter=first, workers=2)
    train(resume_recipe(tmp_path / "parts"), tmp_path / "parts", resume=True, reporter=second, workers=1)
    assert first.losses + second.losses == whole.losses
    rows = [
        [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("whole", "parts")
    ]
    assert [r["test_accuracy"] for r in rows[0]] == [r["test_accuracy"] for r in rows[1]]


def test_a_bad_file_stops_training_or_is_left_out(root: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    for path in root.rglob("*.png"):
        copy = bad / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (bad / "train" / "dark" / "07.png").write_bytes(b"\x89PNG")
    schedule = Schedule(epochs=1, batch=8, augment="resized-crop", calibrate=0)
    recipe = Recipe(model="resnet8", data=_spec(bad), train=schedule)
    with pytest.raises(InputError, match=r"dark/07\.png: cannot read"):
        train(recipe, tmp_path / "run", workers=2)
    assert not (tmp_path / "run").exists()

    class Notes(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    notes: list[str] = []
    skipping = Recipe(model="resnet8", data=_spec(bad, skip_bad=True), train=schedule)
    train(skipping, tmp_path / "run2", workers=0, reporter=Notes())
    assert any(n.startswith("1 unreadable training images left out") and "07.png" in n for n in notes)


def test_recipes_for_folders_with_a_size(root: Path) -> None:
    recipe = default_recipe(_spec(root))
    assert (recipe.model, recipe.train.augment) == ("resnet18", "resized-crop")
    text = {"data": {"name": "imagenet"}, "train": {"jitter": 0.4}, "pretrained": "x.pth"}
    read = recipe_from_dict(text, Path("/base"))
    assert (read.pretrained, read.train.augment) == ("/base/x.pth", "resized-crop")
    assert recipe_from_dict(read.to_dict()) == read
    for wrong, message in (
        ({"data": {"name": "digits"}, "train": {"augment": "resized-crop"}}, "needs a folder"),
        ({"data": {"name": "digits"}, "train": {"jitter": 0.1}}, "jitter goes with"),
        ({**text, "init_from": "y.pt"}, "not both"),
    ):
        with pytest.raises(InputError, match=message):
            recipe_from_dict(wrong)
