"""Name -> method. Adding one: a small file beside this one, and a line here."""

from __future__ import annotations

from collections.abc import Callable

from hwq.errors import InputError
from hwq.quant.contract import ActQuantizer, WeightQuantizer
from hwq.quant.dorefa import DoReFa, Rescale
from hwq.quant.lsq import LsqAct, LsqWeight
from hwq.quant.pact import MPact, Pact
from hwq.quant.uniform import UniformAct, UniformWeight

WEIGHT_METHODS: dict[str, Callable[..., WeightQuantizer]] = {
    "dorefa": DoReFa,
    "lsq": LsqWeight,
    "uniform": UniformWeight,
}
ACT_METHODS: dict[str, Callable[..., ActQuantizer]] = {
    "lsq": LsqAct,
    "mpact": MPact,
    "pact": Pact,
    "uniform": UniformAct,
}


def make_weight(
    method: str, bits: int, *, per_channel: bool = False, channels: int = 1, rescale: str = "none"
) -> WeightQuantizer:
    """A weight quantiser by name, for `channels` output channels. Raises InputError for an unknown name."""
    if method not in WEIGHT_METHODS:
        raise InputError(f"unknown weight method '{method}'; known: {', '.join(WEIGHT_METHODS)}")
    return WEIGHT_METHODS[method](bits, per_channel=per_channel, channels=channels, rescale=Rescale(rescale))


def make_act(method: str, bits: int, *, signed: bool) -> ActQuantizer:
    """An activation quantiser by name. Raises InputError for an unknown name."""
    if method not in ACT_METHODS:
        raise InputError(f"unknown activation method '{method}'; known: {', '.join(ACT_METHODS)}")
    return ACT_METHODS[method](bits, signed=signed)
