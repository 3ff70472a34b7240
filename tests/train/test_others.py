"""Float weights as other programs leave them: other names, other dictionaries, other things beside them."""

from __future__ import annotations

import argparse
import collections
import datetime
import pathlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hwq.errors import HwqNote, InputError
from hwq.models import build
from hwq.train.checkpoint import fill, load_weights

State = dict[str, Tensor]


def _network() -> nn.Module:
    torch.manual_seed(0)
    return build("mlp", (8, 8, 1), 10)


NETWORK = _network()
STATE: State = NETWORK.state_dict()
EMA: State = {k: v * 2 for k, v in STATE.items()}


def under(prefix: str, state: State = STATE) -> State:
    return {prefix + k: v for k, v in state.items()}


def each(change: Callable[[Tensor], Tensor]) -> State:
    return {k: change(v) if v.is_floating_point() else v for k, v in STATE.items()}


def optimiser() -> dict[str, Any]:
    adam = torch.optim.Adam(NETWORK.parameters())
    state = adam.state_dict()
    state["state"] = {i: {"exp_avg": torch.zeros(3), "step": torch.tensor(1.0)} for i in range(3)}
    return state


BESIDE = {
    "accuracy": np.float64(91.5),
    "loss": np.float32(0.25),
    "epoch": np.int64(3),
    "done": np.bool_(True),
    "curve": np.arange(4.0),
    "args": argparse.Namespace(lr=0.1, out=pathlib.Path("/tmp/x")),
    "when": datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
    "counts": collections.defaultdict(list, a=[1]),
    "names": {"a", "b"},
    "last": collections.deque([1, 2], maxlen=3),
}
TAKEN: dict[str, Any] = {
    "plain": STATE,
    "module": under("module."),
    "two prefixes": {"model_state_dict": under("module._orig_mod.")},
    "any prefix": under("some.wrapper.net."),
    "Lightning": {"state_dict": under("model."), "callbacks": {}, "optimizer_states": [optimiser()]},
    "net": {"net": STATE, "optimizer": optimiser(), "epoch": 3},
    "deep": {"run": {"best": {"net": STATE}}},
    "beside the dictionary": {"weights": STATE, **BESIDE},
    "beside the tensors": {**STATE, **BESIDE},
    "the same twice": {"model": STATE, "best": dict(STATE)},
    "another network too": {"model": STATE, "discriminator": {"conv.weight": torch.zeros(3)}},
    "parameters": {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in STATE.items()},
    "float64": each(Tensor.double),
    "a counter averaged": {k: v if v.is_floating_point() else v.float() for k, v in STATE.items()},
    "an averaged model": {**under("module."), "n_averaged": torch.tensor(3)},
}


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
@pytest.mark.parametrize("name", TAKEN)
def test_taken(name: str, old: bool, tmp_path: Path) -> None:
    torch.save(TAKEN[name], tmp_path / "x.pt", _use_new_zipfile_serialization=not old)
    with warnings.catch_warnings():
        warnings.simplefilter("error", HwqNote)
        assert_loads(tmp_path / "x.pt", STATE)


def assert_loads(path: Path, wanted: State) -> None:
    network = build("mlp", (8, 8, 1), 10)
    weights, policy = load_weights(path, network)
    fill(network, weights, path, "mlp")
    assert policy is None
    assert all(torch.equal(v, wanted[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize(
    ("content", "names", "chosen"),
    [
        ({"model": STATE, "ema": EMA}, "model, ema", {"model": STATE, "ema": EMA}),
        (
            {"model": STATE, "model_ema": {**under("module.", EMA), "n_averaged": torch.tensor(3)}},
            "model, model_ema.module",
            {"model": STATE, "model_ema": EMA, "model_ema.module": EMA},
        ),
        (
            {"state_dict": under("student.") | under("teacher.", EMA)},
            "state_dict.student, state_dict.teacher",
            {"student": STATE, "teacher": EMA, "state_dict.teacher": EMA},
        ),
    ],
    ids=["dictionaries", "an average", "prefixes"],
)
@pytest.mark.filterwarnings("ignore::hwq.errors.HwqNote")
def test_of_several_the_user_says_which(
    content: Any, names: str, chosen: dict[str, State], tmp_path: Path
) -> None:
    path = tmp_path / "x.pt"
    torch.save(content, path)
    with pytest.raises(InputError, match=rf"several networks that fit \({names}\); say which, as in .*x.pt:"):
        load_weights(path, NETWORK)
    for key, wanted in chosen.items():
        assert_loads(Path(f"{path}:{key}"), wanted)
    with pytest.raises(InputError, match="has no 'other'; it has "):
        load_weights(Path(f"{path}:other"), NETWORK)


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    torch.save(under("model.") | {"loss.weight": torch.ones(2)}, tmp_path / "x.pt")
    with pytest.warns(HwqNote, match=r"without 1 tensors that are not under 'model', as 'loss\.weight'"):
        assert_loads(tmp_path / "x.pt", STATE)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


REFUSED: dict[str, tuple[Any, str]] = {
    "meta": (each(lambda v: v.to("meta")), r"'fc1\.weight' holds no numbers"),
    "sparse": (each(lambda v: v.to_sparse() if v.dim() == 2 else v), r"no dense tensor \(sparse_coo\)"),
    "complex": (each(lambda v: v.to(torch.complex64)), "complex numbers"),
    "whole numbers": (each(Tensor.int), r"'fc1\.weight' holds int32, not float32"),
    "nan": (each(lambda v: v / 0), r"'fc1\.weight' holds inf or nan"),
    "negative variance": ({**STATE, "bn1.running_var": -STATE["bn1.running_var"]}, "holds -1; it cannot"),
    "claims": (each(lambda v: torch.zeros(1).expand(10**6, 10**6)), "more values than the file holds"),
    "no network": ([STATE], "no state dict"),
    "code": ({"net": STATE, "x": Evil()}, r"more than tensors \(print\), and none of its code"),
    "module": (NETWORK, r"more than tensors \(.*MLP\)"),
    "memory": ({"net": STATE, "x": bytearray(3)}, r"more than tensors \(bytearray\)"),
}


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, old: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, message = REFUSED[name]
    path = tmp_path / "x.pt"
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    network = build("mlp", (8, 8, 1), 10)
    with pytest.raises(InputError, match=message) as caught:
        fill(network, load_weights(path, network)[0], path, "mlp")
    assert str(path) in str(caught.value)
    assert capsys.readouterr().out == ""


def test_compressed_parts_are_not_unpacked(tmp_path: Path) -> None:
    """A few bytes of zip can be terabytes."""
    import zipfile

    torch.save(STATE, tmp_path / "x.pt")
    with (
        zipfile.ZipFile(tmp_path / "x.pt") as whole,
        zipfile.ZipFile(tmp_path / "y.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    with pytest.raises(InputError, match="compressed"):
        load_weights(tmp_path / "y.pt", NETWORK)
