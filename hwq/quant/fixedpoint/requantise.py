"""One requantisation as hardware has it, for training: M and B as their format stores them (numerics, 2, 3).

Gradients are those of the real constants (straight-through): Q(M) counts as M + (Q(M) - M), the bracket a
constant, so that a multiplier that became 0 still learns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from hwq.fixed import AutoFormat, ConstantFormat, Constants, IntType, LiteralFormat, Rounding
from hwq.quant.methods.contract import ActQuantizer
from hwq.quant.placing.layers import QuantConv2d, QuantLinear

Norm = nn.BatchNorm1d | nn.BatchNorm2d
Layer = QuantConv2d | QuantLinear


class Storage(Protocol):
    """How a network's constants are stored; `hwq.lower.Formats` is one."""

    @property
    def edge(self) -> LiteralFormat: ...
    @property
    def rounding(self) -> Rounding: ...
    @property
    def logits(self) -> tuple[IntType, float]: ...
    @property
    def logit_constants(self) -> AutoFormat: ...
    def of(self, names: Iterable[str]) -> ConstantFormat: ...


# -- what a multiplier is made of: callables that yield float64 tensors, () or (C,), with their gradients


@dataclass(frozen=True, slots=True)
class Gain:
    """gamma / sqrt(var + eps) of a BN, statistics as they are."""

    norm: Norm

    def __call__(self) -> Tensor:
        assert self.norm.running_var is not None
        root = torch.sqrt(self.norm.running_var.double() + self.norm.eps)
        weight: Tensor | None = self.norm.weight
        return 1 / root if weight is None else weight.double() / root


@dataclass(frozen=True, slots=True)
class WeightScale:
    """Of a layer's codes."""

    layer: Layer

    def __call__(self) -> Tensor:
        return self.layer.weight_quant.normalise(self.layer.weight.double())[1]


@dataclass(frozen=True, slots=True)
class ActScale:
    """Of an activation's codes."""

    quantizer: ActQuantizer

    def __call__(self) -> Tensor:
        return self.quantizer.exact_step()


@dataclass(frozen=True, slots=True)
class Number:
    """A constant: 1/area of an average pool, the scale of the logits."""

    value: float

    def __call__(self) -> Tensor:
        return torch.tensor(self.value, dtype=torch.float64)


Factor = Gain | WeightScale | ActScale | Number


@dataclass(frozen=True, slots=True)
class Term:
    """Integers times the product of `factors`, which stand in the order of `hwq.lower`.

    In training the integers come as real numbers, times every factor but the gains.
    """

    factors: tuple[Factor, ...]

    def multiplier(self, scale: Tensor) -> Tensor:
        """M, detached."""
        with torch.no_grad():
            return reduce(lambda a, b: a * b, (f() for f in self.factors)) / scale

    def gain(self) -> Tensor:
        """What training multiplies by, with real constants."""
        gains = [f() for f in self.factors if isinstance(f, Gain)]
        return reduce(lambda a, b: a * b, gains, torch.ones((), dtype=torch.float64))

    def unit(self) -> Tensor:
        """The real value of the integer 1, as training sees it; detached."""
        with torch.no_grad():
            rest = [f() for f in self.factors if not isinstance(f, Gain)]
            return reduce(lambda a, b: a * b, rest)

    @property
    def layer(self) -> Layer | None:
        """Whose sums these are; None for codes and sums of codes."""
        return next((f.layer for f in self.factors if isinstance(f, WeightScale)), None)


# -- what a bias is made of


@dataclass(frozen=True, slots=True)
class LayerBias:
    """Of a convolution or linear layer; 0 without one."""

    layer: Layer | None

    def __call__(self) -> Tensor:
        bias = None if self.layer is None else self.layer.bias
        return torch.zeros((), dtype=torch.float64) if bias is None else bias.double()

    def holder(self) -> nn.Module | None:
        """The module whose bias can take any value that is to be added."""
        return None if self.layer is None or self.layer.bias is None else self.layer


@dataclass(frozen=True, slots=True)
class NormBias:
    """beta + (bias - mean) * gain of a BN."""

    norm: Norm
    inner: Bias

    def __call__(self) -> Tensor:
        assert self.norm.running_mean is not None
        beta: Tensor | None = self.norm.bias
        moved = (self.inner() - self.norm.running_mean.double()) * Gain(self.norm)()
        return moved if beta is None else beta.double() + moved

    def holder(self) -> nn.Module | None:
        return self.norm


@dataclass(frozen=True, slots=True)
class SumBias:
    """Of an addition."""

    left: Bias
    right: Bias

    def __call__(self) -> Tensor:
        return self.left() + self.right()

    def holder(self) -> nn.Module | None:
        return self.left.holder() or self.right.holder()


Bias = LayerBias | NormBias | SumBias


class Stored:
    """Values through a format, remembered as long as they stay the same."""

    def __init__(self, form: ConstantFormat, *, bias: bool) -> None:
        self.form, self.bias = form, bias
        self._last: tuple[npt.NDArray[np.float64], Constants] | None = None

    def constants(self, values: Tensor) -> Constants | None:
        """float64 () or (C,) -> constants; None for values that are not finite."""
        real = values.detach().cpu().reshape(-1).numpy().copy()
        if not np.isfinite(real).all():
            return None
        if self._last is None or not np.array_equal(self._last[0], real):
            self._last = real, self.form.quantize(real, bias=self.bias)
        return self._last[1]


