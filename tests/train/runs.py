"""Short runs on digits that the tests of training share."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import torch

from hwq.data import DataSpec, Images, load_split
from hwq.quant import Policy
from hwq.train import Recipe, Result, Schedule, Silent, load, train
from hwq.train.fixedpoint import FixedPoint

DIGITS = DataSpec(name="digits")
FLOAT = Policy.floating()
W4 = Policy(weight_bits=4, act_bits=6, weight_method="uniform", act_method="uniform")
TINY, DROPPING = (f"{Path(__file__).with_name('tiny.py')}:{name}" for name in ("make", "dropping"))
STEPS = 5
"""Iterations an epoch of `recipe`."""


def recipe(
    *,
    model: str = TINY,
    policy: Policy | None = None,
    start: Path | None = None,
    fixed: FixedPoint | None = None,
    **changes: Any,
) -> Recipe:
    """Two epochs of five steps."""
    schedule = {"epochs": 2, "batch": 256, "lr": 0.02, "augment": "crop", "pad": 1, "calibrate": 32}
    return Recipe(
        model=model,
        data=DIGITS,
        policy=policy or Policy(),
        train=Schedule(**{**schedule, **changes}),
        fixed=fixed,
        init_from=None if start is None else str(start),
    )


class Watch(Silent):
    """Notes the mean losses, and presses Ctrl-C after a step."""

    def __init__(self, at: int = -1) -> None:
        self.at, self.losses, self.notes = at, list[float](), list[str]()

    def step(self, loss: float, speed: float) -> None:
        self.losses.append(loss)
        if len(self.losses) == self.at:
            os.kill(os.getpid(), signal.SIGINT)

    def note(self, text: str) -> None:
        self.notes.append(text)


def sample() -> Images:
    """Fifty test images."""
    found = load_split(DIGITS, "test").head(50)
    assert isinstance(found, Images)
    return found


def run(chosen: Recipe, out: Path, *, at: int = -1, resume: bool = False) -> tuple[Result, list[float]]:
    """Train, evaluating on `sample`; the mean losses of its steps. at: where Ctrl-C comes."""
    watch = Watch(at)
    result = train(chosen, out, resume=resume, reporter=watch, test_images=sample())
    return result, watch.losses


def metrics(out: Path) -> list[dict[str, float]]:
    """metrics.jsonl without what depends on the clock."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


def assert_same(one: Path, other: Path) -> None:
    """Two runs hold the same networks, states and metrics, to the bit."""
    assert metrics(one) == metrics(other)
    for name in ("checkpoint.safetensors", "best.safetensors"):
        first, second = load(one / name), load(other / name)
        for mine, theirs in ((first.model, second.model), (first.state, second.state)):
            assert mine.keys() == theirs.keys()
            assert [k for k, v in mine.items() if not torch.equal(v, theirs[k])] == []
        assert first.meta == second.meta
