"""Faults planted in a checkpoint are found by every command that loads one: a line with file and tensor."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import torch as safetensors

from hwq.errors import InputError
from hwq.train import restore
from hwq.train.checkpoint import load
from tests.checkpoints import read, rewrite
from tests.cli.conftest import Hwq, quiet, snapshot

FILE = "checkpoint.safetensors"


@pytest.fixture(scope="session")
def floating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float perceptron on digits after an epoch; copy it first."""
    run = tmp_path_factory.mktemp("runs") / "float"
    quiet("train", "--model", "mlp", "--float", "--epochs", 1, "--set", "train.optimiser=adam", "--out", run)
    return run


def _start(*flags: object) -> Callable[[Path, Path], list[object]]:
    """A training of the same network that loads the run by a flag."""
    rest = ["--model", "mlp", "--data", "digits", "--float", "--epochs", 1]
    return lambda run, new: ["train", *flags[:-1], flags[-1], run, *rest, "--out", new]


COMMANDS: dict[str, Callable[[Path, Path], list[object]]] = {
    "evaluate": lambda run, new: ["evaluate", run],
    "export": lambda run, new: ["export", run, "--out", new],
    "inspect": lambda run, new: ["inspect", run],
    "inspect --scales": lambda run, new: ["inspect", run, "--scales"],
    "explain": lambda run, new: ["explain", run, "--images", 20],
    "sweep": lambda run, new: ["sweep", run, "--fixed", "16,8", "--out", new.with_suffix(".csv")],
    "sweep --bits": lambda run, new: ["sweep", run, "--bits", "6", "--out", new.with_suffix(".csv")],
    "calibrate": lambda run, new: ["calibrate", run, "--out", new],
    "--resume": lambda run, new: ["train", "--resume", "--out", run],
    "--evaluate": lambda run, new: ["train", "--evaluate", "--out", run],
    "--init-from": _start("--init-from"),
    "--pretrained": _start("--pretrained"),
    "--finetune": lambda run, new: ["train", "--finetune", run, "--out", new],
    "--teacher": _start("--teacher"),
}


def _set(name: str, value: float) -> Callable[[dict[str, torch.Tensor]], object]:
    """One number of a tensor, the last."""

    def change(held: dict[str, torch.Tensor]) -> None:
        held[name].view(-1)[-1] = value

    return change


FAULTS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "nan in a weight": (_set("model.fc2.weight", math.nan), "'fc2.weight' holds inf or nan"),
    "inf in a bias": (_set("model.bn1.bias", math.inf), "'bn1.bias' holds inf or nan"),
    "inf in a statistic": (_set("model.bn1.running_mean", -math.inf), "'bn1.running_mean' holds inf"),
    "negative variance": (_set("model.bn2.running_var", -1.0), "'bn2.running_var' holds -1; it cannot be"),
    "negative count": (_set("model.bn1.num_batches_tracked", -3), "'bn1.num_batches_tracked' holds -3"),
    "nan in the optimiser": (
        _set("state.optimiser.fc1.weight.exp_avg", math.nan),
        "'optimiser.fc1.weight.exp_avg' holds inf or nan",
    ),
    "negative second moment": (
        _set("state.optimiser.fc1.weight.exp_avg_sq", -1.0),
        "'optimiser.fc1.weight.exp_avg_sq' holds -1; it cannot be below 0",
    ),
    "unknown tensor": (lambda held: held.update(other=torch.zeros(1)), "unknown tensor 'other'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_values_that_cannot_be(fault: str, floating: Path, tmp_path: Path, hwq: Hwq) -> None:
    """Of a checkpoint whose digests are right."""
    change, says = FAULTS[fault]
    run = tmp_path / "run"
    shutil.copytree(floating, run)
    rewrite(run / FILE, tensors=change)
    every_command_refuses(run, tmp_path, hwq, says)


def every_command_refuses(run: Path, tmp_path: Path, hwq: Hwq, says: str) -> None:
    before = snapshot(tmp_path)
    for name, build in COMMANDS.items():
        done = hwq(*build(run, tmp_path / "new"))
        assert done.code == 2, (name, done.out, done.err)
        (line,) = done.err.strip().splitlines()
        assert line.startswith("error: "), name
        assert says in line, name
        assert FILE in line or str(run) in line, name
    assert snapshot(tmp_path) == before


QUANTISED: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "range of zero": (lambda h: h["model.input_quant.top"].fill_(0), "'input_quant.top' holds 0; a range"),
    "negative range": (lambda h: h["model.input_quant.top"].fill_(-1), "'input_quant.top' holds -1; a range"),
    "nan in a range": (lambda h: h["model.input_quant.top"].fill_(math.nan), "'input_quant.top' holds inf"),
    "batches that were not seen": (
        lambda h: h["model.input_quant.seen"].fill_(-2),
        "seen' holds -2; it cannot",
    ),
}


@pytest.mark.parametrize("fault", QUANTISED)
def test_quantisers(fault: str, trained: Path, tmp_path: Path, hwq: Hwq) -> None:
    change, says = QUANTISED[fault]
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    rewrite(run / FILE, tensors=change)
    every_command_refuses(run, tmp_path, hwq, says)


