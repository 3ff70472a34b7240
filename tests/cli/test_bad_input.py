"""Every mistake a user can make ends in one clear line, a non-zero exit and an untouched disk."""

from __future__ import annotations

import io
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.checkpoints import rewrite
from tests.cli.conftest import Done, Hwq, snapshot

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Place:
    """Where a case happens: `tmp` is its own, the runs are copies."""

    tmp: Path
    run: Path

    def images(self, name: str, size: tuple[int, int] = (8, 8), count: int = 3) -> Path:
        """An image folder with classes 0..9, greyscale."""
        rng = np.random.default_rng(0)
        for split in ("train", "test"):
            for digit in range(10):
                folder = self.tmp / name / split / str(digit)
                folder.mkdir(parents=True)
                for i in range(count):
                    pixels = rng.integers(0, 256, (size[1], size[0]), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / f"{i}.png")
        return self.tmp / name


Arguments = list[object]


@dataclass(frozen=True)
class Case:
    """A command line made by `build`, its exit code, and what its one line says."""

    name: str
    build: Callable[[Place], Arguments]
    code: int
    says: tuple[str, ...]


def _truncated(p: Place) -> Arguments:
    path = p.run / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    return ["evaluate", p.run]


def _other_model(p: Place) -> Arguments:
    return ["train", "--model", "digits", "--init-from", p.run, "--epochs", 1, "--out", p.tmp / "new"]


def _plain_pickle(p: Place) -> Arguments:
    torch.save({"state_dict": {"x": object()}}, p.tmp / "evil.pt")
    return ["train", "--model", "mlp", "--init-from", p.tmp / "evil.pt", "--out", p.tmp / "new"]


def _torch_file(kind: str) -> Callable[[Place], Arguments]:
    """A training that begins from a file which is no state dict of torch.save."""

    def build(p: Place) -> Arguments:
        whole, old = io.BytesIO(), io.BytesIO()
        torch.save(nn.Linear(2, 2).state_dict(), whole)
        torch.save(nn.Linear(2, 2).state_dict(), old, _use_new_zipfile_serialization=False)
        module = io.BytesIO()
        torch.save(nn.Linear(2, 2), module)
        content = {
            "module": module.getvalue(),
            "truncated": whole.getvalue()[:-100],
            "old, cut": old.getvalue()[:30],
            "pickle": pickle.dumps({"x": [1]}),
            "text": b"hello\n",
            "empty": b"",
        }
        (p.tmp / "x.pt").write_bytes(content[kind])
        return ["train", "--model", "mlp", "--init-from", p.tmp / "x.pt", "--out", p.tmp / "new"]

    return build


def _tensor(name: str, value: float) -> Callable[[Place], Arguments]:
    """A finished run's evaluation, with one tensor all of one value."""

    def build(p: Place) -> Arguments:
        path = p.run / "checkpoint.safetensors"
        rewrite(path, tensors=lambda held: held[f"model.{name}"].fill_(value))
        return ["evaluate", p.run]

    return build


def _no_images(p: Place) -> Arguments:
    root = p.images("data")
    for path in (root / "train" / "3").iterdir():
        path.unlink()
    return ["train", "--data", f"folder:{root}", "--model", "mlp", "--out", p.tmp / "new"]


def _no_classes(p: Place) -> Arguments:
    (p.tmp / "data" / "train").mkdir(parents=True)
    return ["train", "--data", f"folder:{p.tmp / 'data'}", "--model", "mlp", "--out", p.tmp / "new"]


def _unreadable_image(p: Place) -> Arguments:
    root = p.images("data")
    (root / "train" / "4" / "1.png").write_bytes(b"not an image")
    return ["train", "--data", f"folder:{root}", "--model", "mlp", "--out", p.tmp / "new"]


def _unreadable_photo(p: Place) -> Arguments:
    root = p.images("data")
    (root / "train" / "4" / "1.png").write_bytes(b"not an image")
    return ["train", "--data", f"folder:{root}", "--size", 32, "--model", "resnet8", "--out", p.tmp / "new"]


def _grey(p: Place) -> Arguments:
    return ["train", "--data", f"folder:{p.images('data')}", "--model", "resnet18", "--out", p.tmp / "new"]


