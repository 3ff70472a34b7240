"""torchvision's networks, from a folder of photographs of all sizes to C++."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hwq.models import build
from hwq.quant import Policy
from hwq.simulate import Simulator
from hwq.simulate.oracle import run_oracle
from tests.cli.conftest import quiet
from tests.lower.reference import check, noise, prepared

CLASSES, EACH, TESTS = 4, 16, 4
W4A4 = ("--weights", "lsq", "--acts", "lsq", "-w", 4, "-a", 4, "--first-bits", 8, "--last-bits", 8)
POLICY = Policy(weight_bits=4, act_bits=4, first_bits=8, last_bits=8, weight_method="lsq", act_method="lsq")

NET = """
from torch import nn
from torchvision.models import resnet18


def make(classes):
    net = resnet18(num_classes=classes)
    net.layer3 = net.layer4 = nn.Identity()
    net.fc = nn.Linear(128, classes)
    return net
"""
"""The first half of ResNet-18: every kind of layer that it has, a sixteenth of the weights to compile."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def photographs(root: Path, smallest: int, largest: int) -> Path:
    """Stripes under noise: a class is a direction and a colour; every file has its own size."""
    random = np.random.default_rng(0)
    for split, count in (("train", EACH), ("val", TESTS)):
        for label in range(CLASSES):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                height, width = random.integers(smallest, largest, 2)
                y, x = np.mgrid[:height, :width]
                angle = np.pi * label / CLASSES + random.normal(0, 0.1)
                phase = (x * np.cos(angle) + y * np.sin(angle)) * random.uniform(0.1, 0.3)
                stripes = np.sin(phase + random.uniform(0, 6))[..., None] * 60
                colour = 90 + 60 * (np.arange(3) == label % 3)
                pixels = colour + stripes + random.normal(0, 25, (height, width, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:02}.jpg", quality=90)
    return root


def route(tmp_path: Path, model: str, size: int, *flags: object) -> dict[str, float]:
    """Train one epoch, evaluate, export, run two images through Python and C++; the accuracies."""
    data, run = photographs(tmp_path / "photos", size * 4 // 5, size * 9 // 5), tmp_path / "run"
    quiet(
        *("train", "--model", model, "--data", f"folder:{data}", "--size", size, *W4A4),
        *("--epochs", 1, "--batch", 16, "--lr", 0.01, "--out", run, *flags),
    )
    quiet("evaluate", run, "--images", 4)
    quiet("export", run)
    # exit code 1, which `quiet` refuses, on any difference
    quiet("simulate", run, "--build", "native", "--images", 2)
    report = json.loads((run / "hls" / "verdict-native.json").read_text())
    assert (report["mismatches"], report["samples"]) == (0, 2)
    accuracy: dict[str, float] = report["accuracy"]
    assert accuracy["integer"] == accuracy["C++"]
    return accuracy


@pytest.mark.parametrize("flags", [(), ("--residual-bits", 8)])
def test_half_a_resnet18_from_photographs_to_cpp(tmp_path: Path, flags: tuple[object, ...]) -> None:
    (tmp_path / "net.py").write_text(NET)
    route(tmp_path, f"{tmp_path / 'net.py'}:make", 64, *flags)


@pytest.mark.slow
def test_resnet18_at_224_pixels_from_photographs_to_cpp(tmp_path: Path) -> None:
    """The whole network, as the recipes have it: 11 million weights, about two minutes and 1.5 GB."""
    route(tmp_path, "resnet18", 224, "--residual-bits", 8)


@pytest.mark.parametrize(
    ("name", "size", "residual_bits"),
    [
        *(("resnet18", 64, None), ("mobilenet_v2", 64, None), ("resnet50", 64, None), ("vgg11_bn", 32, None)),
        *(("resnet18", 64, 8), ("mobilenet_v2", 64, 8)),
    ],
)
def test_integers_are_the_trained_network(name: str, size: int, residual_bits: int | None) -> None:
    """The codes of every quantiser and the logits equal torch's in float64, and both simulators agree."""
    shape = (size, size, 3)
    policy = replace(POLICY, residual_bits=residual_bits)
    graph = check(prepared(build(name, shape, CLASSES), shape, policy), shape, count=1).graph
    if name in ("resnet18", "mobilenet_v2"):  # one with shortcuts, one with depthwise layers
        pixels = noise(shape, 1, seed=2)
        fast, plain = Simulator(graph).run(pixels, keep="all").outputs, run_oracle(graph, pixels)
        assert all(np.array_equal(fast[op].reshape(codes.shape), codes) for op, codes in plain.items())
