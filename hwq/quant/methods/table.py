"""Name -> method. Adding one: a small file beside this one, and a line here."""

from __future__ import annotations

from collections.abc import Callable

from hwq.errors import InputError
from hwq.quant.methods.contract import ActQuantizer, WeightQuantizer
from hwq.quant.methods.dorefa import DoReFa, DoReFaAct, Rescale
from hwq.quant.methods.dsq import DsqAct, DsqWeight
from hwq.quant.methods.lsq import LsqAct, LsqPlusAct, LsqWeight
from hwq.quant.methods.pact import MPact, Pact, PactFixed
from hwq.quant.methods.uniform import MseWeight, PercentileWeight, UniformAct, UniformWeight

WEIGHT_METHODS: dict[str, Callable[..., WeightQuantizer]] = {
    "dorefa": DoReFa,
    "dsq": DsqWeight,
    "lsq": LsqWeight,
    "mse": MseWeight,
    "percentile": PercentileWeight,
    "uniform": UniformWeight,
}
ACT_METHODS: dict[str, Callable[..., ActQuantizer]] = {
    "dorefa": DoReFaAct,
    "dsq": DsqAct,
    "lsq": LsqAct,
    "lsq+": LsqPlusAct,
    "mpact": MPact,
    "pact": Pact,
    "pact-fixed": PactFixed,
    "uniform": UniformAct,
}


def make_weight(
    method: str, bits: int, *, per_channel: bool = False, channels: int = 1, rescale: str = "none"
) -> WeightQuantizer:
    """A weight quantiser by name, for `channels` output channels. Raises InputError for an unknown name."""
    if method not in WEIGHT_METHODS:
        raise InputError(f"unknown weight method '{method}'; known: {', '.join(WEIGHT_METHODS)}")
    made = WEIGHT_METHODS[method](bits, per_channel=per_channel, channels=channels, rescale=Rescale(rescale))
    made.method = method
    return made


def make_act(method: str, bits: int, *, signed: bool) -> ActQuantizer:
    """An activation quantiser by name. Raises InputError for an unknown name."""
    if method not in ACT_METHODS:
        raise InputError(f"unknown activation method '{method}'; known: {', '.join(ACT_METHODS)}")
    made = ACT_METHODS[method](bits, signed=signed)
    made.method = method
    return made
