"""What no export could take is refused before the first step, by training and by calibration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwq.errors import UnsupportedError
from hwq.quant import OFF, Policy
from hwq.train.checkpoint import Meta
from hwq.train.posttraining import Calibration, calibrate_run
from hwq.train.start import prepared
from tests.train.runs import DIGITS, FLOAT, recipe, run

Middle = Callable[[Tensor], Tensor]
META = Meta(
    model="net",
    image_shape=(8, 8, 1),
    classes=tuple("0123456789"),
    data=DIGITS,
    mean=(0.5,),
    std=(0.5,),
    policy=Policy(),
    recipe={},
)


class Net(nn.Module):
    """8 x 8 x 1 -> conv -> `middle`, on 6 x 6 x 4 -> mean -> linear."""

    def __init__(self, middle: Middle) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4, 10)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.middle(self.conv(x)).mean((2, 3)))


REFUSED: dict[str, tuple[Middle, str]] = {
    "ceil": (nn.MaxPool2d(4, ceil_mode=True), "'middle'.*ceil_mode=True"),
    "dilated pool": (nn.MaxPool2d(2, dilation=2), "dilation"),
    "unequal windows": (nn.AdaptiveAvgPool2d(4), "unequal windows"),
    "padding left out of the average": (
        nn.AvgPool2d(2, padding=1, count_include_pad=False),
        "count_include_pad",
    ),
    "batch statistics": (nn.BatchNorm2d(4, track_running_stats=False), "running statistics"),
    "channels cut off": (lambda x: F.pad(x[:, :3], (0, 0, 0, 0, 0, 1)), "subsampling only"),
    "rows cut off": (
        lambda x: F.pad(x, (1, 1, -1, 1)),
        r"'pad' \(test_exportable.py:\d+\): pad with negative",
    ),
    "a mean of channels": (lambda x: torch.cat([x, x.mean(1, True)], 1)[:, :4], "mean"),
}
POLICIES = [Policy(), replace(Policy(act_method="lsq"), residual_bits=8), Policy(last="off", input_bits=OFF)]


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("policy", POLICIES, ids=["8 bits", "residual", "partly off"])
def test_refused_before_training(case: str, policy: Policy) -> None:
    middle, says = REFUSED[case]
    with pytest.raises(UnsupportedError, match=says):
        prepared(Net(middle), recipe(policy=policy), META)


@pytest.mark.parametrize("policy", POLICIES, ids=["8 bits", "residual", "partly off"])
def test_others_are_left_as_they_were(policy: Policy) -> None:
    torch.manual_seed(0)
    model = prepared(Net(nn.ReLU()), recipe(policy=policy), META)
    torch.manual_seed(0)
    same = prepared(Net(nn.ReLU()), recipe(policy=policy), META)
    assert all(torch.equal(v, same.state_dict()[k]) for k, v in model.state_dict().items())
    assert model.training


def test_float_training_goes_on() -> None:
    prepared(Net(nn.MaxPool2d(4, ceil_mode=True)), recipe(policy=FLOAT), META)


def test_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef make():\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(4, ceil_mode=True), nn.Flatten(), "
        "nn.Linear(16, 10))\n"
    )
    model = f"{tmp_path / 'net.py'}:make"
    with pytest.raises(UnsupportedError, match="ceil_mode"):
        run(recipe(model=model), tmp_path / "run")
    run(recipe(model=model, policy=FLOAT, epochs=0), tmp_path / "float")
    with pytest.raises(UnsupportedError, match="ceil_mode"):
        calibrate_run(recipe(model=model), tmp_path / "float", tmp_path / "ptq", Calibration(images=16))
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir() and p.name[0] != "_") == ["float"]
