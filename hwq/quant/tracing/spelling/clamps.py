"""Every way to write a clamp whose range holds 0, and the one that is left of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from hwq.quant.tracing.spelling.rows import Spelling, arguments

INF = math.inf


@dataclass(frozen=True, slots=True)
class Bounds:
    """lo <= 0 <= hi, lo < hi, each finite or infinite, not both infinite."""

    lo: float
    hi: float

    @property
    def rectifies(self) -> bool:
        """Whether it is ReLU and nothing else: codes become codes of the same scale."""
        return self.lo == 0 and self.hi == INF


def clamp(x: Tensor, lo: float, hi: float) -> Tensor:
    """min(max(x, lo), hi). As with ReLU, values at a bound have no gradient."""
    return functional.relu(x) if (lo, hi) == (0, INF) else functional.hardtanh(x, lo, hi)


class Clamp(nn.Module):
    """`clamp` as a layer."""

    def __init__(self, lo: float, hi: float) -> None:
        super().__init__()
        self.lo, self.hi = lo, hi

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same."""
        return clamp(x, self.lo, self.hi)

    def extra_repr(self) -> str:
        return f"{self.lo:g}, {self.hi:g}"


def bounds_of(module: fx.GraphModule, node: fx.Node) -> Bounds | None:
    """Of a respelled clamp; None for any other node."""
    if node.op == "call_function" and node.target is clamp:
        _, lo, hi = node.args
        assert isinstance(lo, float)
        assert isinstance(hi, float)
        return Bounds(lo, hi)
    child = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    return Bounds(child.lo, child.hi) if isinstance(child, Clamp) else None


# -- spellings: what a layer, or a call's arguments by name, say about the bounds; None = no clamp around 0


def _bounds(lo: object, hi: object) -> Bounds | None:
    real = []
    for value, missing in ((lo, -INF), (hi, INF)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            return None
        real.append(missing if value is None else float(value))
    fits = real[0] <= 0 <= real[1] and real[0] < real[1] and real != [-INF, INF]
    return Bounds(*real) if fits else None


def _threshold(threshold: object, value: object) -> Bounds | None:
    return Bounds(0.0, INF) if threshold == 0 and value == 0 else None


def _leaky(slope: object) -> Bounds | None:
    return Bounds(0.0, INF) if slope == 0 else None


_RANGE = "of a range that holds 0"
_HELD = "where the range holds 0"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """names: of the parameters after the tensor. read: the bounds, from their values by name."""

    names: tuple[str, ...]
    read: Callable[[dict[str, Any]], Bounds | None]
    when: str = ""


_RELU = _Call(names=("inplace",), read=lambda a: Bounds(0.0, INF))
_CLAMP = _Call(names=("min", "max"), read=lambda a: _bounds(a.get("min"), a.get("max")), when=_HELD)
_MIN = _Call(names=("min",), read=lambda a: _bounds(a.get("min"), None), when=_HELD)
_MAX = _Call(names=("max",), read=lambda a: _bounds(None, a.get("max")), when=_HELD)
_THRESHOLD = _Call(
    names=("threshold", "value", "inplace"),
    read=lambda a: _threshold(a.get("threshold"), a.get("value")),
    when="with threshold and value 0",
)

MODULES: dict[type[nn.Module], tuple[Callable[[Any], Bounds | None], str]] = {
    nn.ReLU: (lambda m: Bounds(0.0, INF), ""),
    nn.ReLU6: (lambda m: _bounds(m.min_val, m.max_val), ""),
    nn.Hardtanh: (lambda m: _bounds(m.min_val, m.max_val), _HELD),
    nn.Threshold: (lambda m: _threshold(m.threshold, m.value), "with threshold and value 0"),
    nn.LeakyReLU: (lambda m: _leaky(m.negative_slope), "with slope 0"),
}
"""The first class that a layer is an instance of counts."""

FUNCTIONS: dict[Any, _Call] = {
    torch.relu: _RELU,
    functional.relu: _RELU,
    functional.relu6: _Call(names=("inplace",), read=lambda a: Bounds(0.0, 6.0)),
    functional.hardtanh: _Call(
        names=("min_val", "max_val", "inplace"),
        read=lambda a: _bounds(a.get("min_val", -1.0), a.get("max_val", 1.0)),
        when=_HELD,
    ),
    torch.clamp: _CLAMP,
    torch.clip: _CLAMP,
    torch.clamp_min: _MIN,
    torch.clamp_max: _MAX,
    functional.threshold: _THRESHOLD,
    torch.threshold: _THRESHOLD,
    functional.leaky_relu: _Call(
        names=("negative_slope", "inplace"),
        read=lambda a: _leaky(a.get("negative_slope", 0.01)),
        when="with slope 0",
    ),
}

METHODS: dict[str, _Call] = {
    "relu": _RELU,
    "clamp": _CLAMP,
    "clip": _CLAMP,
    "clamp_min": _MIN,
    "clamp_max": _MAX,
}


def spellings() -> list[Spelling]:
    """All of them, for the documentation."""
    what = f"clamp {_RANGE}"
    found = [Spelling(what=what, target=kind, when=when) for kind, (_, when) in MODULES.items()]
    found += [Spelling(what=what, target=t, when=c.when) for t, c in {**FUNCTIONS, **METHODS}.items()]
    return found


def respell_clamps(module: fx.GraphModule) -> bool:
    """Clamps that hold 0 become `Clamp` and `clamp`, under their names. Whether any was more than a ReLU."""
    changed = False
    layers: dict[str, Clamp] = {}
    for node in module.graph.nodes:
        if node.op == "call_module":
            child = module.get_submodule(str(node.target))
            read = next((r for t, (r, _) in MODULES.items() if isinstance(child, t)), None)
            bounds = None if read is None else read(child)
            if bounds is None:
                continue
            layers[str(node.target)] = Clamp(bounds.lo, bounds.hi)
        elif node.op in ("call_function", "call_method"):
            table: dict[Any, _Call] = FUNCTIONS if node.op == "call_function" else METHODS
            call = table.get(node.target)
            given = None if call is None else arguments(node, call.names)
            bounds = None if call is None or given is None else call.read(given)
            if bounds is None or given is None:
                continue
            node.op, node.target = "call_function", clamp
            node.args, node.kwargs = (given["input"], bounds.lo, bounds.hi), {}
        else:
            continue
        changed = changed or not bounds.rectifies
    for path, layer in layers.items():
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, layer.train(module.get_submodule(path).training))
    return changed
