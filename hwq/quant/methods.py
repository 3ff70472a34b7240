"""Name -> method. Adding one: a small file beside this one, and a line here."""

from __future__ import annotations

from hwq.errors import InputError
from hwq.quant.contract import ActQuantizer, WeightQuantizer
from hwq.quant.dorefa import DoReFa, Rescale
from hwq.quant.pact import MPact, Pact
from hwq.quant.uniform import UniformAct, UniformWeight

WEIGHT_METHODS: dict[str, type[DoReFa] | type[UniformWeight]] = {"dorefa": DoReFa, "uniform": UniformWeight}
ACT_METHODS: dict[str, type[MPact] | type[UniformAct]] = {
    "mpact": MPact,
    "pact": Pact,
    "uniform": UniformAct,
}


def make_weight(
    method: str, bits: int, *, per_channel: bool = False, rescale: str = "none"
) -> WeightQuantizer:
    """A weight quantiser by name. Raises InputError for an unknown name."""
    if method not in WEIGHT_METHODS:
        raise InputError(f"unknown weight method '{method}'; known: {', '.join(WEIGHT_METHODS)}")
    return WEIGHT_METHODS[method](bits, per_channel=per_channel, rescale=Rescale(rescale))


def make_act(method: str, bits: int, *, signed: bool) -> ActQuantizer:
    """An activation quantiser by name. Raises InputError for an unknown name."""
    if method not in ACT_METHODS:
        raise InputError(f"unknown activation method '{method}'; known: {', '.join(ACT_METHODS)}")
    return ACT_METHODS[method](bits, signed=signed)
