"""--set SECTION.KEY=VALUE: any key of a recipe from the command line, as if it stood in the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hwq.errors import InputError
from hwq.quant import LayerRule
from hwq.train.flags import recipe_from_flags
from hwq.train.recipe import read_recipe

FILE = """
model = "mlp"
[data]
name = "digits"
[quant]
weight_bits = 4
[train]
schedule = "cosine"
epochs = 7
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "recipe.toml").write_text(FILE)
    return str(tmp_path / "recipe.toml")


@pytest.mark.parametrize(
    ("text", "section", "key", "want"),
    [
        ("train.weight_decay=2e-5", "train", "weight_decay", 2e-5),
        ("train.schedule=linear", "train", "schedule", "linear"),
        ('train.schedule="step"', "train", "schedule", "step"),
        ("train.milestones=[0.5, 0.8]", "train", "milestones", (0.5, 0.8)),
        ("train.nesterov=false", "train", "nesterov", False),
        ("train.lr = 1", "train", "lr", 1.0),
        ("quant.pool_bits=6", "policy", "pool_bits", 6),
        ("quant.layers={fc2={act_bits=3}}", "policy", "layers", (LayerRule(pattern="fc2", act_bits=3),)),
    ],
)
def test_one_key_changes_and_nothing_else(path: str, text: str, section: str, key: str, want: object) -> None:
    before, after = read_recipe(Path(path)), recipe_from_flags(path, {"set": (text,)})
    # repr: 1 == 1.0 == True
    changed = {section: replace(getattr(before, section), **{key: want})}
    assert repr(after) == repr(replace(before, **changed))


def test_it_comes_after_the_file_and_other_flags_and_the_last_one_wins(path: str) -> None:
    given = {"lr": 0.5, "set": ("train.lr=0.25", "train.lr=0.125", "train.ema=0.9"), "epochs": 3}
    train = recipe_from_flags(path, given).train
    assert (train.lr, train.ema, train.epochs, train.schedule) == (0.125, 0.9, 3, "cosine")


def test_paths_count_from_the_working_directory(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert (
        recipe_from_flags(path, {"set": ("train.teacher=t.pt", "train.distill=0.5")}).train.teacher == "/t.pt"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train.lr", "SECTION.KEY=VALUE"),
        ("lr=1", "SECTION.KEY=VALUE"),
        ("train.=1", "SECTION.KEY=VALUE"),
        ("model.x=1", "SECTION.KEY=VALUE"),
        ("trein.lr=1", "unknown key 'trein'"),
        ("train.rate=1", r"--set: \[train\] has no key 'rate'; known: .*\blr\b"),
        ("train.lr=fast", r"--set: \[train\] lr must be float, not 'fast'"),
        ("train.epochs=2.5", "epochs must be int"),
        ("train.epochs=2\ntrain.lr=1", "epochs must be int"),
        ("quant.weight_bits=17", r"1\.\.16"),
        ("quant.layers=3", "'layers' must be a table"),
        ("train.lr=" + "[" * 5000, "lr must be float"),
    ],
)
def test_refused(path: str, text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        recipe_from_flags(path, {"set": (text,)})


def test_float_training_takes_no_bits_here_either(path: str) -> None:
    with pytest.raises(InputError, match="--float trains without quantisation"):
        recipe_from_flags(path, {"floating": True, "set": ("train.lr=1", "quant.act_bits=4")})
