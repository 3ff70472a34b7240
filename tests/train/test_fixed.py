"""Fixed-point training: when it begins, what it stores, and that it goes on to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwq.cli.export import ExportOptions, export_run
from hwq.errors import InputError
from hwq.lower import lower
from hwq.quant import Policy
from hwq.simulate import Simulator
from hwq.train import Interrupted, Recipe, load, read_recipe, recipe_from_dict, restore
from hwq.train.fixedpoint import FixedPoint
from hwq.train.flags import recipe_from_flags
from tests.train.runs import STEPS, TINY, W4, assert_same, metrics, recipe, run, sample


def fixed_recipe(
    fixed: FixedPoint, *, policy: Policy = W4, start: Path | None = None, **changes: Any
) -> Recipe:
    return recipe(policy=policy, start=start, fixed=fixed, **changes)


def integer_accuracy(run_: Path, fixed: FixedPoint) -> float:
    """Percent right of the exported integers on `sample`."""
    model, meta = restore(run_)
    height, width, channels = meta.image_shape
    graph = lower(
        model,
        shape=(channels, height, width),
        mean=meta.mean,
        std=meta.std,
        formats=fixed.formats(),
        allow_lossy=True,
    ).graph
    images = sample()
    right = np.count_nonzero(Simulator(graph).run(images.pixels).predictions == images.labels)
    return 100 * int(right) / len(images)


@pytest.mark.parametrize(
    ("fixed", "changes"),
    [
        (FixedPoint(format="12,5"), {}),
        (FixedPoint(format="shift", round="trn"), {"ema": 0.9, "policy": Policy()}),
        (FixedPoint(format="5,channel", align=False), {"distill": 0.5, "optimiser": "adam"}),
    ],
    ids=["literal", "floor-ema", "unaligned-adam"],
)
@pytest.mark.parametrize("at", [STEPS - 1, STEPS + 2], ids=["before", "inside"])
def test_resumes_exactly(
    tmp_path: Path, float_run: Path, at: int, fixed: FixedPoint, changes: dict[str, Any]
) -> None:
    start = float_run if "distill" in changes else None
    chosen = fixed_recipe(fixed, start=start, **changes)
    result, _ = run(chosen, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(chosen, tmp_path / "parts", at=at)
    run(chosen, tmp_path / "parts", resume=True)
    assert_same(tmp_path / "whole", tmp_path / "parts")
    # the last third of two epochs is one; what training measured is what the integers do
    stored = load(tmp_path / "whole").meta
    assert stored.progress["fixed_from"] == 1
    assert (stored.policy != chosen.policy) == fixed.align
    assert result.stages["fixed"] == integer_accuracy(tmp_path / "whole", fixed)
    assert metrics(tmp_path / "whole")[0]["test_accuracy"] == result.stages["fake_quant"]


def test_goes_on_from_a_quantised_run(tmp_path: Path) -> None:
    """Its ranges and statistics stay, all epochs are in fixed point, and only the last scales are its own."""
    run(recipe(policy=W4, lr=0.1, epochs=4), tmp_path / "quantised")
    given = {"finetune": str(tmp_path / "quantised"), "fixed": "12,4", "epochs": 1, "rounding": "trn"}
    chosen = recipe_from_flags(None, given)
    assert chosen.train.lr == pytest.approx(0.01)
    assert chosen.fixed == FixedPoint(format="12,4", round="trn")
    result, _ = run(chosen, tmp_path / "tuned")
    before, after = load(tmp_path / "quantised").model, load(tmp_path / "tuned").model
    statistics = [k for k in before if "running" in k]
    assert statistics
    assert all((before[k] == after[k]).all() for k in statistics)
    assert chosen.fixed is not None
    assert result.stages["fixed"] == integer_accuracy(tmp_path / "tuned", chosen.fixed)
    # and once more, from what is in fixed point already
    again = recipe_from_flags(None, {"finetune": str(tmp_path / "tuned"), "fixed": "12,4", "epochs": 0})
    result, _ = run(again, tmp_path / "again")
    assert result.epochs == 0
    assert again.fixed is not None
    assert result.accuracy == integer_accuracy(tmp_path / "again", again.fixed)


def test_the_teacher_of_a_run_teaches_its_tuning(tmp_path: Path, float_run: Path) -> None:
    run(recipe(policy=W4, start=float_run, distill=0.5, epochs=1), tmp_path / "taught")
    given = {"finetune": str(tmp_path / "taught"), "fixed": "16,8", "epochs": 1}
    chosen = recipe_from_flags(None, given)
    assert (chosen.train.teacher, chosen.train.teacher_model) == (str(float_run), TINY)
    run(chosen, tmp_path / "tuned")


@pytest.mark.parametrize(
    ("epochs", "trained", "own", "first"),
    [(9, False, None, 6), (10, False, None, 6), (1, False, None, 0), (9, True, None, 0), (9, True, 2, 7)],
)
def test_when_it_begins(epochs: int, trained: bool, own: int | None, first: int) -> None:
    assert FixedPoint(format="16,8", epochs=own).first_epoch(epochs, trained=trained) == first


def test_a_recipe_holds_it(tmp_path: Path) -> None:
    chosen = fixed_recipe(FixedPoint(format="16,8,TRN", edge="24,12", round="trn", epochs=3, align=False))
    (tmp_path / "recipe.toml").write_text(chosen.to_toml())
    assert read_recipe(tmp_path / "recipe.toml") == chosen
    assert "fixed" not in recipe().to_dict()


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({}, "needs a format"),
        ({"format": "16"}, "not a fixed-point format"),
        ({"format": "16,8", "edge": "16,auto"}, "--edge-fixed takes W,I"),
        ({"format": "16,8", "round": "up"}, "rnd or trn"),
        ({"format": "16,8", "epochs": -1}, "epochs must be 0 to 1,000,000, not -1"),
        ({"format": "16,8", "images": 1}, "images must be 2 to"),
        ({"format": "16,8", "width": 3}, "no key 'width'"),
    ],
)
def test_bad_sections(section: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        recipe_from_dict({"data": {"name": "digits"}, "fixed": section})


def test_bad_flags(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="add --fixed"):
        recipe_from_flags(None, {"rounding": "trn"})
    with pytest.raises(InputError, match="needs a quantised network"):
        recipe_from_flags(None, {"fixed": "16,8", "floating": True})
    with pytest.raises(InputError, match="leave out RECIPE"):
        recipe_from_flags(None, {"finetune": str(tmp_path), "init_from": "x"})
    with pytest.raises(InputError, match="no such file"):
        recipe_from_flags(None, {"finetune": str(tmp_path / "none")})


def test_a_float_tensor_is_named_before_training(tmp_path: Path) -> None:
    chosen = fixed_recipe(FixedPoint(format="16,8", epochs=1), policy=Policy(last="off"), epochs=3)
    with pytest.raises(InputError, match=r"codes everywhere.*linear"):
        run(chosen, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_export_for_other_constants_says_so(tmp_path: Path) -> None:
    run(fixed_recipe(FixedPoint(format="16,4", round="trn"), epochs=0), tmp_path / "run")
    for fixed, rounding, notes in (
        ("16,4,RND,SAT", "trn", []),
        ("16,auto", "trn", ["trained for other constants: --fixed 16,4 --round trn"]),
        ("16,4", "rnd", ["trained for other constants: --fixed 16,4 --round trn"]),
    ):
        chosen = ExportOptions(
            fixed=fixed, rounding=rounding, allow_lossy=True, out=tmp_path / fixed / rounding
        )
        assert export_run(tmp_path / "run", chosen).notes == notes