class Requantisation(nn.Module):
    """sum_i x_i * Q(M_i) + Q(B), in real numbers: what the quantiser, which rounds half up, then rounds.

    name: of the Requantize that `hwq.lower` makes of it. end: the scale of its codes. real: leave the
    constants as they are, and round half up; for comparison. Nothing here is a parameter or a submodule.

    With Rounding.TRN half a code is taken off, since the quantiser adds it again. The sum is a multiple
    of 2^-F (numerics, evaluation), so half of that is added: it moves no exact sum to another code, and
    keeps the errors of floating point, as long as they are smaller, from doing so at ties.
    """

    def __init__(
        self,
        name: str,
        terms: Sequence[Term],
        bias: Bias,
        end: ActScale | Number,
        form: ConstantFormat,
        rounding: Rounding,
    ) -> None:
        super().__init__()
        self.name, self.terms, self.bias, self.end = name, tuple(terms), bias, end
        self.form, self.rounding = form, rounding
        self.real = False
        self._stored = [Stored(form, bias=False) for _ in terms]
        self._stored_bias = Stored(form, bias=True)

    def forward(self, *sums: Tensor) -> Tensor:
        """One tensor a term, (N, C, ...) -> the same shape."""
        # constants without a module are born on the CPU
        device = sums[0].device
        scale = self.end().detach().to(device)
        gains, shift = [t.gain().to(device) for t in self.terms], self.bias().to(device)
        if not self.real:
            gains, shift = self._straight_through(gains, shift, scale)
        total: Tensor | None = None
        for x, gain in zip(sums, gains, strict=True):
            part = _scaled(x, gain, shift if total is None else None)
            total = part if total is None else total + part
        assert total is not None
        return total

    def _straight_through(
        self, gains: list[Tensor], shift: Tensor, scale: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        stored = self.stored(scale)
        if stored is None:
            return gains, shift  # not finite, and so will be the loss
        made = []
        for term, gain, multiplier in zip(self.terms, gains, stored[:-1], strict=True):
            kept = _values(multiplier, gain.device) * scale / term.unit()
            made.append(gain + (kept - gain).detach())
        kept = (_values(stored[-1], shift.device) + _offset(stored, self.rounding, shift.device)) * scale
        return made, shift + (kept - shift).detach()

    def stored(self, scale: Tensor | None = None) -> list[Constants] | None:
        """The multipliers of each term, then the biases; None where one is not finite."""
        with torch.no_grad():
            scale = self.end() if scale is None else scale
            made = [s.constants(t.multiplier(scale)) for s, t in zip(self._stored, self.terms, strict=True)]
            made.append(self._stored_bias.constants(self.bias() / scale))
        known = [c for c in made if c is not None]
        return known if len(known) == len(made) else None

    @torch.no_grad()
    def bias_error(self, device: torch.device) -> Tensor:
        """(Q(B) - B) * scale, float64 () or (C,): what storing the biases adds to every output."""
        scale, shift = self.end().to(device), self.bias().to(device)
        stored = self._stored_bias.constants(shift / scale)
        assert stored is not None
        return _values(stored, device) * scale - shift

    def extra_repr(self) -> str:
        return f"{self.name}, {self.form}"


class PixelRequantisation(nn.Module):
    """The normalised image x = (q/255 - mean)/std: q * Q(M) + Q(B), M = 1/(255 std s), B = -mean/(std s)."""

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        end: ActScale,
        form: ConstantFormat,
        rounding: Rounding,
    ) -> None:
        super().__init__()
        self.mean, self.std, self.end, self.rounding = tuple(mean), tuple(std), end, rounding
        self._stored = Stored(form, bias=False), Stored(form, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        with torch.no_grad():
            scale = self.end()
            mean, std = (scale.new_tensor(v) for v in (self.mean, self.std))
            pair = (1.0 / (255.0 * std * scale), -mean / (std * scale))
            made = [s.constants(v) for s, v in zip(self._stored, pair, strict=True)]
            stored = [c for c in made if c is not None]
            if len(stored) < 2:
                return x
            multiplier = _values(stored[0], x.device) * scale
            shift = (_values(stored[1], x.device) + _offset(stored, self.rounding, x.device)) * scale
            return _scaled(x, 255.0 * std * multiplier, 255.0 * mean * multiplier + shift)


def _offset(constants: Sequence[Constants], rounding: Rounding, device: torch.device) -> Tensor:
    """What a sum needs so that the quantiser rounds it as hardware does; in codes, float64 (1,) or (C,)."""
    fraction = reduce(np.maximum, (c.fraction for c in constants), np.zeros(1, dtype=np.int64))
    half = np.ldexp(1.0, -fraction - 1)
    # whole sums lie midway between the quantiser's ties already
    added = half - 0.5 if rounding is Rounding.TRN else np.where(fraction == 0, 0.0, half)
    return torch.from_numpy(added).to(device)


def _values(constants: Constants, device: torch.device) -> Tensor:
    return torch.from_numpy(constants.values()).to(device)


def _scaled(x: Tensor, gain: Tensor, shift: Tensor | None) -> Tensor:
    """x * gain + shift along the channels of (N, C, ...), in x's precision, float32 at least.

    gain, shift: float64 (), (1,) or (C,). It is a BN with mean 0 and variance 1, which is one pass.
    """
    x = x.float() if x.dtype.itemsize < 4 else x
    channels = x.shape[1]
    zeros = x.new_zeros(channels)
    # batch_norm's backward pass reads past a vector of stride 0
    wide = gain.to(x.dtype).expand(channels).contiguous()
    bias = zeros if shift is None else shift.to(x.dtype).expand(channels).contiguous()
    return functional.batch_norm(x, zeros, torch.ones_like(zeros), wide, bias, eps=0.0)
