"""How a requantisation's constants are brought to one binary point."""

from __future__ import annotations

import numpy as np

from hwq.emit.rescale import scaling
from hwq.fixed import Constants, IntType
from hwq.ir import Requant


def _constants(raw: list[int], integer: list[int]) -> Constants:
    return Constants(width=16, raw=np.array(raw), integer=np.array(integer), format_name="16,channel")


def test_a_zero_is_never_shifted_by_less_than_nothing() -> None:
    """A channel of zeros beside one whose point lies far above: the native build takes the lift back."""
    requant = Requant(
        terms=(_constants([20000, 0, 20000], [-40, 16, 10]),),
        bias=_constants([0, 0, 3], [16, 16, 16]),
        out=IntType(bits=8, signed=True),
        lo=-127,
        hi=127,
    )
    scale = scaling(requant, (1 << 20,), "op")
    assert scale.lifted
    for shift in scale.shifts:
        assert (np.broadcast_to(shift, scale.lift.shape) >= scale.lift).all()
