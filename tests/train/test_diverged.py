"""A loss or a weight that is no number: which step, which layer, and what is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from hwq.models import build
from hwq.quant import Policy, prepare
from hwq.train import LAST, Diverged, load, loop, restore
from hwq.train.diverged import NOWHERE, culprit
from tests.train.runs import STEPS, TINY, metrics, recipe, run

NAN = float("nan")


def _break_after(monkeypatch: pytest.MonkeyPatch, step: int, harm: Callable[[nn.Module], None]) -> None:
    """The optimiser's `step`-th update leaves the network as `harm` does."""
    make = loop.make_optimiser

    def making(model: nn.Module, schedule: object) -> torch.optim.Optimizer:
        optimiser = make(model, schedule)  # type: ignore[arg-type]
        done = [0]

        def after(*_: object) -> None:
            done[0] += 1
            if done[0] == step:
                with torch.no_grad():
                    harm(model)

        optimiser.register_step_post_hook(after)
        return optimiser

    monkeypatch.setattr(loop, "make_optimiser", making)


def _poison(name: str) -> Callable[[nn.Module], None]:
    def harm(model: nn.Module) -> None:
        parameter = model.get_parameter(name)
        parameter[(0,) * parameter.dim()] = NAN

    return harm


def _overflow(model: nn.Module) -> None:
    model.get_parameter("linear.weight").fill_(3e38)


@pytest.mark.parametrize(
    ("step", "harm", "says"),
    [
        (
            1,
            _poison("conv.weight"),
            ("step 2 of epoch 1", "'conv' (tiny.py:", "its 'weight' holds inf or nan"),
        ),
        (7, _poison("bn1.bias"), ("step 3 of epoch 2", "'bn1' (tiny.py:", "its 'bias' holds inf or nan")),
        (2, _overflow, ("step 3 of epoch 1", "'linear' (tiny.py:", "its inputs and parameters still are")),
    ],
)
def test_the_step_and_the_first_layer_are_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    harm: Callable[[nn.Module], None],
    says: tuple[str, ...],
) -> None:
    _break_after(monkeypatch, step, harm)
    with pytest.raises(Diverged) as caught:
        run(recipe(), tmp_path / "run")
    assert caught.value.exit_code == 6
    message = str(caught.value)
    assert all(part in message for part in (*says, "the loss became", "--lr", str(tmp_path / "run" / LAST)))
    stored = load(tmp_path / "run")
    assert (stored.meta.epoch, stored.meta.step) == (step // STEPS, 0)
    assert all(bool(torch.isfinite(v).all()) for v in stored.model.values() if v.is_floating_point())
    restore(tmp_path / "run")


def test_a_weight_that_is_no_number_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # after the epoch's last step, and in a checkpoint inside an epoch: no loss has shown it yet
    _break_after(monkeypatch, STEPS, _poison("linear.bias"))
    with pytest.raises(Diverged, match=r"'linear.bias' holds inf or nan at the end of epoch 1"):
        run(recipe(), tmp_path / "run")
    assert load(tmp_path / "run").meta.epoch == 0
    assert not (tmp_path / "run" / "best.safetensors").exists()
    monkeypatch.undo()
    _break_after(monkeypatch, 3, _poison("stem.weight"))
    with pytest.raises(Diverged, match=r"'stem.weight' holds inf or nan after step 3 of epoch 1"):
        run(recipe(checkpoint_every=1e-9), tmp_path / "often")
    assert load(tmp_path / "often").meta.step == 2
    monkeypatch.undo()
    run(recipe(checkpoint_every=1e-9), tmp_path / "often", resume=True)
    assert [row["epoch"] for row in metrics(tmp_path / "often")] == [1, 2]


def test_images_and_losses_are_told_apart_from_layers() -> None:
    model = prepare(build(TINY, (8, 8, 1), 10), Policy.floating(), (8, 8, 1))
    images = torch.zeros(2, 1, 8, 8)
    assert culprit(model, images) == (NOWHERE, "every layer's output is finite, so it is the loss itself")
    assert "images already are not" in culprit(model, images * NAN)[1]