def test_a_scale_that_vanishes(trained: Path, tmp_path: Path, hwq: Hwq) -> None:
    """A number that can be, of which a learned range becomes 0."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    raw = next(k for k in read(run / FILE)[1] if k.startswith("model.") and k.endswith("_quant.raw"))
    rewrite(run / FILE, tensors=_set(raw, -1000.0))
    for name in ("evaluate", "export", "inspect", "explain", "sweep", "--resume", "--finetune"):
        done = hwq(*COMMANDS[name](run, tmp_path / "new"))
        assert done.code == 2, name
        assert "is 0.0; scales must be positive" in done.err, name


def _relabelled(run: Path) -> None:
    """A tensor of 32-bit floats that says it holds integers; the digests are right."""
    rewrite(
        run / FILE, tensors=lambda h: h.update({"model.fc2.weight": h["model.fc2.weight"].view(torch.int32)})
    )


def test_types_are_those_of_the_network(floating: Path, tmp_path: Path, hwq: Hwq) -> None:
    run = tmp_path / "run"
    shutil.copytree(floating, run)
    _relabelled(run)
    every_command_refuses(run, tmp_path, hwq, "'fc2.weight' holds int32, not float32")


def test_one_flipped_bit_is_found_by_all(floating: Path, tmp_path: Path, hwq: Hwq) -> None:
    """In the exponent of a weight: nothing about the number itself is impossible."""
    run = tmp_path / "run"
    shutil.copytree(floating, run)
    flip(run / FILE, "model.fc2.weight", 8 * 3 + 1)
    every_command_refuses(run, tmp_path, hwq, "damaged: tensor 'model.fc2.weight' is not as it was written")


def flip(path: Path, name: str, bit: int) -> None:
    """A bit of a tensor's bytes."""
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[:8], "little")
    at = 8 + length + json.loads(content[8 : 8 + length])[name]["data_offsets"][0]
    content[at + bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_a_flipped_bit_in_any_tensor(trained: Path, tmp_path: Path) -> None:
    names = [name for name, tensor in read(trained / FILE)[1].items() if tensor.numel()]
    assert {name.partition(".")[0] for name in names} == {"model", "state"}
    for number, name in enumerate(names):
        shutil.copy(trained / FILE, tmp_path)
        flip(tmp_path / FILE, name, number % 32)
        with pytest.raises(InputError, match=rf"damaged: tensor '{name}' is not as it was written"):
            load(tmp_path / FILE)


def test_a_flipped_bit_anywhere(trained: Path, tmp_path: Path) -> None:
    """Half of them in the header, which is small."""
    whole = (trained / FILE).read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    drawn = random.Random(0)
    for number in range(200):
        at = drawn.randrange(header if number % 2 else len(whole))
        content = bytearray(whole)
        content[at] ^= 1 << drawn.randrange(8)
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(InputError, match=FILE):
            load(tmp_path / FILE)


@pytest.mark.parametrize(
    "change",
    [
        lambda held: held.pop("model.fc2.weight"),
        lambda held: held.update({"state.more": torch.zeros(1)}),
        lambda held: held.update({"model.fc3.bias": held["model.fc3.bias"].reshape(2, 5)}),
        lambda held: held.update({"model.fc3.bias": held["model.fc3.bias"].view(torch.int32)}),
        lambda held: held.update({"model.fc3.bias": held["model.fc3.bias"].flip(0)}),
    ],
    ids=["gone", "added", "another shape", "another type", "another order"],
)
def test_digests_are_of_all_that_a_tensor_is(
    change: Callable[[Any], object], trained: Path, tmp_path: Path
) -> None:
    content = (trained / FILE).read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    held = safetensors.load(content)
    change(held)
    (tmp_path / FILE).write_bytes(safetensors.save(held, header["__metadata__"]))
    with pytest.raises(InputError, match=r"damaged: tensor .*SHA-256"):
        load(tmp_path / FILE)


def test_an_earlier_versions_file_loads_with_a_note(trained: Path, tmp_path: Path, hwq: Hwq) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    wanted = hwq("evaluate", run)
    rewrite(run / FILE, version=1)
    done = hwq("evaluate", run)
    assert (done.code, done.out) == (0, wanted.out)
    (line,) = done.err.strip().splitlines()
    assert line.startswith(f"note: {run / FILE}: of an earlier version of hwq, without digests")
    rewrite(run / FILE, tensors=_set("model.fc2.weight", math.nan), version=1)
    done = hwq("evaluate", run)
    assert done.code == 2
    assert "'fc2.weight' holds inf or nan" in done.err


@pytest.mark.parametrize("shape", [(4000, 4000, 1), (100_000, 100_000, 3)])
def test_a_description_cannot_ask_for_memory(
    shape: tuple[int, int, int], trained: Path, tmp_path: Path
) -> None:
    """A perceptron of four thousand by four thousand pixels has 8 GB of weights, the file a few thousand."""

    shutil.copy(trained / FILE, tmp_path)
    seen = {"image_shape": list(shape), "mean": [0.5] * shape[2], "std": [0.5] * shape[2]}
    rewrite(tmp_path / FILE, header=lambda about: about.update(seen))
    with pytest.raises(InputError, match=r"'fc1.weight' has shape|at most 16,777,216 values"):
        restore(tmp_path)
