"""Networks under policies of all kinds, with the tensors that they leave off given codes, code for code."""

from __future__ import annotations

import pytest
import torch

from hwq.models import build
from hwq.quant import LayerRule, Policy, calibrate_off, off_tensors
from tests.lower.reference import check, prepared
from tests.quant.test_policy import CFG

CASES = {
    "toynet cfg-3": ("toynet", Policy(weight_list=tuple(CFG[3][0]), act_list=tuple(CFG[3][1]))),
    "weights only": ("resnet8", Policy(weight_bits=4, act_bits=4, first="weights", last="weights")),
    "edges off": ("resnet8", Policy(weight_bits=4, act_bits=4, first="off", last="off")),
    "by name": (
        "resnet8b",
        Policy(
            weight_bits=4,
            act_bits=4,
            branch=True,
            layers=(
                LayerRule(pattern="layer1", act_bits=32, weight_method="lsq", per_channel=True),
                LayerRule(pattern="layer2", weight_bits=32, act_method="lsq"),
                LayerRule(pattern="input", act_bits=5),
                LayerRule(pattern="*bn2", act_bits=6),
            ),
        ),
    ),
    "all activations off": ("mlp", Policy(weight_bits=3, layers=(LayerRule(pattern="*", act_bits=32),))),
}


@pytest.mark.parametrize("case", CASES)
def test_every_quantiser_agrees(case: str) -> None:
    name, policy = CASES[case]
    shape = (8, 8, 3)
    model = prepared(build(name, shape, 10), shape, policy)
    off = off_tensors(model)
    assert bool(off) is (case not in ("weights only",))
    assert calibrate_off(model, [torch.randn(4, 3, 8, 8)]) == off
    check(model, shape, count=2)
