"""Parameter counts, exactly, and users' own networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hwq.errors import InputError
from hwq.models import MODELS, build

COUNTS = {
    "toynet": 203_626,
    "resnet8": 75_290,
    "resnet8b": 78_042,
    "resnet20": 269_722,
    "resnet20b": 272_474,
    "resnet56": 853_018,
    "resnet56b": 855_770,
    "mobilenetv2": 2_383_050,
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name: str) -> None:
    assert sum(p.numel() for p in build(name, (32, 32, 3), 10).parameters()) == COUNTS[name]


@pytest.mark.parametrize("name", MODELS)
def test_every_model_takes_images(name: str) -> None:
    shape = (8, 8, 1) if name in ("digits", "mlp") else (32, 32, 3)
    model = build(name, shape, 7).eval()
    assert model(torch.zeros(2, shape[2], shape[0], shape[1])).shape == (2, 7)


def test_resnet20_has_the_public_layer_names() -> None:
    names = set(build("resnet20", (32, 32, 3), 10).state_dict())
    assert {
        "conv1.weight",
        "bn1.bias",
        "layer3.2.conv2.weight",
        "layer2.0.bn1.running_mean",
        "linear.bias",
    } < names
    assert not any("shortcut" in n for n in names)


def test_users_own_factory(tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text("WIDTH = 4\n")
    (tmp_path / "net.py").write_text(
        "from torch import nn\nfrom parts import WIDTH\n"
        "def make(classes, channels=3):\n    return nn.Sequential(nn.Conv2d(channels, WIDTH, 1),"
        " nn.Flatten(), nn.Linear(WIDTH * 4, classes))\n"
        "def bad():\n    raise RuntimeError('no luck')\n"
        "def number():\n    return 3\n"
    )
    model = build(f"{tmp_path / 'net.py'}:make", (2, 2, 1), 6)
    assert model(torch.zeros(1, 1, 2, 2)).shape == (1, 6)
    for factory, message in (("bad", "no luck"), ("number", "not a torch"), ("none", "no function")):
        with pytest.raises(InputError, match=message):
            build(f"{tmp_path / 'net.py'}:{factory}", (2, 2, 1), 6)
    with pytest.raises(InputError, match="no such file"):
        build(f"{tmp_path / 'gone.py'}:make", (2, 2, 1), 6)
    with pytest.raises(InputError, match="known: digits"):
        build("resnet21", (32, 32, 3), 10)
