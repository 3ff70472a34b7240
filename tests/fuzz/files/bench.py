"""One of every file that hwq reads, the commands that read it, and their answers when nothing is changed."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.fuzz.files.child import Outcome, run

Arguments = list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Files by glob below the folder, and the commands that read them.

    bound: an exit code of 0 must go with the answer of the unchanged files, as hwq keeps a digest of these.
    """

    name: str
    files: tuple[str, ...]
    commands: tuple[Arguments, ...]
    bound: bool = True
    answers: dict[str, str] = field(default_factory=dict)


_RUN = ("run/checkpoint.safetensors", "run/best.safetensors")
_TRAIN = ["train", "--threads", "1", "--epochs", "1", "--set", "train.calibrate=32"]

TARGETS: tuple[Target, ...] = (
    Target(
        name="checkpoint",
        files=_RUN[:1],
        commands=(
            ["evaluate", "run", "--threads", "1"],
            ["inspect", "run", "--json"],
            ["export", "run", "--out", "other"],
            ["explain", "run", "--images", "20", "--json", "explain.json"],
            ["sweep", "run", "--fixed", "16,8", "--engine", "torch", "--out", "s.csv", "--no-picture"],
            ["train", "--finetune", "run", "--fixed", "16,8", "--epochs", "0", "--out", "fine"],
            [*_TRAIN, "--model", "mlp", "--data", "digits", "--init-from", "run", "--out", "next"],
            ["train", "--resume", "--out", "run"],
        ),
    ),
    Target(
        name="graph",
        files=("run/hls/graph.json", "run/hls/graph.safetensors"),
        commands=(
            ["simulate", "run", "--build", "native", "--images", "20"],
            ["inspect", "run/hls", "--json"],
        ),
    ),
    Target(
        name="project",
        files=("run/hls/project.json", "run/hls/**/*"),
        commands=(
            ["simulate", "run", "--build", "native", "--images", "20"],
            ["inspect", "run/hls", "--json"],
        ),
    ),
    Target(
        name="recipe",
        files=("recipe.toml",),
        commands=([*_TRAIN, "recipe.toml", "--out", "next"],),
        bound=False,
    ),
    Target(
        name="folding",
        files=("folding.json",),
        commands=(["export", "run", "--folding", "folding.json", "--out", "other"],),
        bound=False,
    ),
    Target(
        name="metrics",
        files=("run/metrics.jsonl", "run/recipe.toml"),
        commands=(["train", "--resume", "--out", "run"],),
    ),
    Target(
        name="sweep",
        files=("s.csv", "s.json"),
        commands=(
            ["sweep", "run", "--fixed", "16,8", "--engine", "torch", "--out", "s.csv", "--no-picture"],
        ),
    ),
    Target(
        name="float",
        files=("float.pt", "float.safetensors"),
        commands=(
            ["calibrate", "{file}", "--model", "mlp", "--data", "digits", "--out", "cal", "--images", "32"],
            [*_TRAIN, "--model", "mlp", "--data", "digits", "--pretrained", "{file}", "--out", "next"],
        ),
        bound=False,
    ),
    Target(
        name="images",
        files=("images/**/*.*",),
        commands=(
            ["evaluate", "photo", "--threads", "1"],
            [*_TRAIN, "--model", "mlp", "--data", "folder:images", "--out", "next"],
        ),
        bound=False,
    ),
    Target(
        name="cache",
        files=("cache/hwq/**/*",),
        commands=(
            ["evaluate", "photo", "--threads", "1"],
            ["simulate", "run", "--build", "native", "--images", "20"],
        ),
    ),
)

_TIMES = re.compile(r"\d+(\.\d+)? ?(CPU-s|s\b|seconds|images/s|ms|MB|GB)[^\n]*")


def prepare(root: Path) -> dict[str, str]:
    """Make every file below `root`; what each command answers on them, by its words."""
    made = (
        ["train", "--model", "mlp", "--data", "digits", "--epochs", "1", "--threads", "1", "--out", "run"],
        ["export", "run", "--fixed", "32,10"],
        ["simulate", "run", "--build", "native", "--images", "20"],
        ["sweep", "run", "--fixed", "16,8", "--engine", "torch", "--out", "s.csv", "--no-picture"],
        [*_TRAIN, "--model", "mlp", "--data", "folder:images", "--out", "photo"],
    )
    _images(root / "images")
    _floats(root)
    for arguments in made:
        outcome = run(arguments, root, seconds=600)
        assert outcome.code == 0, (arguments, outcome.said)
    shutil.copy(root / "run/recipe.toml", root / "recipe.toml")
    names = [op["name"] for op in json.loads((root / "run/hls/graph.json").read_text())["ops"]]
    layers = [name for name in names if "fc" in name or "linear" in name or "conv" in name][:2]
    (root / "folding.json").write_text(json.dumps({name: [1, 1] for name in layers}))
    answers = {}
    for target in TARGETS:
        for arguments in target.commands:
            if "{file}" in arguments:
                continue
            answers[" ".join(arguments)] = ""
    for words in answers:
        outcome = in_copy(root, lambda folder, words=words: run(words.split(" "), folder, seconds=600))
        assert outcome.code == 0, (words, outcome.said)
        answers[words] = answer(outcome)
    return answers


def in_copy(root: Path, work: Callable[[Path], Outcome]) -> Outcome:
    """Do something in a copy of the folder, which is gone afterwards."""
    with tempfile.TemporaryDirectory(dir=root.parent) as own:
        return work(Path(shutil.copytree(root, Path(own) / "copy", symlinks=True)))


def answer(outcome: Outcome) -> str:
    """What a command printed, without what takes another time each time."""
    return _TIMES.sub("", outcome.said)


def _images(root: Path) -> None:
    rng = np.random.default_rng(0)
    kinds = ("png", "jpg", "bmp", "gif", "webp", "tif")
    for split in ("train", "test"):
        for label in range(10):
            folder = root / split / f"{label}"
            folder.mkdir(parents=True)
            for i in range(4):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.{kinds[(label + i) % len(kinds)]}")


def _floats(root: Path) -> None:
    from safetensors.torch import save_file

    from hwq.models import build

    torch.manual_seed(0)
    state = build("mlp", (8, 8, 1), 10).state_dict()
    torch.save(state, root / "float.pt")
    save_file(state, root / "float.safetensors")
