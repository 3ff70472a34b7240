"""Activation ranges that nothing calibrated: their start, their state, several processes."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed import ReduceOp

from hwq.quant.methods.lsq import LsqAct
from hwq.quant.methods.ranges import mse_bounds
from hwq.quant.methods.table import ACT_METHODS, WEIGHT_METHODS, make_act, make_weight
from hwq.quant.methods.uniform import UniformAct

FOLLOWING = ("uniform", "dsq")


def batch(seed: int, size: float = 1.0) -> torch.Tensor:
    return torch.randn(8, 3, 5, generator=torch.Generator().manual_seed(seed)) * size


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_lsq_starts_from_the_first_training_batch(bits: int, signed: bool) -> None:
    q = make_act("lsq", bits, signed=signed)
    q.eval()
    q(batch(0))
    assert q.scale() == 1.0  # evaluation starts nothing
    q.train()
    x = batch(1) if signed else batch(1).relu()
    q(torch.zeros(4))  # nor do zeros
    assert q.scale() == 1.0
    q(x)
    want = 2 * float(x.abs().mean()) / math.sqrt(q.type.hi)
    assert q.scale() == pytest.approx(want, rel=1e-6)  # float32
    q(batch(2, 9.0))
    assert q.scale() == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("signed", [False, True])
def test_lsq_plus_starts_at_the_least_error(signed: bool) -> None:
    q = make_act("lsq+", 4, signed=signed)
    x = batch(3)
    q(x)
    sizes = (x.abs() if signed else x.clamp_min(0)).reshape(1, -1)
    assert q.bound() == pytest.approx(float(mse_bounds(sizes, q.type.hi)), rel=1e-6)  # float32


@pytest.mark.parametrize("method", FOLLOWING)
def test_a_moving_average_of_peaks(method: str) -> None:
    q = make_act(method, 4, signed=True)
    peaks = []
    for i in range(4):
        x = batch(i, 1 + i)
        q(x)
        peaks.append(float(x.abs().max()))
        assert q.bound() == pytest.approx(sum(peaks) / len(peaks), rel=1e-6)  # float32
    q.eval()
    q(batch(9, 100))
    assert q.bound() == pytest.approx(sum(peaks) / len(peaks), rel=1e-6)


def test_after_a_hundred_batches_a_hundredth() -> None:
    q = make_act("uniform", 4, signed=False)
    for _ in range(150):
        q(torch.ones(2))
    assert q.bound() == pytest.approx(1, rel=1e-6)
    q(torch.full((2,), 3.0))
    assert q.bound() == pytest.approx(1 + 2 * 0.01, rel=1e-5)  # float32


@pytest.mark.parametrize("method", ACT_METHODS)
def test_a_bound_that_was_set_stays(method: str) -> None:
    q = make_act(method, 4, signed=False)
    q.set_bound(0.7)
    before = q.scale()
    q(batch(0, 50))
    assert q.scale() == before


@pytest.mark.parametrize("method", ["dorefa", "pact-fixed", "pact", "mpact"])
def test_constants_do_not_follow(method: str) -> None:
    q = make_act(method, 4, signed=True)
    start = {"dorefa": 1.0, "pact-fixed": 2.0}.get(method, 10.0)
    q(batch(0, 50))
    assert q.bound() == pytest.approx(start, rel=1e-6)  # float32
    if method == "pact-fixed":
        q.set_bound(9.0)
        assert q.bound() == 2.0
        assert not list(q.parameters())


@pytest.mark.parametrize("set_first", [False, True])
@pytest.mark.parametrize("method", ACT_METHODS)
def test_activations_go_on_exactly_from_a_file(method: str, set_first: bool, tmp_path: Path) -> None:
    """After 0, 1, 2 batches saved and loaded: the same values for every batch after it."""
    for done in range(3):
        q = make_act(method, 4, signed=True)
        if set_first:
            q.set_bound(0.8)
        for i in range(done):
            q(batch(i, 1 + i))
        save_file({k: v.contiguous() for k, v in q.state_dict().items()}, tmp_path / "q.safetensors")
        other = make_act(method, 4, signed=True)
        other(batch(7, 70))  # whatever it was before
        other.load_state_dict(load_file(tmp_path / "q.safetensors"))
        copied = copy.deepcopy(q)
        for i in range(done, done + 3):
            want = q(batch(i, 1 + i))
            assert torch.equal(want, other(batch(i, 1 + i)))
            assert torch.equal(want, copied(batch(i, 1 + i)))
        assert q.scale() == other.scale() == copied.scale()


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("method", WEIGHT_METHODS)
def test_weights_go_on_exactly(method: str, per_channel: bool) -> None:
    w = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    q, other = (
        make_weight(method, 4, per_channel=per_channel, channels=4, rescale="learned") for _ in range(2)
    )
    q.start(w)
    other.load_state_dict(q.state_dict())
    assert torch.equal(q(w * 1.1), other(w * 1.1))


@pytest.mark.parametrize("method", [*FOLLOWING, "lsq"])
def test_files_from_before_ranges_could_follow(method: str) -> None:
    q = make_act(method, 4, signed=True)
    stored = {k: v for k, v in q.state_dict().items() if k != "seen"}
    q.load_state_dict(stored)
    before = q.scale()
    q(batch(0, 50))
    assert q.scale() == before


@pytest.mark.parametrize("method", [*FOLLOWING, "lsq", "lsq+"])
def test_processes_agree(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the whole batch: means are averaged, peaks compared. The other process sees 3 times as much."""
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr(
        "torch.distributed.all_reduce",
        lambda value, op=ReduceOp.SUM: value.mul_(4 if op == ReduceOp.SUM else 3),
    )
    alone, both = make_act(method, 4, signed=True), make_act(method, 4, signed=True)
    both(batch(0))
    monkeypatch.undo()
    alone(batch(0))
    assert isinstance(both, UniformAct | LsqAct)
    factor = 3 if method in FOLLOWING else 2
    assert both.scale() == pytest.approx(factor * alone.scale(), rel=1e-6)  # float32
