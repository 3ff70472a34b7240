"""A resumed run is the uninterrupted one to the bit: every optimiser, with and without what rides along."""

from __future__ import annotations

import os
import shutil
import signal
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hwq.errors import InputError
from hwq.models import build
from hwq.quant import Policy
from hwq.train import LAST, Interrupted, load, restore, resume_recipe, train
from hwq.train.checkpoint import format as file_format
from hwq.train.state import difference
from tests.checkpoints import rewrite
from tests.train.runs import DROPPING, FLOAT, STEPS, TINY, assert_same, metrics, recipe, run

ROOT = Path(__file__).parents[2]
LSQ = Policy(weight_bits=4, act_bits=4, weight_method="lsq", act_method="lsq")


@pytest.mark.parametrize(
    ("at", "changes"),
    [
        (3, {"nesterov": False, "schedule": "multistep", "milestones": (0.5, 1.2), "ema": 0.9}),
        (5, {"optimiser": "adam", "distill": 0.5, "temperature": 2.0, "alpha_decay": 1e-3, "warmup": 0.3}),
        (
            7,
            {
                "optimiser": "adamw",
                "policy": LSQ,
                "ema": 0.99,
                "distill": 0.3,
                "bn_freeze": 1,
                "quant_decay": 0.1,
            },
        ),
        (1, {"momentum": 0.0, "amp": "bf16", "ema": 0.5, "bn_estimate": 64, "checkpoint_every": 1e-9}),
        (6, {"model": DROPPING, "optimiser": "adamw", "schedule": "linear"}),
    ],
    ids=["sgd-ema", "adam-distill", "adamw-ema-distill", "bf16-ema", "dropout"],
)
def test_every_kind_resumes_exactly(
    tmp_path: Path, float_run: Path, at: int, changes: dict[str, Any]
) -> None:
    start = float_run if "distill" in changes else None
    chosen = recipe(start=start, **changes)
    _, whole = run(chosen, tmp_path / "whole")
    with pytest.raises(Interrupted) as caught:
        run(chosen, tmp_path / "parts", at=at)
    assert caught.value.exit_code == 130
    assert (load(tmp_path / "parts").meta.epoch, load(tmp_path / "parts").meta.step) in (
        (0, at),
        (1, at - STEPS),
    )
    _, rest = run(resume_recipe(tmp_path / "parts"), tmp_path / "parts", resume=True)
    assert rest == whole[at:]
    assert_same(tmp_path / "parts", tmp_path / "whole")


def test_dropout_differs_from_step_to_step(tmp_path: Path) -> None:
    still = {"lr": 0.0, "momentum": 0.0, "weight_decay": 0.0, "augment": "none", "batch": 1442, "epochs": 3}
    _, losses = run(recipe(model=DROPPING, **still), tmp_path / "run")
    # the same weights and (reordered) images: only what dropout hides makes the loss differ
    assert len(set(losses)) == 3
    assert max(losses) - min(losses) > 1e-3


