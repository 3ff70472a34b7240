"""The ops of a graph. Every tensor holds integer codes, channels last, without a batch dimension.

Feature maps have shape (H, W, C), vectors (N,). Each op names its inputs and its output's shape, type
and scale; constants are read-only integer arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwq.fixed import IntType
from hwq.ir.padding import NO_PADDING, Padding
from hwq.ir.requant import Requant


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Shape (H, W, C) or (N,), integer type, and the real value of code 1.

    `scale` is None for accumulators, whose real value is stated by the requantisation that takes them.
    """

    shape: tuple[int, ...]
    type: IntType
    scale: float | None = None

    @property
    def channels(self) -> int:
        return self.shape[-1]

    @property
    def size(self) -> int:
        """Number of codes of one sample."""
        return int(np.prod(self.shape))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Op:
    """A node: `name` is unique in the graph, `inputs` name earlier ops, `out` is what it yields."""

    name: str
    inputs: tuple[str, ...]
    out: TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Input(Op):
    """Raw pixels: uint8 codes of shape (H, W, C). No inputs."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conv2d(Op):
    """Exact convolution: acc[y,x,o] = sum_{i,j,c} w[o,i,j,c] * q[y*s + i*d - top, x*s + j*d - left, g*G + c].

    weight: (O, KH, KW, C/groups), g = o // (O/groups), G = C/groups; codes of `weight_type`. q outside the
    map is code 0; a side may have more padding than the kernel reaches. s, d: (vertical, horizontal) pairs.
    out: (OH, OW, O), an accumulator type that holds every partial sum (numerics, section 4).
    """

    weight: npt.NDArray[np.int64]
    weight_type: IntType
    stride: tuple[int, int] = (1, 1)
    padding: Padding = NO_PADDING
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def kernel(self) -> tuple[int, int]:
        return self.weight.shape[1], self.weight.shape[2]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one sample (padding counted)."""
        return self.out.shape[0] * self.out.shape[1] * int(self.weight.size)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Linear(Op):
    """Exact matrix product: acc[o] = sum_i w[o,i] * q[i]. weight: (O, N). out: (O,), accumulator."""

    weight: npt.NDArray[np.int64]
    weight_type: IntType

    @property
    def macs(self) -> int:
        return int(self.weight.size)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Requantize(Op):
    """One or more inputs of the same shape to codes of `requant.out`: see `Requant`'s equation.

    Holds BN, rescaling, residual add and activation: whatever stands between exact sums and codes.
    """

    requant: Requant


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MaxPool(Op):
    """Largest code of each window; padding never wins. A 1x1 kernel with a stride subsamples.

    No side has as much padding as the kernel has rows or columns: every window has a code of the map.
    out: same type and scale.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: Padding = NO_PADDING


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SumPool(Op):
    """Exact sum of each window, padding adds 0; the 1/area of an average stands in the next Requantize.

    Padding as of `MaxPool`. out: a type that holds area * max|q|, scale None.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: Padding = NO_PADDING


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pad(Op):
    """Code 0 around the input, in space and in channels.

    y[top + i, left + j, before + c] = q[i, j, c], every other code is 0. out: (top + H + bottom,
    left + W + right, before + C + after), same type and scale.
    """

    padding: Padding = NO_PADDING
    before: int = 0
    after: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Concat(Op):
    """Two or more inputs of one type, scale and size joined along the channels, in order."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Flatten(Op):
    """(H, W, C) -> (H*W*C,), in that order; `lower` permutes what torch flattened as (C, H, W)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Output(Op):
    """The network's result: passes its one input on."""