def _mixed_sizes(p: Place) -> Arguments:
    root = p.images("data")
    Image.new("L", (9, 8)).save(root / "train" / "4" / "1.png")
    return ["train", "--data", f"folder:{root}", "--model", "mlp", "--out", p.tmp / "new"]


def _network(p: Place, forward: str) -> Path:
    path = p.tmp / "net.py"
    path.write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.flatten = nn.Flatten()\n"
        "        self.fc = nn.Linear(64, 10)\n"
        "    def forward(self, x):\n"
        f"        return {forward}\n"
        "def make():\n"
        "    return Net()\n"
    )
    return path


def _unsupported(p: Place) -> Arguments:
    path = _network(p, "torch.tanh(self.fc(self.flatten(x)))")
    return ["train", "--model", f"{path}:make", "--epochs", 1, "--out", p.tmp / "new"]


def _data_dependent(p: Place) -> Arguments:
    path = _network(p, "self.fc(self.flatten(x)) if x.sum() > 0 else x")
    return ["train", "--model", f"{path}:make", "--epochs", 1, "--out", p.tmp / "new"]


def _forward(code: str) -> Callable[[Place], Arguments]:
    return lambda p: ["train", "--model", f"{_network(p, code)}:make", "--epochs", 1, "--out", p.tmp / "new"]


def _factory(code: str) -> Callable[[Place], Arguments]:
    def build(p: Place) -> Arguments:
        (p.tmp / "net.py").write_text(f"def make():\n    {code}\n")
        return ["train", "--model", f"{p.tmp / 'net.py'}:make", "--out", p.tmp / "new"]

    return build


def _broken_python(p: Place) -> Arguments:
    path = _network(p, "self.fc(")
    return ["train", "--model", f"{path}:make", "--epochs", 1, "--out", p.tmp / "new"]


def _file_as_folder(p: Place) -> Arguments:
    (p.tmp / "file").write_text("mine")
    return ["train", "--model", "mlp", "--epochs", 1, "--out", p.tmp / "file"]


def _foreign_folder(p: Place) -> Arguments:
    (p.tmp / "mine").mkdir()
    (p.tmp / "mine" / "thesis.tex").write_text("years of work")
    return ["train", "--model", "mlp", "--epochs", 1, "--out", p.tmp / "mine"]


def _recipe(text: str) -> Callable[[Place], Arguments]:
    def build(p: Place) -> Arguments:
        (p.tmp / "recipe.toml").write_text(text)
        return ["train", p.tmp / "recipe.toml", "--out", p.tmp / "new"]

    return build


def _train(*flags: object) -> Callable[[Place], Arguments]:
    return lambda p: ["train", "--epochs", 1, *flags, "--out", p.tmp / "new"]