def _killed(out: Path, save: int, moment: str) -> int:
    """How a training ends that SIGKILL stops at its so-manyth save: in a fork, which has torch already."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # threads of the parent's are not here
        try:
            _train_until_killed(out, save, moment)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _train_until_killed(out: Path, left: int, moment: str) -> None:
    rename = Path.replace

    def replace(temporary: Path, path: Path) -> Path:
        nonlocal left
        left -= path.name == LAST
        if left == 0:
            if moment == "half written":
                os.truncate(temporary, temporary.stat().st_size // 2)
            if moment == "renamed":
                rename(temporary, path)
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(temporary, path)

    Path.replace = replace  # type: ignore[method-assign,assignment]
    new = recipe(optimiser="adamw", ema=0.9, checkpoint_every=1e-9, epochs=40)
    again = (out / LAST).exists()
    run(resume_recipe(out) if again else new, out, resume=again)


def test_a_kill_in_the_middle_of_a_save_loses_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    # a save before the first step, after every step, and after every epoch
    for save, moment, reached in (
        (7, "renamed", STEPS),
        (3, "half written", STEPS + 2),
        (4, "written", 2 * STEPS),  # with the second epoch's line of metrics, which comes again
    ):
        assert _killed(out, save, moment) == -signal.SIGKILL
        meta = load(out).meta
        assert meta.epoch * STEPS + meta.step == reached
        assert len(list(out.glob(f".{LAST}.*"))) == (moment != "renamed")
    assert len(metrics(out)) == meta.epoch + 1 == 2
    own = resume_recipe(out)
    short = replace(own, train=replace(own.train, epochs=2))
    with pytest.raises(InputError, match=r"train\.epochs is \d+, not 40"):
        run(short, out, resume=True)
    with pytest.raises(Interrupted):
        run(own, out, at=4, resume=True)
    quick = replace(own, train=replace(own.train, checkpoint_every=0))
    with pytest.raises(Interrupted):
        run(quick, tmp_path / "whole", at=reached + 4)
    one, other = load(out), load(tmp_path / "whole")
    assert (one.meta.epoch, one.meta.step) == (other.meta.epoch, other.meta.step)
    assert (one.meta.progress, one.state.keys()) == (other.meta.progress, other.state.keys())
    assert all(torch.equal(v, other.model[k]) for k, v in one.model.items())
    assert all(torch.equal(v, other.state[k]) for k, v in one.state.items())
    assert metrics(out) == metrics(tmp_path / "whole")
    assert list(out.glob(".*")) == []


@pytest.fixture(scope="module")
def halted(tmp_path_factory: pytest.TempPathFactory, float_run: Path) -> Path:
    """A run that distills from a teacher of its own, interrupted."""
    folder = tmp_path_factory.mktemp("halted")
    teacher = folder / "teacher.pt"
    torch.save(build(TINY, (8, 8, 1), 10).state_dict(), teacher)
    with pytest.raises(Interrupted):
        run(
            recipe(distill=0.5, teacher=str(teacher), teacher_model=TINY, start=float_run),
            folder / "run",
            at=2,
        )
    return folder / "run"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: replace(r, train=replace(r.train, lr=0.5)), r"train\.lr is 0\.5, not 0\.02"),
        (lambda r: replace(r, model="mlp"), "model is 'mlp', not '/"),
        (lambda r: replace(r, policy=replace(r.policy, act_bits=3)), r"quant\.act_bits is 3, not 8"),
        (lambda r: replace(r, init_from=None), "init_from is absent, not '/"),
        (
            lambda r: replace(r, train=replace(r.train, milestones=(1.0,))),
            r"train\.milestones is \[1\.0\], not",
        ),
    ],
)
def test_another_recipe_is_refused_by_its_key(halted: Path, change: Any, message: str) -> None:
    before = (halted / LAST).read_bytes()
    with pytest.raises(InputError, match=message):
        train(change(resume_recipe(halted)), halted, resume=True)
    assert (halted / LAST).read_bytes() == before


def test_another_teacher_is_refused(halted: Path) -> None:
    own = resume_recipe(halted)
    path = Path(own.train.teacher or "")
    kept = torch.load(path)
    changed = {k: v + 1 if k.endswith("linear.bias") else v for k, v in kept.items()}
    torch.save(changed, path)
    try:
        with pytest.raises(InputError, match="teacher's weights are not those"):
            train(own, halted, resume=True)
    finally:
        torch.save(kept, path)


def test_an_averaged_or_best_checkpoint_is_no_place_to_go_on_from(tmp_path: Path) -> None:
    out = tmp_path / "run"
    chosen = recipe(epochs=1, ema=0.9)
    run(chosen, out)
    (out / LAST).write_bytes((out / "best.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"is missing|go on from"):
        run(chosen, out, resume=True)


@pytest.mark.parametrize(
    ("mine", "theirs", "says"),
    [
        ({"a": 1}, {"a": 1}, None),
        ({"a": {"b": 1, "c": [1]}}, {"a": {"b": 1, "c": [1, 2]}}, "a.c is [1], not [1, 2]"),
        ({"a": {"b": 1}}, {"a": {}}, "a.b is 1, not absent"),
        ({}, {"z": "x"}, "z is absent, not 'x'"),
    ],
)
def test_difference(mine: Any, theirs: Any, says: str | None) -> None:
    assert difference(mine, theirs) == says


def test_an_averaged_run_restores_as_its_average(tmp_path: Path) -> None:
    result, _ = run(recipe(ema=0.9), tmp_path / "run")
    stored = load(tmp_path / "run")
    model, _ = restore(tmp_path / "run")
    weight = "conv.weight"
    assert torch.equal(model.state_dict()[weight], stored.model[weight])
    assert not torch.equal(stored.state[f"trained.{weight}"], stored.model[weight])
    rows = metrics(tmp_path / "run")
    assert rows[-1]["test_accuracy"] == result.accuracy
    assert all("trained_accuracy" in row for row in rows)
    again = recipe(epochs=0, start=tmp_path / "run", policy=FLOAT)
    assert run(again, tmp_path / "again")[0].epochs == 0


def test_a_reader_sees_one_file(halted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that saves in the middle of a read: tensors and description are still of one moment."""
    path, read = tmp_path / LAST, file_format.safetensors.load
    path.write_bytes((halted / LAST).read_bytes())
    wanted = load(path)

    def slow(content: bytes) -> dict[str, torch.Tensor]:
        path.write_bytes(b"the next one")
        return read(content)

    monkeypatch.setattr(file_format.safetensors, "load", slow)
    found = load(path)
    assert found.meta == wanted.meta
    assert all(torch.equal(v, wanted.model[k]) for k, v in found.model.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, held: held.update({name: held[name].flatten()[:3].clone()}), "is none of SGD's"),
        (lambda name, held: held.update({name: held[name].to(torch.int32)}), "is none of SGD's"),
        (lambda name, held: held.update({f"{name}.more": held.pop(name)}), "belongs to no parameter"),
        (
            lambda name, held: held.update({name.replace("momentum_buffer", "x"): held.pop(name)}),
            "none of SGD",
        ),
    ],
)
def test_an_optimiser_state_of_another_kind(
    change: Callable[[str, dict[str, torch.Tensor]], object], message: str, halted: Path, tmp_path: Path
) -> None:
    """In a checkpoint whose digests are right."""
    out = tmp_path / "run"
    shutil.copytree(halted, out)
    name = "state.optimiser.conv.weight.momentum_buffer"
    rewrite(out / LAST, tensors=lambda held: change(name, held))
    with pytest.raises(InputError, match=message):
        run(resume_recipe(out), out, resume=True)


def test_an_optimiser_state_with_a_part_gone(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(recipe(optimiser="adam"), tmp_path, at=3)
    rewrite(tmp_path / LAST, tensors=lambda held: held.pop("state.optimiser.conv.weight.exp_avg_sq"))
    with pytest.raises(InputError, match=r"lacks 'conv.weight.exp_avg_sq'"):
        run(resume_recipe(tmp_path), tmp_path, resume=True)
