"""Ranges, batch-norm statistics and biases from data, each against its definition."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, fx, nn

from hwq.errors import InputError
from hwq.models import build
from hwq.quant import (
    ACT_METHODS,
    ActQuantizer,
    Policy,
    QuantConv2d,
    Ranges,
    calibrate,
    estimate_norms,
    prepare,
)
from hwq.quant.calibration.bias import bytes_per_image, channel_means, correct_biases, correctable
from hwq.quant.methods import ranges
from hwq.quant.methods.modes import activations_floating, everything_floating
from hwq.quant.methods.ranges import Sample, mse_bounds, percentile_bounds

DIGITS = (8, 8, 1)


def _images(count: int, shape: tuple[int, int, int] = DIGITS, seed: int = 0) -> Tensor:
    height, width, channels = shape
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, height, width, generator=generator)


def _prepared(name: str = "digits", **policy: object) -> fx.GraphModule:
    torch.manual_seed(0)
    net = build(name, DIGITS, 10)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.3, 2.0)
            nn.init.uniform_(module.weight, 0.4, 1.6)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return prepare(net, Policy(**policy), DIGITS).eval()  # type: ignore[arg-type]


# -- bounds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 7, 1000, 1001])
@pytest.mark.parametrize("percentile", [0.1, 50, 99, 99.9, 99.99, 100])
def test_percentile_is_the_least_value_that_so_many_do_not_exceed(count: int, percentile: float) -> None:
    rows = np.abs(np.random.default_rng(count).normal(size=(3, count)))
    found = percentile_bounds(torch.from_numpy(rows), percentile)
    for row, bound in zip(rows, found.tolist(), strict=True):
        enough = [v for v in row if Fraction(str(percentile)) * count <= 100 * int((row <= v).sum())]
        assert bound == min(enough)


def _brute(sizes: npt.NDArray[np.float64], hi: int) -> float:
    """The candidate of least squared error, each evaluated value by value."""
    candidates = [sizes.max() * 2.0 ** (-i / 32) for i in range(257)]
    errors = []
    for bound in candidates:
        s = bound / hi
        codes = np.minimum(np.floor(sizes / s + 0.5), hi)
        errors.append(((sizes - codes * s) ** 2).sum())
    return float(candidates[int(np.argmin(errors))])


@pytest.mark.parametrize("hi", [1, 3, 7, 15, 127, 255])
@pytest.mark.parametrize("shape", ["normal", "laplace", "uniform", "outlier"])
def test_mse_is_the_best_candidate(hi: int, shape: str) -> None:
    source = np.random.default_rng(hi)
    match shape:
        case "normal":
            rows = source.normal(size=(4, 400))
        case "laplace":
            rows = source.laplace(size=(4, 400))
        case "uniform":
            rows = source.uniform(-1, 1, size=(4, 400))
        case _:
            rows = source.normal(size=(4, 400))
            rows[:, 0] = 100.0
    sizes = np.abs(rows)
    found = mse_bounds(torch.from_numpy(sizes), hi)
    assert found.dtype == torch.float64
    assert found.tolist() == [_brute(row, hi) for row in sizes]


def test_mse_of_values_on_the_grid_loses_nothing() -> None:
    sizes = torch.arange(16.0)[None] * 0.25
    assert mse_bounds(sizes, 15).tolist() == [3.75]
    assert mse_bounds(torch.full((1, 5), 2.0), 7).tolist() == [2.0]


# -- samples -------------------------------------------------------------------------------------


def test_a_sample_keeps_all_while_they_fit() -> None:
    parts = [_images(3, seed=1) * 5, _images(2, seed=2)]
    values = torch.cat([p.flatten() for p in parts])
    for signed, sizes in ((True, values.abs()), (False, values.clamp_min(0))):
        sample = Sample(signed=signed)
        for part in parts:
            sample.add(part)
        assert torch.equal(sample.sizes(), sizes)
        assert (sample.peak, sample.seen) == (float(sizes.max()), len(values))


def test_a_full_sample_is_thinned_evenly_and_knows_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "LIMIT", 100)
    values = torch.arange(1000.0).flip(0)
    whole = Sample(signed=True)
    whole.add(values)
    assert whole.stride == 27  # the least power of 3 that leaves fewer than 100
    assert torch.equal(whole.sizes(), values[::27])
    parts = Sample(signed=True)
    for part in values.split(50):
        parts.add(part)
        assert len(parts.sizes()) <= 100
    assert parts.peak == 999
    assert parts.sizes().mean() == pytest.approx(499.5, rel=0.1)  # spread over all parts
    assert set(parts.sizes().tolist()) <= set(values.tolist())


@pytest.mark.parametrize("percentile", [0, -1, 100.5, float("nan")])
def test_percentiles_out_of_range(percentile: float) -> None:
    with pytest.raises(InputError, match="percentile"):
        Ranges(method="percentile", percentile=percentile)


def test_unknown_ranges() -> None:
    with pytest.raises(InputError, match="known: max, percentile, mse"):
        Ranges(method="kl")


# -- calibration ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [Ranges(method="max"), Ranges(method="percentile", percentile=97), Ranges()])
@pytest.mark.parametrize("bits", [3, 8, 12])
def test_ranges_of_a_network(rule: Ranges, bits: int) -> None:
    model = _prepared(act_bits=bits, act_method="uniform").train()
    batches = [_images(8, seed=1), _images(5, seed=2)]
    seen: dict[str, list[Tensor]] = {}
    with activations_floating(model.eval()):
        for name, q in model.named_modules():
            if isinstance(q, ActQuantizer):
                q.register_forward_pre_hook(_keeper(seen.setdefault(name, [])))
        for batch in batches:
            model(batch)
    values = {name: torch.cat(parts).numpy().astype(np.float64) for name, parts in seen.items()}
    model.train()
    calibrate(model, batches, rule)
    assert all(m.training for m in model.modules())
    for name, tensor in values.items():
        q = model.get_submodule(name)
        assert isinstance(q, ActQuantizer)
        assert q.observer is None
        sizes = np.abs(tensor) if q.signed else np.maximum(tensor, 0)
        match rule.method:
            case _ if q.bits >= 12:
                want = sizes.max()
            case "max":
                want = sizes.max()
            case "percentile":
                want = np.sort(sizes)[-(-97 * len(sizes) // 100) - 1]
            case _:
                want = _brute(sizes, q.type.hi)
        assert q.scale() == float(np.float32(want)) / q.type.hi  # the range is a float32 buffer


def _keeper(parts: list[Tensor]) -> object:
    def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        parts.append(args[0].detach().flatten().clone())

    return keep


class _Silent(nn.Module):
    """One activation is 0 throughout, another nearly always."""

    def __init__(self) -> None:
        super().__init__()
        self.dead, self.rare, self.last = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1), nn.Linear(128, 3)
        with torch.no_grad():
            self.dead.weight.zero_()
            self.dead.bias.fill_(-1.0)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.rare(torch.relu(self.dead(x))))
        y: Tensor = self.last(x.flatten(1))
        return y


def test_a_range_is_never_zero() -> None:
    model = prepare(_Silent(), Policy(act_method="uniform"), DIGITS).eval()
    rare = model.get_submodule("rare")
    assert isinstance(rare, QuantConv2d)
    assert rare.bias is not None
    with torch.no_grad():
        rare.bias.copy_(torch.tensor([2.0, -1.0]))
    quantizers = {n: q for n, q in model.named_modules() if isinstance(q, ActQuantizer)}
    dead, half = (q for n, q in quantizers.items() if n.startswith("relu"))
    calibrate(model, [_images(4)], Ranges(method="percentile", percentile=10))
    assert dead.bound() == 1.0  # nothing but 0 was seen: its start
    assert half.bound() == 2.0  # a tenth of the values are 0, and so would be the range: the peak


@pytest.mark.parametrize("method", ACT_METHODS)
def test_every_method_takes_a_range(method: str) -> None:
    model = _prepared(act_method=method, act_bits=5)
    calibrate(model, [_images(8)])
    assert all(q.scale() > 0 for q in model.modules() if isinstance(q, ActQuantizer))
    assert torch.isfinite(model(_images(2))).all()


def test_a_failing_batch_leaves_the_network_as_it_was() -> None:
    model = _prepared().train()
    with pytest.raises(RuntimeError):
        calibrate(model, [_images(2), torch.zeros(2, 3, 8, 8)])
    assert all(q.observer is None for q in model.modules() if isinstance(q, ActQuantizer))
    assert all(m.training for m in model.modules())


# -- batch norms ---------------------------------------------------------------------------------


@pytest.mark.parametrize("floating", [False, True])
def test_norms_are_the_plain_mean_over_batches(floating: bool) -> None:
    model = _prepared(act_bits=4).double().train()
    calibrate(model, [_images(8).double()])
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    norms["bn"].momentum = 0.25
    norms["bn"].eval()
    means: dict[str, list[Tensor]] = {n: [] for n in norms}
    variances: dict[str, list[Tensor]] = {n: [] for n in norms}

    def note(name: str) -> object:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            values = args[0].transpose(0, 1).flatten(1)
            means[name].append(values.mean(1))
            variances[name].append(values.var(1, unbiased=True))

        return hook

    hooks = [m.register_forward_pre_hook(note(n)) for n, m in norms.items()]
    batches = [_images(n, seed=n).double() for n in (9, 4, 6)]
    estimate_norms(model, batches, floating=floating)
    for hook in hooks:
        hook.remove()
    for name, norm in norms.items():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        # torch averages cumulatively: another order of float64 operations
        want = torch.stack(means[name]).mean(0)
        assert torch.allclose(norm.running_mean, want, rtol=1e-12, atol=1e-14)
        assert torch.allclose(norm.running_var, torch.stack(variances[name]).mean(0), rtol=1e-12, atol=0)
        assert norm.momentum == (0.25 if name == "bn" else 0.1)
        assert norm.training is (name != "bn")
    assert all(q.observer is None for q in model.modules() if isinstance(q, ActQuantizer))


def test_statistics_from_nothing_stay_as_they_were() -> None:
    model = _prepared().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(InputError, match="at least 2 images"):
        estimate_norms(model, iter(()))
    after = model.state_dict()
    assert [k for k, v in before.items() if not torch.equal(v, after[k])] == []
    assert all(m.training for m in model.modules())


# -- biases --------------------------------------------------------------------------------------


class _Kinds(nn.Module):
    """Every place that can hold a correction, and those that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(1, 4, 3, padding=1)
        self.normed, self.bn = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.bare, self.bare_bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False)
        self.shared = nn.Conv2d(4, 4, 1)
        self.no_bias, self.head = nn.Linear(4, 6, bias=False), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.plain(x))
        x = torch.relu(self.bn(self.normed(x)) + x)
        x = torch.relu(self.bare_bn(self.bare(x)))
        x = torch.relu(self.shared(torch.relu(self.shared(x))))
        x = torch.relu(self.no_bias(x.mean((2, 3))))
        y: Tensor = self.head(x)
        return y


