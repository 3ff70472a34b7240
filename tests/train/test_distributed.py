"""Two processes train as one does: the same batches, one writer, one network, one line when it ends."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hwq.errors import InputError
from hwq.train import Interrupted, Silent, World, joined, load, train
from hwq.train.start import start
from tests.train.pair import FIXED, OWN_NORMS, RUN, UNEVEN
from tests.train.runs import Watch, assert_same, metrics, recipe, run, sample

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("size", "count"), [(1, 5), (2, 8), (2, 255), (3, 256), (4, 4)])
def test_shares_make_the_batch(size: int, count: int) -> None:
    parts = [range(count)[World(rank=r, size=size).share(count)] for r in range(size)]
    assert [i for part in parts for i in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder of `tests.train.pair`, and what each of two processes found."""
    out = tmp_path_factory.mktemp("pair")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {**os.environ, "PYTHONPATH": str(ROOT), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "tests.train.pair", str(out)]
    running = [
        subprocess.Popen(
            command, cwd=ROOT, env={**shared, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=500)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    return out, [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)]


def test_together_they_see_the_batches_of_one(pair: tuple[Path, list[dict[str, Any]]]) -> None:
    assert [found["batches"] for found in pair[1]] == [True, True]


def test_batch_norms_see_the_whole_batch(pair: tuple[Path, list[dict[str, Any]]]) -> None:
    # float64, sums in another order
    assert max(found["norms"] for found in pair[1]) < 1e-13


def test_every_process_holds_the_same_network_and_one_writes(pair: tuple[Path, list[dict[str, Any]]]) -> None:
    first, second = pair[1]
    assert len(first["weights"]) == 2 + 2 + 1 + 2
    assert first["weights"] == second["weights"]
    assert first["whole"]["losses"] == second["whole"]["losses"]
    assert second["written"] == []
    assert first["written"].count("checkpoint.safetensors") == 3 + 4 + 2 + 2 + 3


def test_losses_are_those_of_one_process(pair: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    _, losses = run(recipe(**RUN), tmp_path / "one")
    # a float network, ten steps of Adam: float32 sums in another order, which Adam's division enlarges
    assert pair[1][0]["whole"]["losses"] == pytest.approx(losses, rel=1e-4)
    mine, theirs = metrics(tmp_path / "one"), metrics(pair[0] / "whole")
    assert [row["lr"] for row in mine] == [row["lr"] for row in theirs]
    watch = Watch(at=4)
    with pytest.raises(Interrupted):
        train(recipe(**UNEVEN), tmp_path / "uneven", reporter=watch, test_images=sample())
    # shares of 7 and 8 images; four steps of SGD keep float32's last bits small
    assert pair[1][0]["uneven"]["losses"] == pytest.approx(watch.losses, rel=1e-5)
    _, losses = run(recipe(**OWN_NORMS), tmp_path / "own")
    own = pair[1][0]["own"]["losses"]
    # with batch norms of their own the first loss already differs, by the noise of half a batch
    assert own[0] != pytest.approx(losses[0], rel=1e-4)
    assert own == pytest.approx(losses, rel=0.1)


def test_constants_in_fixed_point_are_trained_together(
    pair: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    out, (first, second) = pair
    result, losses = run(recipe(**FIXED), tmp_path / "one")
    stored, own = load(out / "fixed"), load(tmp_path / "one")
    assert stored.meta.policy == own.meta.policy != recipe(**FIXED).policy  # scales were chosen
    assert stored.meta.accuracy.keys() == result.stages.keys() == {"fake_quant", "fixed"}
    assert first["fixed"]["losses"] == second["fixed"]["losses"]
    # float32 sums in another order, which choose the same scales
    assert first["fixed"]["losses"] == pytest.approx(losses, rel=1e-5)


def test_an_interrupt_of_one_stops_all_and_they_go_on_exactly(
    pair: tuple[Path, list[dict[str, Any]]],
) -> None:
    out, (first, second) = pair
    for found in (first, second):
        assert "torchrun --nproc-per-node 2 -m hwq train --resume" in found["parts"]["said"]
        assert found["parts"]["losses"] + found["rest"]["losses"] == found["whole"]["losses"]
        assert len(found["parts"]["losses"]) == 4
    assert_same(out / "parts", out / "whole")


def test_torchrun_ends_with_one_line_when_one_process_fails(tmp_path: Path) -> None:
    """The last image, which one of the two decodes in the first epoch, is damaged."""
    drawn = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 1)):
        for label in "ab":
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(drawn.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    bad = tmp_path / "data" / "train" / "b" / "3.png"
    bad.write_bytes(bad.read_bytes()[:150])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [
        "-m",
        "hwq",
        "train",
        "--model",
        "mlp",
        "--data",
        f"folder:{tmp_path / 'data'}",
        "--size",
        "8",
    ]
    command += ["--augment", "resized-crop", "--workers", "0", "--batch", "8", "--epochs", "50"]
    command += ["-w", "8", "--out", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, done.stderr
    assert "3.png" in lines[0]
    assert "Connection" not in done.stderr


def test_one_process_of_torchrun_evaluates(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    train = ["-m", "hwq", "train", "--out", str(tmp_path / "run")]
    together = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    begun = recipe(epochs=0)
    run(begun, tmp_path / "run")
    done = subprocess.run(
        [sys.executable, *together, *train, "--evaluate"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test images") == 1


def test_alone_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")  # a batch system's, without torchrun's other variables
    with joined("cpu") as world:
        assert world == World()
        assert world.gather("x") == ["x"]
        assert world.main_first(lambda: 3) == 3


def test_a_batch_smaller_than_the_processes() -> None:
    with pytest.raises(InputError, match="a batch of 3 images is too small for 4 processes"):
        start(recipe(batch=3), torch.device("cpu"), _Quiet(), Silent(), fresh=True)


class _Quiet(World):
    """Four processes of which three are imagined."""

    def __init__(self) -> None:
        super().__init__(rank=0, size=4)

    def wait(self) -> None:
        """Nobody comes."""
