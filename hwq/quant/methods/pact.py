"""PACT and its signed form mPACT: a learned clipping value; and PACT with a constant one."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from hwq.quant.methods.contract import ActQuantizer
from hwq.quant.methods.uniform import UniformAct


class MPact(ActQuantizer):
    """y = clamp(x, -a, a), or clamp(x, 0, a) after a ReLU; s = a / (largest code).

    da = sum g * ([x >= a] - [x <= -a]); after a ReLU sum g * [x >= a]. a = softplus(raw) > 0: raw is
    about a itself from 3 on, so learning rates mean what they mean for a.
    """

    def __init__(self, bits: int, *, signed: bool, init: float = 10.0) -> None:
        super().__init__(bits, signed=signed)
        self.raw = nn.Parameter(torch.tensor(_inverse_softplus(init)), requires_grad=not self.off)

    def alpha(self) -> Tensor:
        """The clipping value, 0-dim, differentiable."""
        return functional.softplus(self.raw, threshold=40.0)

    def step(self) -> Tensor:
        return self.alpha() / self.type.hi

    def exact_step(self) -> Tensor:
        return functional.softplus(self.raw.double(), threshold=40.0) / self.type.hi

    @torch.no_grad()
    def set_bound(self, bound: float) -> None:
        self.raw.fill_(_inverse_softplus(bound))


class Pact(MPact):
    """PACT proper: unsigned after a ReLU. Where a tensor can be negative it is mPACT."""


class PactFixed(UniformAct):
    """PACT with the constant clipping value 2, which calibration leaves as it is."""

    def __init__(self, bits: int, *, signed: bool, init: float = 2.0) -> None:
        super().__init__(bits, signed=signed, init=init)
        self.settle()

    def set_bound(self, bound: float) -> None:
        """Nothing: the range is a constant."""


def _inverse_softplus(a: float) -> float:
    a = max(a, 1e-6)
    return a + math.log(-math.expm1(-a)) if a < 40 else a
