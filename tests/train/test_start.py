"""What a run takes over from the one that it starts from."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hwq.models import build
from hwq.quant import ACT_METHODS, INPUT_QUANT, WEIGHT_METHODS, ActQuantizer, Policy, prepare
from hwq.train import load, restore, train
from hwq.train.checkpoint import Meta, load_weights, save_checkpoint
from tests.train.runs import DIGITS, W4, Watch, recipe, run, sample

QUANT_NAMES = f"{Path(__file__).with_name('tiny.py')}:named_like_quantisers"


@pytest.mark.parametrize("other", [False, True], ids=["same", "other"])
def test_ranges_are_kept_only_for_the_same_images(tmp_path: Path, other: bool) -> None:
    run(recipe(policy=W4, epochs=0), tmp_path / "first")
    first = load(tmp_path / "first")
    seen = {"mean": (0.1,), "std": (0.1,)} if other else {"mean": first.meta.mean, "std": first.meta.std}
    chosen = replace(recipe(policy=W4, epochs=0, start=tmp_path / "first"), **seen)
    watch = Watch()
    train(chosen, tmp_path / "second", reporter=watch, test_images=sample())
    model, meta = restore(tmp_path / "second")
    image = model.get_submodule(INPUT_QUANT)
    assert isinstance(image, ActQuantizer)
    # white, in float32
    assert image.bound() == pytest.approx(max(meta.mean[0], 1 - meta.mean[0]) / meta.std[0], rel=1e-6)
    assert any("ranges and batch norms kept" in note for note in watch.notes) != other
    second = load(tmp_path / "second").model
    assert all(torch.equal(v, second[k]) for k, v in first.model.items()) != other


@pytest.mark.parametrize("std", [0.5, math.nextafter(0.5, 1)])
def test_normalisations_are_compared_exactly(tmp_path: Path, std: float) -> None:
    given = {"mean": (0.25,), "std": (0.5,)}
    train(replace(recipe(policy=W4, epochs=0), **given), tmp_path / "first", test_images=sample())
    watch = Watch()
    again = replace(recipe(policy=W4, epochs=0, start=tmp_path / "first"), mean=(0.25,), std=(std,))
    train(again, tmp_path / "second", reporter=watch, test_images=sample())
    assert any("kept" in note for note in watch.notes) == (std == 0.5)


def test_layers_may_be_named_like_quantisers(tmp_path: Path) -> None:
    run(recipe(model=QUANT_NAMES, policy=W4, epochs=1), tmp_path / "first")
    weights, policy = load_weights(tmp_path / "first", build(QUANT_NAMES, (8, 8, 1), 10))
    assert policy == W4
    assert weights.keys() == build(QUANT_NAMES, (8, 8, 1), 10).state_dict().keys()
    run(recipe(model=QUANT_NAMES, policy=Policy(), epochs=0, start=tmp_path / "first"), tmp_path / "second")


class Concat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 4, 3), nn.Conv2d(8, 8, 1)
        self.last = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([torch.relu(self.a(x)), torch.relu(self.b(x))], 1)
        return self.last(torch.relu(self.c(x) + x).mean((2, 3)))


@pytest.mark.parametrize("acts", ACT_METHODS)
@pytest.mark.parametrize("weights", WEIGHT_METHODS)
def test_no_quantiser_is_taken_for_a_weight(tmp_path: Path, weights: str, acts: str) -> None:
    """Of any method: for the image, sums, concats, layers."""
    widths = Policy(weight_bits=4, act_bits=4, residual_bits=8, weight_method=weights, act_method=acts)
    model = prepare(Concat(), replace(widths, rescale="learned"), (8, 8, 1))
    meta = Meta(
        model="mlp",
        image_shape=(8, 8, 1),
        classes=("a", "b"),
        data=DIGITS,
        mean=(0.5,),
        std=(0.5,),
        policy=widths,
        recipe={},
    )
    save_checkpoint(tmp_path / "net.safetensors", meta, model, {})
    assert load_weights(tmp_path / "net.safetensors", Concat())[0].keys() == Concat().state_dict().keys()
