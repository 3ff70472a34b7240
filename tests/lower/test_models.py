"""Every network of hwq.models, code for code."""

from __future__ import annotations

import pytest

from hwq.models import MODELS, build
from hwq.quant import Policy
from tests.lower.reference import check, prepared

SMALL = {"digits": (8, 8, 1), "mlp": (8, 8, 3)}
SLOW = ("resnet56", "resnet56b", "mobilenetv2-identity")


@pytest.mark.parametrize("name", [n for n in MODELS if n not in SLOW])
def test_every_quantiser_agrees(name: str) -> None:
    shape = SMALL.get(name, (8, 8, 3))
    check(prepared(build(name, shape, 10), shape), shape, count=2)


@pytest.mark.parametrize(
    "policy",
    [
        Policy(weight_bits=4, act_bits=4, branch=True),
        Policy(weight_bits=2, act_bits=2, per_channel=True, first_bits=8, last_bits=8),
        Policy(weight_bits=1, act_bits=3, weight_method="uniform", act_method="uniform"),
        Policy(weight_bits=8, act_bits=8, per_channel=True, weight_method="uniform", act_method="pact"),
    ],
)
@pytest.mark.parametrize("name", ["digits", "resnet8", "mlp"])
def test_policies(name: str, policy: Policy) -> None:
    shape = SMALL.get(name, (8, 8, 3))
    check(prepared(build(name, shape, 10), shape, policy), shape, count=3)
