"""Networks that flatten with `view`, and work in place, through training, calibration and evaluation."""

from __future__ import annotations

from pathlib import Path

from hwq.train import load
from tests.cli.conftest import Hwq, hwq

__all__ = ["hwq"]

NETWORK = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.a, self.b, self.c = (nn.Linear(144, classes) for _ in range(3))

    def forward(self, x):
        assert x.dim() == 4 and x.shape[1] in (1, 3)
        x = self.bn(self.conv(x))
        self.relu(x)
        return self.a(x.view(x.size(0), -1)) + self.b(x.view(-1, 144)) + self.c(x.view(x.shape[0], 144))


def make(classes, channels):
    return Net(classes, channels)
"""


def test_from_float_training_to_a_project(tmp_path: Path, hwq: Hwq) -> None:
    (tmp_path / "net.py").write_text(NETWORK, encoding="utf-8")
    model = f"{tmp_path / 'net.py'}:make"
    flags = ("--data", "digits", "--epochs", 2)
    done = hwq("train", "--model", model, "--float", *flags, "--out", tmp_path / "float")
    assert done.code == 0, done.err
    done = hwq("calibrate", tmp_path / "float", "-w", 8, "-a", 8, "--out", tmp_path / "calibrated")
    assert done.code == 0, done.err
    done = hwq("train", "--model", model, "-w", 8, "-a", 8, *flags, "--out", tmp_path / "trained")
    assert done.code == 0, done.err
    for run in ("calibrated", "trained"):
        done = hwq("evaluate", tmp_path / run)
        assert done.code == 0, done.err
    accuracy = load(tmp_path / "calibrated").meta.accuracy
    # eight bits cost next to nothing, where the network is the same
    assert abs(accuracy["float"] - accuracy["calibrated"]) < 3
