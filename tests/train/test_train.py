"""Training: resumed runs are exact, interrupted and failed ones leave what they should."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from hwq.cli.evaluate import command as evaluate_command
from hwq.cli.train import command as train_command
from hwq.data import DataSpec, load_split
from hwq.errors import InputError
from hwq.models import build
from hwq.quant import Policy
from hwq.train import (
    LAST,
    Diverged,
    Interrupted,
    Recipe,
    Schedule,
    Silent,
    default_recipe,
    evaluate,
    load,
    read_recipe,
    recipe_from_dict,
    restore,
    resume_recipe,
    train,
)
from hwq.train.schedule import learning_rate
from tests.checkpoints import rewrite

DIGITS = DataSpec(name="digits")
EXAMPLES = Path(__file__).parents[2] / "examples"


def _recipe(**changes: Any) -> Recipe:
    schedule = {"epochs": 2, "batch": 256, "lr": 0.02, "augment": "crop", "pad": 1, "calibrate": 256}
    return Recipe(model="digits", data=DIGITS, train=Schedule(**{**schedule, **changes}))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class _CtrlC(Silent):
    """Presses Ctrl-C at a step, and notes the mean losses."""

    def __init__(self, at: int) -> None:
        self.at, self.losses = at, list[float]()

    def step(self, loss: float, speed: float) -> None:
        self.losses.append(loss)
        if len(self.losses) == self.at:
            os.kill(os.getpid(), signal.SIGINT)


def _metrics(out: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: r[k] for k in ("epoch", "loss", "train_accuracy", "test_accuracy", "lr")} for r in rows]


@pytest.mark.parametrize("at", [3, 5, 8])
def test_resume_is_exact(tmp_path: Path, at: int) -> None:
    recipe = _recipe(schedule="onecycle", alpha_decay=1e-3)
    whole = _CtrlC(-1)
    train(recipe, tmp_path / "whole", reporter=whole)
    first, second = _CtrlC(at), _CtrlC(-1)
    with pytest.raises(Interrupted, match="--resume --out") as caught:
        train(recipe, tmp_path / "parts", reporter=first)
    assert caught.value.exit_code == 130
    train(resume_recipe(tmp_path / "parts"), tmp_path / "parts", resume=True, reporter=second)
    assert first.losses + second.losses == whole.losses
    assert _metrics(tmp_path / "parts") == _metrics(tmp_path / "whole")
    one, other = load(tmp_path / "whole"), load(tmp_path / "parts")
    assert one.model.keys() == other.model.keys()
    assert all(torch.equal(v, other.model[k]) for k, v in one.model.items())
    assert all(torch.equal(v, other.state[k]) for k, v in one.state.items())


def test_restore_gives_the_accuracy_that_training_saw(tmp_path: Path) -> None:
    result = train(_recipe(), tmp_path / "run")
    model, meta = restore(tmp_path / "run")
    assert not model.training
    assert evaluate(model, load_split(DIGITS, "test"), meta.mean, meta.std) == result.accuracy
    assert (meta.image_shape, meta.epoch, len(meta.classes)) == ((8, 8, 1), 2, 10)
    assert meta.accuracy["fake_quant"] == result.accuracy
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "best.safetensors",
        "checkpoint.safetensors",
        "metrics.jsonl",
        "recipe.toml",
    ]
    said = CliRunner().invoke(evaluate_command, [str(tmp_path / "run")], catch_exceptions=False).output
    assert f"{result.accuracy:.2f}% of 355" in said


def test_float_then_quantised(tmp_path: Path) -> None:
    floating = replace(_recipe(epochs=6, lr=0.05, batch=64), policy=Policy.floating())
    result = train(floating, tmp_path / "float")
    start = replace(_recipe(epochs=0), init_from=str(tmp_path / "float"))
    calibrated = train(start, tmp_path / "w8a8")
    assert calibrated.stages["float"] == result.accuracy > 90
    # post-training at 8 bits costs a point or two at most
    assert calibrated.accuracy > result.accuracy - 3
    # a quantised run is a start, too
    again = replace(start, init_from=str(tmp_path / "w8a8"), policy=Policy(weight_bits=4))
    other = train(again, tmp_path / "w4a8")
    assert other.accuracy > 80
    assert "float" not in other.stages


def test_plain_state_dicts(tmp_path: Path) -> None:
    model = build("digits", (8, 8, 1), 10)
    weights = {f"module.{k}": v for k, v in model.state_dict().items()}
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "net.th")
    recipe = replace(_recipe(epochs=0), init_from=str(tmp_path / "net.th"))
    train(recipe, tmp_path / "run")
    stored = load(tmp_path / "run").model
    assert all(
        torch.equal(stored[k], v) for k, v in model.state_dict().items() if k.endswith(("weight", "bias"))
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.write_bytes(b"not a checkpoint"), "not a file of torch.save"),
        (lambda p: torch.save({"state_dict": {"conv.weight": torch.zeros(1)}}, p), "another model"),
        (lambda p: torch.save([1, 2], p), "no state dict"),
        (lambda p: torch.save(build("resnet8", (8, 8, 1), 10).state_dict(), p), "another model"),
        (lambda p: torch.save(Silent(), p), "holds more than tensors"),
        (lambda p: None, "no such file"),
    ],
)
def test_bad_starts(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "net.pt")
    recipe = replace(_recipe(epochs=0), init_from=str(tmp_path / "net.pt"))
    with pytest.raises(InputError, match=message):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    train(_recipe(epochs=0, calibrate=64), out)
    return out


@pytest.mark.parametrize("length", [0, 4, 100, 20_000, -1])
def test_truncated_checkpoints(finished: Path, tmp_path: Path, length: int) -> None:
    whole = (finished / LAST).read_bytes()
    (tmp_path / LAST).write_bytes(whole[:length])
    with pytest.raises(InputError, match="truncated or damaged"):
        restore(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.update(format=9), "format 9, this hwq reads up to 2"),
        (lambda h: h.update(format=1), "format 1, this hwq"),
        (lambda h: h.update(format=True), "format True"),
        (lambda h: h.update(model="mlp"), "another model"),
        (lambda h: h["policy"].update(weight_bits=0), "weight_bits must be"),
        (lambda h: h.pop("image_shape"), "damaged"),
        (lambda h: h.pop("tensors"), "no digests"),
    ],
)
def test_tampered_checkpoints(
    finished: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    """Of which the digests are right."""
    shutil.copy(finished / LAST, tmp_path)
    rewrite(tmp_path / LAST, header=change)
    with pytest.raises(InputError, match=message):
        restore(tmp_path)


def test_out_folders(finished: Path, tmp_path: Path) -> None:
    before = (finished / LAST).read_bytes()
    with pytest.raises(InputError, match="holds a run already"):
        train(_recipe(), finished)
    assert (finished / LAST).read_bytes() == before
    (tmp_path / "photo.jpg").write_text("")
    with pytest.raises(InputError, match="not empty"):
        train(_recipe(), tmp_path)
    with pytest.raises(InputError, match="is a file"):
        train(_recipe(), tmp_path / "photo.jpg")
    with pytest.raises(InputError, match="no such file"):
        train(_recipe(), tmp_path / "gone", resume=True)
    with pytest.raises(InputError, match="own recipe"):
        train(_recipe(lr=0.5), finished, resume=True)
    with pytest.raises(InputError, match="device"):
        train(_recipe(), tmp_path / "new", device="warp")


def test_a_loss_that_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="smaller --lr"):
        train(_recipe(lr=1e6, epochs=1, alpha_decay=0.0), tmp_path / "run")
    restore(tmp_path / "run")  # the last good state is there


def test_recipes(tmp_path: Path) -> None:
    for path in EXAMPLES.glob("*.toml"):
        recipe = read_recipe(path)
        (tmp_path / "r.toml").write_text(recipe.to_toml())
        assert read_recipe(tmp_path / "r.toml") == recipe
        assert recipe_from_dict(recipe.to_dict()) == recipe
    assert default_recipe(DIGITS).model == "digits"
    for text, message in (
        ("model = 3x", "not valid TOML"),
        ("model = 'mlp'", "needs a name"),
        ("[data]\nname = 'digits'\ncolour = 1", "no key 'colour'"),
        ("[data]\nname = 'digits'\n[train]\nepochs = 'many'", "epochs must be int"),
        ("[data]\nname = 'digits'\n[quant]\nweight_bits = 99", "weight_bits must be 1..16"),
        ("[data]\nname = 'digits'\nmean = [0.5]", "both mean and std"),
        ("typo = 1\n[data]\nname = 'digits'", "unknown key 'typo'"),
    ):
        (tmp_path / "bad.toml").write_text(text)
        with pytest.raises(InputError, match=message):
            read_recipe(tmp_path / "bad.toml")
    with pytest.raises(InputError, match="no such file"):
        read_recipe(tmp_path / "gone.toml")


def test_learning_rates() -> None:
    cosine = Schedule(epochs=10, lr=0.1, final_lr=0.001, warmup=1.0)
    rates = [learning_rate(cosine, 10, i) for i in range(101)]
    assert rates[9] < rates[10] == 0.1
    assert rates[-1] == pytest.approx(0.001)
    cycle = Schedule(epochs=10, lr=0.1, schedule="onecycle")
    rates = [learning_rate(cycle, 10, i) for i in range(101)]
    assert (rates[0], rates.index(max(rates))) == (pytest.approx(0.004), 30)


def test_flags(tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["--out", str(out), "--epochs", "0", "-w", "4", "-a", "5", "--seed", "7", "--threads", "1"]
    said = CliRunner().invoke(train_command, arguments, catch_exceptions=False)
    assert said.exit_code == 0, said.output
    recipe = load(out).meta.recipe
    assert (recipe["train"]["epochs"], recipe["train"]["seed"]) == (0, 7)
    assert (recipe["quant"]["weight_bits"], recipe["quant"]["act_bits"]) == (4, 5)
    said = CliRunner().invoke(train_command, ["--resume", "--out", str(out), "-w", "4"])
    assert isinstance(said.exception, InputError)


def test_evaluate_and_resume_flags(finished: Path, tmp_path: Path) -> None:
    def train_says(*arguments: str) -> Any:
        return CliRunner().invoke(train_command, [*arguments, "--out", str(finished), "--threads", "1"])

    own = CliRunner().invoke(evaluate_command, [str(finished)]).output
    assert train_says("--evaluate").output == own != ""
    assert isinstance(train_says("--evaluate", "--epochs", "3").exception, InputError)
    # --resume with the run's own recipe goes on; with another, the key that differs is named
    recipe = str(finished / "recipe.toml")
    assert "test accuracy" in train_says(recipe, "--resume").output
    refused = train_says(recipe, "--resume", "--lr", "0.5")
    assert isinstance(refused.exception, InputError)
    assert "train.lr is 0.5, not 0.02" in str(refused.exception)
