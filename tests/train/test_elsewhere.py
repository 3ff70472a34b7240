"""Nothing in a training takes it for granted that tensors are on the CPU: a device that refuses such ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hwq.quant import Policy
from hwq.train import train
from hwq.train.fixedpoint import FixedPoint
from hwq.train.posttraining import Calibration, calibrate_run
from tests.train.elsewhere import ELSEWHERE, elsewhere
from tests.train.runs import W4, assert_same, recipe, run, sample

NARROW = Policy(weight_bits=4, act_bits=4, residual_bits=8, weight_method="dorefa", act_method="pact")
LEARNED = Policy(weight_bits=2, act_bits=3, weight_method="lsq", act_method="lsq+", per_channel=True)
RUNS: dict[str, dict[str, Any]] = {
    "aligned": {"policy": W4, "fixed": FixedPoint(format="12,5"), "ema": 0.9, "bn_estimate": 64},
    "floor": {"policy": NARROW, "fixed": FixedPoint(format="8,auto", round="trn"), "tensorboard": True},
    "unaligned": {"policy": LEARNED, "fixed": FixedPoint(format="6,channel", align=False), "calibrate": 0},
    "taught": {"policy": Policy(weight_method="dsq", act_method="dsq"), "distill": 0.5, "epochs": 1},
    "observed": {"policy": W4, "calibrate": 0, "optimiser": "adamw", "epochs": 1},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_training_is_the_same_to_the_bit(tmp_path: Path, float_run: Path, name: str) -> None:
    chosen = recipe(**RUNS[name], start=float_run if name == "taught" else None)
    run(chosen, tmp_path / "near")
    with elsewhere() as device:
        train(chosen, tmp_path / "far", device=device, test_images=sample())
    assert_same(tmp_path / "near", tmp_path / "far")


def test_calibration_without_training(tmp_path: Path, float_run: Path) -> None:
    options = Calibration(images=64, bn_estimate=True)
    near = calibrate_run(recipe(policy=NARROW), float_run, tmp_path / "near", options)
    with elsewhere() as device:
        far = calibrate_run(recipe(policy=NARROW), float_run, tmp_path / "far", options, device=device)
    assert near == far


def test_the_device_refuses_what_a_gpu_refuses() -> None:
    vector = torch.arange(3.0)
    with elsewhere():
        far = torch.tensor([1.0, 2.0, 3.0], device=ELSEWHERE)
        with pytest.raises(RuntimeError, match="two devices"):
            far + vector
        with pytest.raises(RuntimeError, match="two devices"):
            torch.stack([far[0], vector[0]])
        assert (far + vector[1]).tolist() == [2, 3, 4]
        assert far[torch.tensor([2, 0])].tolist() == [3, 1]
        with pytest.raises(RuntimeError, match="two devices"):
            vector[far.long() - 1]
        with pytest.raises(RuntimeError, match="numpy"):
            far.numpy()
