"""Temporary states of a network: eval mode, activations or everything as floats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from hwq.quant.methods.contract import OFF, ActQuantizer, Quantizer


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; every module's own mode afterwards."""
    modes = {m: m.training for m in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def observing(observers: dict[ActQuantizer, Callable[[Tensor], object]]) -> Iterator[None]:
    """The quantisers let their tensors through, and show them to their observers."""
    try:
        for quantizer, observer in observers.items():
            quantizer.observer = observer
        yield
    finally:
        for quantizer in observers:
            quantizer.observer = None


@contextmanager
def activations_floating(model: nn.Module, floating: bool = True) -> Iterator[None]:
    """Activations as floats inside, weights as they are; `floating` False changes nothing."""
    quantizers = [m for m in model.modules() if floating and isinstance(m, ActQuantizer)]
    with observing(dict.fromkeys(quantizers, _ignore)):
        yield


@contextmanager
def everything_floating(model: nn.Module) -> Iterator[None]:
    """Weights and activations as floats inside."""
    bits = {q: q.bits for q in model.modules() if isinstance(q, Quantizer)}
    try:
        for quantizer in bits:
            quantizer.bits = OFF
        yield
    finally:
        for quantizer, own in bits.items():
            quantizer.bits = own


def _ignore(x: Tensor) -> None:
    """Nobody looks."""
