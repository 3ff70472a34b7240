"""b bits mean so many levels and no more: counted."""

from __future__ import annotations

import pytest
import torch

from hwq.quant.methods.table import ACT_METHODS, WEIGHT_METHODS, make_act, make_weight

BITS = (1, 2, 3, 4, 6, 8)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("method", WEIGHT_METHODS)
def test_levels_of_weights(method: str, per_channel: bool, bits: int) -> None:
    """At most 2^b - 1 values, symmetric about 0: 15 at 4 bits; exactly so many in a dense tensor."""
    w = torch.linspace(-1, 1, 4001).repeat(2, 1)
    q = make_weight(method, bits, per_channel=per_channel, channels=2)
    q.start(w)
    if method == "lsq":  # its start covers more than the weights that are there
        with torch.no_grad():
            q.raw.fill_(1 / q.type.hi)  # type: ignore[operator, union-attr]
    for row in q(w):
        found = row.unique()
        assert len(found) == (2 if bits == 1 else 2**bits - 1)
        assert torch.equal(found, -found.flip(0))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("method", ACT_METHODS)
def test_levels_of_activations(method: str, signed: bool, bits: int) -> None:
    """2^b values from 0 after a ReLU, 16 at 4 bits; else 2^b - 1 about 0, 15 at 4 bits."""
    q = make_act(method, bits, signed=signed)
    q.set_bound(1.0)
    found = q(torch.linspace(-4, 4, 16001)).detach().unique()
    if signed:
        assert len(found) == max(3, 2**bits - 1)
        assert torch.equal(found, -found.flip(0))
    else:
        assert len(found) == 2**bits
        assert float(found[0]) == 0