TRAIN = [
    Case(
        "no data folder", _train("--data", "folder:/nowhere/at/all"), 2, ("/nowhere/at/all", "no such folder")
    ),
    Case("digits with a path", _train("--data", "digits:/foo"), 2, ("digits", "neither a path")),
    Case("digits downloaded", _recipe('[data]\nname = "digits"\ndownload = true\n'), 2, ("nor download",)),
    Case("unknown data set", _train("--data", "imagenett"), 2, ("imagenett", "known")),
    Case("imagenet without path", _train("--data", "imagenet"), 2, ("imagenet:/path",)),
    Case("unreadable image of those to scale", _unreadable_photo, 2, ("1.png", "cannot read", "--skip-bad")),
    Case("grey images to a network for colours", _grey, 2, ("resnet18", "3 channels", "channels = 3")),
    Case("network not of torchvision", _train("--model", "torchvision:resnet19"), 2, ("resnet19",)),
    Case("two starts", _train("--init-from", "a.pt", "--pretrained", "b.pt"), 2, ("not both",)),
    Case("size for digits", _train("--size", 32), 2, ("folders of images",)),
    Case("cifar not there", _train("--data", "cifar10:/nowhere"), 2, ("cifar10", "--download")),
    Case("folder without path", _train("--data", "folder"), 2, ("folder:/path",)),
    Case("no classes", _no_classes, 2, ("class folders",)),
    Case("class without images", _no_images, 2, ("has no images",)),
    Case("unreadable image", _unreadable_image, 2, ("1.png", "cannot read")),
    Case("images of two sizes", _mixed_sizes, 2, ("1.png", "one size")),
    Case("truncated checkpoint", _truncated, 2, ("checkpoint.safetensors", "truncated")),
    Case("checkpoint of another model", _other_model, 2, ("another model",)),
    Case("pickled code", _plain_pickle, 2, ("evil.pt", "none of its code is run", "model.state_dict()")),
    Case("whole module", _torch_file("module"), 2, ("x.pt", "holds more than tensors", "model.state_dict()")),
    Case("truncated state dict", _torch_file("truncated"), 2, ("x.pt: truncated, or not a file of torch",)),
    Case("old state dict, cut", _torch_file("old, cut"), 2, ("x.pt: truncated, or not a file of torch",)),
    Case("plain pickle", _torch_file("pickle"), 2, ("x.pt: is a plain pickle", "none of its code is run")),
    Case("no torch file", _torch_file("text"), 2, ("x.pt: truncated, or not a file of torch.save",)),
    Case("empty torch file", _torch_file("empty"), 2, ("x.pt: truncated, or not a file of torch.save",)),
    Case("weight not a number", _tensor("fc2.weight", math.nan), 2, ("'fc2.weight' holds inf or nan",)),
    Case("scale of zero", _tensor("input_quant.top", 0.0), 2, ("'input_quant.top' holds 0; a range",)),
    Case("no checkpoint", lambda p: ["evaluate", p.tmp], 2, ("checkpoint.safetensors",)),
    Case("no run", lambda p: ["evaluate", p.tmp / "missing"], 2, ("no such file or folder",)),
    Case("unknown model", _train("--model", "resnet999"), 2, ("resnet999", "known")),
    Case("missing module", _train("--model", "/nowhere/net.py:make"), 2, ("net.py", "no such file")),
    Case("unsupported op", _unsupported, 3, ("tanh", "net.py:9")),
    Case("data-dependent forward", _data_dependent, 3, ("'Net' (net.py:9)", "depends on tensor values")),
    Case("scaled logits", _forward("self.fc(self.flatten(x)) * 2"), 3, ("net.py:9", "mul is not supported")),
    Case("layer of another size", _forward("self.fc(x)"), 3, ("8 x 8 x 1", "'fc' (net.py:9)")),
    Case("fewer logits than classes", _forward("self.fc(self.flatten(x))[:, :9]"), 2, ("9", "10 classes")),
    Case("factory that exits", _factory("raise SystemExit(3)"), 2, ("net.py", "SystemExit")),
    Case("factory without a module", _factory("return 3"), 2, ("returned int",)),
    Case("std not a number", _train("--mean", ".5", "--std", "nan"), 2, ("finite",)),
    Case("learning rate not a number", _train("--lr", "inf"), 2, ("lr must be 0 to 1e+06, not inf",)),
    Case("module with a syntax error", _broken_python, 2, ("net.py", "SyntaxError")),
    Case("weight bits out of range", _train("-w", 17), 2, ("weight_bits", "1..16")),
    Case("unknown method", _train("--acts", "relu9"), 2, ("relu9", "known")),
    Case("device that is not there", _train("--device", "tpu9"), 2, ("tpu9",)),
    Case("recipe is not TOML", _recipe("model = ["), 2, ("recipe.toml", "TOML")),
    Case(
        "unknown recipe key", _recipe('[data]\nname = "digits"\n[train]\nepoch = 3\n'), 2, ("epoch", "known")
    ),
    Case(
        "recipe value of a wrong type",
        _recipe('[data]\nname = "digits"\n[train]\nepochs = "3"\n'),
        2,
        ("epochs",),
    ),
    Case("missing recipe", lambda p: ["train", p.tmp / "no.toml", "--out", p.tmp / "n"], 2, ("no.toml",)),
    Case("output is a file", _file_as_folder, 2, ("is a file",)),
    Case("output holds something else", _foreign_folder, 2, ("mine", "not empty")),
    Case(
        "output cannot be made",
        lambda p: ["train", "--epochs", 1, "--out", "/proc/hwq/run"],
        4,
        ("/proc/hwq",),
    ),
]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"image_shape": [12, 18]}, "image_shape has 2 entries"),
        ({"image_shape": "abc"}, "image_shape[0] is 'a'"),
        ({"image_shape": [8, 8, 0]}, "image_shape is [8, 8, 0]"),
        ({"image_shape": None}, "damaged"),
        ({"classes": [1, 2]}, "classes[0] is 1"),
        ({"classes": []}, "no classes"),
        ({"mean": ["x"]}, "mean[0] is 'x'"),
        ({"mean": [0.5, 0.5]}, "for 1 channels"),
        ({"std": [math.nan]}, "holds the number nan"),
        ({"std": [0]}, "std must be finite numbers from 1e-06"),
        ({"model": 5}, "model is 5"),
        ({"recipe": 3}, "recipe is 3"),
        ({"recipe": {"model": 5}}, "recipe.model is 5"),
        ({"recipe": {"fixed": {"round": "rnd"}}}, "recipe.fixed is {'round': 'rnd'}"),
        ({"epoch": "x"}, "epoch is 'x'"),
        ({"epoch": True}, "epoch is True"),
        ({"step": -1}, "step -1"),
        ({"accuracy": {"float": "high"}}, "accuracy.float is 'high'"),
        ({"accuracy": {"float": 1e6}}, "accuracy.float is 1000000.0"),
        ({"image_shape": [100_000, 100_000, 1]}, "at most 16,777,216 values"),
        ({"progress": {"best": math.nan}}, "holds the number nan"),
        ({"progress": {"best": "x"}}, "progress.best is 'x'"),
        ({"progress": {"seen": "x"}}, "progress.seen is 'x'"),
        ({"code": {"net.py": 3}}, "code.net.py is 3"),
        ({"data": {"name": "folder", "root": 5}}, "data.root is 5"),
        ({"data": {"name": "imagenett"}}, "imagenett"),
        ({"data": 5}, "damaged"),
        ({"policy": {"weight_bits": "x"}}, "weight_bits"),
        ({"policy": {"branch": 1}}, "policy.branch is 1"),
        ({"policy": {"layers": {"a": 3}}}, "damaged"),
    ],
    ids=str,
)
def test_a_damaged_description_is_one_line(
    changed: dict[str, object], says: str, place: Place, hwq: Hwq
) -> None:
    """Also where it is read for --resume, which goes another way."""
    rewrite(place.run / "checkpoint.safetensors", header=lambda about: about.update(changed))
    for arguments in (["evaluate", place.run], ["train", "--resume", "--out", place.run]):
        check(hwq(*arguments), Case("header", _truncated, 2, ("checkpoint.safetensors", says)))


