"""Networks as users write them, in integers of 12 bits: their logits are eager torch's in float64."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from hwq.fixed import parse_edge, parse_format
from hwq.lower import Formats, lower
from hwq.quant import Policy, calibrate, estimate_norms, prepare
from hwq.simulate.oracle import run_oracle
from tests.lower.reference import noise
from tests.quant.tracing.networks import SHAPE, Between, Net
from tests.quant.tracing.test_inplace import EXACT
from tests.quant.tracing.test_redundant import Flat
from tests.quant.tracing.test_sizes import STATIC

BITS = Policy(
    weight_bits=12,
    act_bits=12,
    input_bits=12,
    pool_bits=12,
    weight_method="uniform",
    act_method="uniform",
    per_channel=True,
)
FORMATS = Formats(body=parse_format("48,auto"), edge=parse_edge("32,12"))
OTHERS = ("a vector", "arithmetic", "parts of a result")
"""What no integer graph has: a vector made a map again, channels cut off."""
CASES: dict[str, Between] = {
    case: between
    for table in (EXACT, {case: between for case, (between, _) in STATIC.items()})
    for case, between in table.items()
    if case not in OTHERS
}


def correlation(net: torch.nn.Module) -> float:
    """Of the integers' logits with those of the network itself, on other images than calibration's."""
    mean, std = [0.45, 0.48, 0.5], [0.25, 0.22, 0.28]
    pixels = noise(SHAPE, 24)
    images = (torch.from_numpy(pixels) / 255.0 - torch.tensor(mean)) / torch.tensor(std)
    images = images.permute(0, 3, 1, 2).contiguous()
    estimate_norms(net, [images])
    model = prepare(net, BITS, SHAPE).eval()
    calibrate(model, [images])
    graph = lower(model, shape=(3, 8, 8), mean=mean, std=std, formats=FORMATS).graph
    found = run_oracle(graph, pixels)[graph.output.name].astype(np.float64)
    with torch.no_grad():
        wanted = copy.deepcopy(net).double().eval()(images.double().clone()).numpy()
    return float(np.corrcoef(found.ravel(), wanted.ravel())[0, 1])


@pytest.mark.parametrize("case", CASES)
def test_integers_are_the_network(case: str) -> None:
    torch.manual_seed(11)
    net = Net(CASES[case])
    # a bound, not equality: 12 bits are not real numbers
    assert correlation(net) > 0.999


def test_integers_of_every_view() -> None:
    torch.manual_seed(11)
    assert correlation(Flat()) > 0.999