def _kinds() -> fx.GraphModule:
    torch.manual_seed(3)
    net = _Kinds().eval()
    for norm in (net.bn, net.bare_bn):
        nn.init.uniform_(norm.running_mean, -0.2, 0.2)
        nn.init.uniform_(norm.running_var, 0.1, 0.5)
    return prepare(net, Policy(weight_bits=3, act_bits=3, weight_method="uniform"), DIGITS).eval()


NETWORKS = {
    "digits": lambda: _prepared(weight_bits=3, act_bits=3, weight_method="uniform"),
    "mlp": lambda: _prepared("mlp", weight_bits=2, act_bits=4, weight_method="mse", per_channel=True),
    "kinds": _kinds,
}


@dataclass
class Case:
    """wanted: channel means as floats, of the batches."""

    name: str
    model: fx.GraphModule
    batches: list[Tensor]
    wanted: dict[str, Tensor]


@pytest.fixture(params=list(NETWORKS))
def case(request: pytest.FixtureRequest) -> Case:
    """A network that is quantised and calibrated, not corrected."""
    model = NETWORKS[request.param]().double()
    batches = [_images(n, seed=n).double() for n in (16, 7)]
    with everything_floating(model):
        wanted = channel_means(model, batches)
    calibrate(model, batches)
    return Case(request.param, model, batches, wanted)