def test_a_run_on_digits_that_recorded_an_unused_path_is_still_read(place: Place, hwq: Hwq) -> None:
    path = place.run / "checkpoint.safetensors"
    rewrite(path, header=lambda about: about["data"].update(root="/foo", download=True))
    assert hwq("evaluate", place.run).code == 0


def check(done: Done, case: Case) -> None:
    """One line on stderr (below click's usage lines, for a bad option), the exit code, no traceback."""
    assert "Traceback" not in done.err + done.out
    assert done.code == case.code, done.err
    lines = done.err.strip().splitlines()
    if lines[0].startswith("Usage: "):
        line = " ".join(lines).partition("Error: ")[2]
    else:
        assert len(lines) == 1, done.err
        line = lines[0]
        assert line.startswith("error: ")
    for words in case.says:
        assert words in line, line


def _into(*words: object) -> Callable[[Place], Arguments]:
    """A finished run's command that is to write into a folder that is not there."""
    return lambda p: [words[0], p.run, *words[1:], p.tmp / "nodir" / f"x.{str(words[-1])[2:]}"]


NO_FOLDER = [
    _into("explain", "--fixed", "16,8", "--json"),
    _into("simulate", "--json"),
    _into("simulate", "--trace"),
    _into("inspect", "--scales", "--csv"),
    _into("sweep", "--out"),
]


