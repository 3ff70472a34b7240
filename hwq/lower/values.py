"""What a node of the traced network stands for while it is lowered."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hwq.ir import NO_PADDING, Padding, TensorSpec, pooled_size

Floats = npt.NDArray[np.float64]
Factor = float | Floats
Order = npt.NDArray[np.int64]
"""Of a flattened feature map: order[k] = the torch (C, H, W) position of the graph's (H, W, C) position k."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Codes:
    """The integers that op `op` yields; real value = integer * product of `factors`.

    One factor, `spec.scale`, for quantised codes; (1/area, scale) for the sums of an average pool.
    """

    op: str
    spec: TensorSpec
    factors: tuple[float, ...]
    order: Order | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spec.shape


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pixels:
    """The raw image: real value = (q/255 - mean) / std."""

    op: str
    spec: TensorSpec

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spec.shape


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Term:
    """One op's integers times the product of `factors`, left to right (scalars, or vectors of C)."""

    op: str
    factors: tuple[Factor, ...]

    def multiplier(self, scale: float) -> Factor:
        """M = factors / scale in float64, left to right, as numerics section 2 orders it."""
        return reduce(lambda a, b: a * b, self.factors) / scale


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Move:
    """A step that commutes with requantisation and waits for it: a max pool, a subsampling, a flatten.

    kernel None means flatten.
    """

    name: str
    kernel: tuple[int, int] | None = None
    stride: tuple[int, int] = (1, 1)
    padding: Padding = NO_PADDING

    def moved(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a map of `shape` after it."""
        if self.kernel is None:
            return (int(np.prod(shape)),)
        h, w, channels = shape
        return (*pooled_size((h, w), self.kernel, self.stride, self.padding), channels)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PadMove:
    """Zeros around a map: code 0 whatever the scale, so it waits as a `Move` does."""

    name: str
    padding: Padding
    before: int
    after: int

    def moved(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a map of `shape` after it."""
        h, w, channels = shape
        return (*self.padding.padded((h, w)), self.before + channels + self.after)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pending:
    """clamp(sum of terms + bias[c], lo, hi), real-valued: not rounded yet, then moved by `moves`.

    inner: shape of the terms. shape: after the moves. A quantiser ends it in one Requantize.
    """

    terms: tuple[Term, ...]
    bias: Floats
    inner: tuple[int, ...]
    lo: float = -np.inf
    hi: float = np.inf
    moves: tuple[Move | PadMove, ...] = ()
    shape: tuple[int, ...]
    order: Order | None = None

    @property
    def affine(self) -> bool:
        """Whether more arithmetic may be folded in: no clamp, nothing moved."""
        return not self.moves and self.lo == -np.inf and self.hi == np.inf


class Batch:
    """The unknown batch size, where code reads it from a tensor's shape."""


BATCH = Batch()
Tensor: TypeAlias = Codes | Pixels | Pending


def flat_order(shape: tuple[int, ...], order: Order | None) -> Order | None:
    """The order after flattening (H, W, C); None where it is torch's own."""
    if len(shape) == 1:
        return order
    h, w, c = shape
    torch_positions = np.arange(c * h * w, dtype=np.int64).reshape(c, h, w)
    made = torch_positions.transpose(1, 2, 0).ravel()
    return None if bool((np.diff(made) == 1).all()) else made
