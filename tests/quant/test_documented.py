"""What docs/numerics.md says of scales, statement by statement."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, fx, nn

from hwq.models import build
from hwq.quant import Policy, Ranges, calibrate, prepare
from hwq.quant.methods.ranges import Sample, percentile_bounds
from hwq.quant.methods.uniform import MseWeight, PercentileWeight, UniformWeight

DIGITS = (8, 8, 1)


@pytest.mark.parametrize(
    ("percentile", "wanted"),
    [(0.1, 1), (10, 1), (10.1, 2), (50, 5), (50.1, 6), (90, 9), (99, 10), (99.9, 10), (100, 10)],
)
def test_percentiles_take_the_nearest_rank(percentile: float, wanted: float) -> None:
    """Of 1..10; linear interpolation would say 5.5 for the median."""
    rows = torch.arange(10.0, 0, -1)[None]
    assert percentile_bounds(rows, percentile).tolist() == [wanted]


def test_percentile_weights_take_the_same_rank() -> None:
    w = torch.arange(1.0, 1001.0).reshape(10, 100)
    assert PercentileWeight(4).clip(w).item() == 999.0
    per_channel = PercentileWeight(4, per_channel=True).clip(w)
    assert per_channel.tolist() == w[:, -1].tolist()


def _error(sizes: npt.NDArray[np.float64], clip: float, hi: int) -> float:
    s = clip / hi
    return float(((np.minimum(np.floor(sizes / s + 0.5), hi) * s - sizes) ** 2).sum())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_mse_weights_search_eighths_of_octaves_down_to_a_sixteenth(bits: int) -> None:
    w = torch.from_numpy(np.random.default_rng(bits).laplace(size=(6, 50)))
    q = MseWeight(bits, per_channel=True)
    for row, clip in zip(w.abs().numpy(), q.clip(w).tolist(), strict=True):
        grid = [float(row.max()) * 2.0 ** (-i / 8) for i in range(33)]
        assert clip == grid[int(np.argmin([_error(row, c, q.type.hi) for c in grid]))]
    far = torch.full((1, 2000), 0.05).double()
    far[0, 0] = 1.0  # so far out that the end of the grid is best
    assert MseWeight(2).clip(far).item() == 2.0**-4


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_mse_ranges_of_activations_search_32nds_of_octaves(bits: int) -> None:
    hi, places = (1 << bits) - 1, []
    for seed in range(6):
        sample = Sample(signed=False)
        sample.add(torch.from_numpy(np.random.default_rng(seed).laplace(size=300)))
        sizes = sample.sizes().double().numpy()
        grid = [float(sizes.max()) * 2.0 ** (-i / 32) for i in range(257)]
        places.append(int(np.argmin([_error(sizes, c, hi) for c in grid])))
        assert Ranges(method="mse").bound(sample, bits, hi) == grid[places[-1]]
    assert any(i % 2 for i in places)  # no coarser grid has them
    far = Sample(signed=False)
    far.add(torch.full((3 << 16,), 2.0**-8.5).index_fill(0, torch.tensor([0]), 1.0))
    assert Ranges(method="mse").bound(far, 1, 1) == 2.0**-8  # the end of the grid


@pytest.mark.parametrize("method", [UniformWeight, PercentileWeight, MseWeight])
@pytest.mark.parametrize("bits", range(2, 17))
def test_weight_codes_are_w_over_c_times_r(method: type[UniformWeight], bits: int) -> None:
    w = torch.from_numpy(np.random.default_rng(bits).normal(size=(8, 40)))
    q = method(bits, per_channel=True)
    codes, scale = q.codes(w)
    clip, top = q.clip(w)[:, None], q.type.hi
    assert torch.equal(codes, torch.floor(w / clip * top + 0.5).clamp(-top, top).long())
    assert torch.equal(scale, q.clip(w) / top)
    if method is UniformWeight:  # w / s may fall short of it
        assert codes.abs().amax(1).tolist() == [top] * 8


def _digits(act_method: str) -> fx.GraphModule:
    torch.manual_seed(0)
    policy = Policy(weight_bits=4, act_bits=4, weight_method="lsq", act_method=act_method)
    return prepare(build("digits", DIGITS, 10), policy, DIGITS)


def _step(net: fx.GraphModule, images: Tensor) -> dict[str, Tensor]:
    """Every parameter's gradient and the logits of one training step."""
    net.train()
    logits = net(images)
    nn.functional.cross_entropy(logits, torch.arange(len(images)) % 10).backward()
    found = {n: p.grad for n, p in net.named_parameters() if p.grad is not None}
    return {**found, "logits": logits.detach(), **dict(net.named_buffers())}


@pytest.mark.parametrize("calibrated", [True, False])
def test_lsq_plus_is_lsq_once_calibrated(calibrated: bool) -> None:
    """They differ in where the first batch puts a range that nothing else set."""
    images = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    steps = []
    for method in ("lsq", "lsq+"):
        net = _digits(method)
        if calibrated:
            calibrate(net, [images])
        steps.append(_step(net, images))
    one, other = steps
    assert one.keys() == other.keys()
    assert all(torch.equal(one[n], other[n]) for n in one) == calibrated
