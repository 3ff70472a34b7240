"""What a handler sees: one call of the traced network, and the graph under construction."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from torch import fx, nn

from hwq.errors import UnsupportedError
from hwq.lower.builder import Builder
from hwq.lower.values import BATCH, Codes, Floats, Pending, Pixels, Tensor, Term
from hwq.quant import where
from hwq.quant.tracing.places import owner

SUPPORTED = (
    "Conv2d, Linear, BatchNorm, ReLU, ReLU6 and other clamps, add, cat, max and average pooling, flatten, "
    "zero padding, subsampling, dropout and identity"
)


class Call:
    """One node: its module when it calls one, and its arguments with nodes replaced by values."""

    def __init__(self, node: fx.Node, module: nn.Module | None, args: Any, kwargs: Any) -> None:
        self.node, self.module, self.args, self.kwargs = node, module, tuple(args), dict(kwargs)

    @property
    def name(self) -> str:
        """A name for the op: the module's path, or the path of the code that calls the function."""
        if self.module is not None:
            return str(self.node.target)
        path = owner(self.node)
        return f"{path}.{self.node.name}" if path else self.node.name

    def option(self, position: int, name: str, default: Any) -> Any:
        """A module's attribute, or a function's argument by position or name."""
        if self.module is not None:
            return getattr(self.module, name, default)
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)

    def tensor(self, position: int = 0, name: str = "input") -> Tensor:
        """A tensor argument; anything else is refused."""
        value = self.args[position] if position < len(self.args) else self.kwargs.get(name)
        if not isinstance(value, Codes | Pixels | Pending):
            self.fail(f"{self.what} of something that is not a tensor of the network is not supported")
        return value

    @property
    def what(self) -> str:
        if self.module is not None:
            return type(self.module).__name__
        target = self.node.target
        return f"Tensor.{target}" if isinstance(target, str) else str(getattr(target, "__name__", target))

    def fail(self, why: str) -> NoReturn:
        raise UnsupportedError(f"{where(self.node)}: {why}")

    def unsupported(self) -> NoReturn:
        self.fail(f"{self.what} is not supported; supported are {SUPPORTED}")


class Context:
    """The builder, and how a handler turns its inputs into what it needs."""

    def __init__(self, builder: Builder, mean: Floats, std: Floats) -> None:
        self.builder, self.mean, self.std = builder, mean, std
        self.off: list[str] = []
        """Quantisers that are off where codes are needed; the graph is of no use while there are any."""

    def codes(self, value: Tensor, call: Call) -> Codes:
        """Integers that a layer can take; a pending sum has none until a quantiser ends it."""
        match value:
            case Codes():
                return value
            case Pixels():
                call.fail(f"{call.what} reads the raw image; an activation quantiser must come first")
            case Pending():
                exact = self._rectified(value, call)
        if exact is None:
            call.fail(f"{call.what} reads a tensor that no quantiser rounds; insert one before it")
        return exact

    def _rectified(self, value: Pending, call: Call) -> Codes | None:
        """ReLU of codes is codes of the same scale, exactly; nothing else may be rounded unasked."""
        if len(value.terms) != 1 or value.hi != np.inf or value.lo != 0 or value.bias.any():
            return None
        source = self.builder.ops[value.terms[0].op].out
        if source.scale is None or value.terms[0].factors != (source.scale,):
            return None
        return self.builder.requantize(value, f"{call.name}.relu", source.type, source.scale)

    def affine(self, value: Tensor, call: Call) -> Pending:
        """A sum that more arithmetic can be folded into."""
        if isinstance(value, Pixels):
            call.fail(f"{call.what} reads the raw image; an activation quantiser must come first")
        pending = as_pending(value)
        if pending.affine:
            return pending
        rectified = self._rectified(pending, call)
        if rectified is None:
            call.fail(
                f"{call.what} reads a clamped or pooled tensor that no quantiser rounds; insert one before it"
            )
        return as_pending(rectified)


def as_pending(value: Codes | Pending) -> Pending:
    """Codes as a sum of one term."""
    if isinstance(value, Pending):
        return value
    return Pending(
        terms=(Term(op=value.op, factors=value.factors),),
        bias=np.zeros(value.shape[-1]),
        inner=value.shape,
        shape=value.shape,
        order=value.order,
    )


def torch_shape(value: Tensor) -> tuple[Any, ...]:
    """(batch, C, H, W) or (batch, N), as torch code sees it."""
    if len(value.shape) == 1:
        return (BATCH, *value.shape)
    h, w, c = value.shape
    return (BATCH, c, h, w)