@pytest.mark.parametrize("build", NO_FOLDER)
def test_a_file_in_no_folder_is_refused_before_any_work(
    build: Callable[[Place], Arguments], place: Place, hwq: Hwq
) -> None:
    """The run is damaged: a command that had begun would say that instead."""
    for path in place.run.iterdir():
        path.unlink()
    check(hwq(*build(place)), Case("no folder", build, 2, ("no folder", "nodir", "--")))
    assert not (place.tmp / "nodir").exists()


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> Place:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    return Place(tmp=tmp_path, run=run)


@pytest.mark.parametrize("case", TRAIN, ids=lambda case: case.name)
def test_training_and_data(case: Case, place: Place, hwq: Hwq) -> None:
    arguments = case.build(place)
    before = snapshot(place.tmp)
    check(hwq(*arguments), case)
    assert snapshot(place.tmp) == before


def test_ctrl_c_during_training_keeps_a_run_that_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "hwq", "train", "--model", "mlp", "--epochs", "500", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        _wait_for(out / "metrics.jsonl", running)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130
    assert "Traceback" not in err
    (line,) = err.strip().splitlines()
    assert line.startswith("error: interrupted in epoch")
    assert "--resume" in line
    kept = sorted(path.name for path in out.iterdir())
    assert kept == ["best.safetensors", "checkpoint.safetensors", "metrics.jsonl", "recipe.toml"]
    checked = [sys.executable, "-m", "hwq", "evaluate", str(out)]
    assert subprocess.run(checked, env=environment, capture_output=True, check=False).returncode == 0


def _wait_for(path: Path, running: subprocess.Popen[str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_full_disk_during_training_is_one_line(
    place: Place, hwq: Hwq, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    case = Case("full disk", _train(), 4, ("No space left on device",))
    check(hwq("train", "--model", "mlp", "--epochs", 1, "--out", place.tmp / "new"), case)
    assert not (place.tmp / "new").exists()


def test_a_batch_of_one_image_is_one_line(tmp_path: Path, hwq: Hwq) -> None:
    done = hwq("train", "--model", "mlp", "--batch", 1, "--epochs", 1, "--out", tmp_path / "new")
    check(done, Case("batch 1", _train(), 2, ("a batch of 1 image is too small",)))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """mount(options) -> a file system of its own; skipped where this user may not mount one."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip(f"cannot mount a tmpfs: {done.stderr.decode().strip()}")
        return place

    yield mount
    subprocess.run(["umount", str(place)], capture_output=True, check=False)


@pytest.mark.skipif(shutil.which("mount") is None, reason="no mount program")
@pytest.mark.parametrize("options", ["size=64k", "ro"])
def test_a_real_full_or_read_only_disk(
    options: str, exported: Path, disk: Callable[[str], Path], hwq: Hwq
) -> None:
    place = disk(options)
    says = "Read-only file system" if options == "ro" else "No space left on device"
    for arguments in (
        ["train", "--model", "mlp", "--epochs", 1, "--out", place / "new"],
        ["export", exported, "--out", place / "hls"],
        ["sweep", exported, "--images", 2, "--fixed", "8,auto", "--out", place / "new.csv"],
        ["simulate", exported, "--build", "native", "--images", 2, "--trace", place / "trace.npz"],
    ):
        if options != "ro" and arguments[0] in ("sweep", "simulate"):
            continue  # what they write fits
        check(hwq(*arguments), Case(arguments[0], _train(), 4, (says, str(place))))
    assert [path for path in place.rglob("*") if path.is_file() and path.suffix != ".toml"] == []


def test_a_compiler_on_a_full_disk_is_not_blamed_on_the_source(
    exported: Path, tmp_path: Path, hwq: Hwq, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What g++ says where the linker finds no room."""
    compiler = tmp_path / "g++"
    compiler.write_text(
        "#!/bin/sh\n[ \"$1\" = --version ] && echo 'g++ 12' && exit 0\n"
        "echo '/usr/bin/ld: final link failed: No space left on device'\n"
        "echo 'collect2: error: ld returned 1 exit status'\nexit 1\n"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    done = hwq("simulate", exported, "--build", "native", "--images", 2)
    check(
        done, Case("full", _train(), 4, ("ld: final link failed: No space left on device", "XDG_CACHE_HOME"))
    )
    assert "does not compile" not in done.err