def test_corrected_channels_have_the_mean_of_the_floats(case: Case) -> None:
    model, batches, wanted = case.model, case.batches, case.wanted
    before = channel_means(model, batches)
    left = correct_biases(model, batches, wanted)
    assert left == (["no_bias"] if case.name == "kinds" else [])
    if case.name == "kinds":
        assert set(correctable(model)) == {"plain", "bn", "bare_bn", "no_bias", "head"}
    after = channel_means(model, batches)
    # the shift is rounded once, and so are the sums of a mean: float64 of numbers of order 1
    assert all((after[n] - w).abs().max() < 1e-11 for n, w in wanted.items() if n not in left)
    assert max((before[n] - w).abs().max() for n, w in wanted.items()) > 1e-3
    assert all((after[n] - wanted[n]).abs().max() > 1e-6 for n in left)


def test_a_correction_of_nothing_changes_next_to_nothing(case: Case) -> None:
    model, batches = case.model, case.batches
    own = channel_means(model, batches)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    correct_biases(model, batches, own)
    for name, value in model.state_dict().items():
        if value.is_floating_point():  # the means are summed in another order
            assert torch.allclose(value, before[name], rtol=0, atol=1e-12), name


def test_memory_of_a_correction_is_what_is_alive_at_once() -> None:
    model = prepare(nn.Sequential(nn.Conv2d(1, 6, 1), nn.ReLU(), nn.Conv2d(6, 2, 1)), Policy(), DIGITS).eval()
    # ReLU reads six maps and writes six
    assert bytes_per_image(model, _images(1)) == 2 * 6 * 64 * 4
