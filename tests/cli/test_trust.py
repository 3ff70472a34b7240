"""Code that a checkpoint names runs only where it is the file that trained it, or where the user says so."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import py_compile
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hwq.train import Interrupted, load, restore, resume_recipe, train
from hwq.train.checkpoint import LAST
from hwq.train.trust import Trust
from tests.checkpoints import rewrite
from tests.cli.conftest import Done, Hwq, quiet
from tests.train.runs import recipe, run, sample

NET = '''"""A network, and a note in a file that it was run."""
from pathlib import Path
from torch import nn

Path(__file__).with_name("ran").touch()

def make(classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, classes))
'''


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantised and a float run of a network in a file, net.py."""
    folder = tmp_path_factory.mktemp("code")
    (folder / "net.py").write_text(NET)
    for name, flags in (("run", []), ("float", ["--float"])):
        model = f"{folder / 'net.py'}:make"
        quiet("train", "--model", model, "--data", "digits", "--epochs", 1, *flags, "--out", folder / name)
    (folder / "ran").unlink()
    return folder


@pytest.fixture
def place(runs: Path, tmp_path: Path) -> Path:
    """The runs, their file in its own folder, and the file that they name put back after a test."""
    for name in ("run", "float"):
        shutil.copytree(runs / name, tmp_path / name)
    (runs / "net.py").write_text(NET)
    (runs / "ran").unlink(missing_ok=True)
    return tmp_path


Build = Callable[[Path, Path], list[object]]
_FEW = ["--images", 20]
COMMANDS: dict[str, Build] = {
    "evaluate": lambda p, out: ["evaluate", p / "run", *_FEW],
    "export": lambda p, out: ["export", p / "run", "--out", out],
    "inspect": lambda p, out: ["inspect", p / "run"],
    "inspect --scales": lambda p, out: ["inspect", p / "run", "--scales"],
    "explain": lambda p, out: ["explain", p / "run", "--fixed", "32,12", "--images", 4],
    "sweep": lambda p, out: _sweep(p, out),
    "sweep --bits": lambda p, out: [*_sweep(p, out), "--bits", 6],
    "calibrate": lambda p, out: ["calibrate", p / "float", *_FEW, "--test-images", 20, "--out", out],
    "--resume": lambda p, out: ["train", "--resume", "--out", p / "run"],
    "--evaluate": lambda p, out: ["train", "--evaluate", "--out", p / "run"],
    "--finetune": lambda p, out: ["train", "--finetune", p / "run", "--epochs", 0, "--out", out],
    "--teacher": lambda p, out: [*_MLP, "--teacher", p / "float", "--out", out],
}
_MLP = ["train", "--model", "mlp", "--epochs", 0]


def _sweep(p: Path, out: Path) -> list[object]:
    out.mkdir()
    rest = ["--fixed", "16,8", "--engine", "torch", *_FEW, "--no-picture", "--out", out / "s.csv"]
    return ["sweep", p / "run", *rest]


NAMES_NONE = ("--evaluate", "--teacher")
"""Their --model is another network's, or they take none."""


@pytest.mark.parametrize("name", COMMANDS)
def test_the_file_that_trained_runs_unasked_and_no_other(
    name: str, runs: Path, place: Path, hwq: Hwq
) -> None:
    ran, code = runs / "ran", runs / "net.py"
    code.write_text(NET + "\n# edited\n")
    refused(hwq(*COMMANDS[name](place, place / "a")), code, "is not the file that trained it", "--trust")
    assert not ran.exists()
    named = [] if name in NAMES_NONE else ["--model", f"{code}:make"]
    for out, flags in (("b", ["--trust"]), ("c", named or ["--trust"])):
        done = hwq(*COMMANDS[name](place, place / out), *flags)
        assert done.code == 0, done.err
        assert ran.exists()
        ran.unlink()
    code.write_text(NET)
    done = hwq(*COMMANDS[name](place, place / "d"))
    assert done.code == 0, done.err
    assert ran.exists()


def refused(done: Done, *says: object) -> None:
    assert done.code == 2, done.out
    (line,) = done.err.strip().splitlines()
    assert line.startswith("error: ")
    for words in says:
        assert str(words) in line


def test_simulate_compares_with_no_network_whose_file_is_another(runs: Path, place: Path, hwq: Hwq) -> None:
    """But it simulates the project, which is whole without the network."""
    assert hwq("export", place / "run").code == 0
    (runs / "net.py").write_text(NET + "\n# edited\n")
    (runs / "ran").unlink()
    arguments = ["simulate", place / "run", "--build", "native", "--images", 4]
    done = hwq(*arguments)
    assert done.code == 0, done.err
    assert "is not the file that trained it" in " ".join((done.out + done.err).split())
    assert not (runs / "ran").exists()
    done = hwq(*arguments, "--trust")
    assert done.code == 0, done.err
    assert (runs / "ran").exists()


def test_a_moved_file_is_named(runs: Path, place: Path, hwq: Hwq) -> None:
    (runs / "net.py").rename(place / "net.py")
    refused(hwq("evaluate", place / "run"), runs / "net.py", "no such file is there", "--model FILE.py:make")
    moved = f"{place / 'net.py'}:make"
    assert hwq("evaluate", place / "run", "--model", moved).code == 0
    assert (place / "ran").exists()
    assert hwq("train", "--resume", "--out", place / "run", "--model", moved).code == 0


def test_a_run_that_goes_on_records_the_file_that_it_goes_on_with(place: Path) -> None:
    (place / "old.py").write_text(NET)
    begun, out = recipe(model=f"{place / 'old.py'}:make"), place / "new"
    with pytest.raises(Interrupted):
        run(begun, out, at=3)
    (place / "old.py").unlink()
    (place / "net.py").write_text(NET + "\n")
    trust = Trust(model=f"{place / 'net.py'}:make")
    train(resume_recipe(out, trust), out, resume=True, test_images=sample(), trust=trust)
    restore(out)
    assert list(load(out).meta.code) == [str(place / "net.py")]


@pytest.mark.parametrize("how", ["no digest", "an earlier version", "through a link", "/proc/self/cwd"])
def test_what_is_not_recorded_is_not_run(
    how: str, runs: Path, place: Path, hwq: Hwq, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A description with right digests that names a file in some other way."""
    monkeypatch.chdir(runs)
    path = {"through a link": str(place / "link" / "net.py"), "/proc/self/cwd": "/proc/self/cwd/net.py"}
    (place / "link").symlink_to(runs)
    digest = next(iter(load(place / "run").meta.code.values()))

    def change(about: dict[str, object]) -> None:
        name = path.get(how, str(runs / "net.py"))
        about.update(model=f"{name}:make", code={name: digest} if how in path else {})

    rewrite(place / "run" / LAST, header=change, version=1 if how == "an earlier version" else 2)
    done = hwq("evaluate", place / "run")
    line = done.err.strip().splitlines()[-1]
    assert done.code == 2
    assert "its network is code" in line
    assert ("any file could lie there" if how in path else "is not recorded") in line
    assert not (runs / "ran").exists()
    assert hwq("evaluate", place / "run", "--trust").code == 0


def test_a_recipe_that_the_user_names_runs_its_file(runs: Path, place: Path, hwq: Hwq) -> None:
    """And its path counts from the recipe."""
    (place / "net.py").write_text(NET)
    (place / "r.toml").write_text('model = "net.py:make"\n[data]\nname = "digits"\n[train]\nepochs = 0\n')
    assert hwq("train", place / "r.toml", "--out", place / "new").code == 0
    meta = load(place / "new").meta
    assert meta.model == f"{place / 'net.py'}:make"
    assert list(meta.code) == [str(place / "net.py")]


def test_a_teachers_network_in_a_recipe_is_recorded_and_checked(runs: Path, place: Path, hwq: Hwq) -> None:
    weights = {k: v for k, v in load(place / "float").model.items() if "quant" not in k}
    torch.save(weights, place / "t.pt")
    (place / "teach.py").write_text(NET)
    text = 'model = "mlp"\n[data]\nname = "digits"\n[train]\nepochs = 0\ndistill = 0.5\nteacher = "t.pt"\n'
    (place / "r.toml").write_text(text + 'teacher_model = "teach.py:make"\n')
    done = hwq("train", place / "r.toml", "--out", place / "new")
    assert done.code == 0, done.err
    assert list(load(place / "new").meta.code) == [str(place / "teach.py")]
    (place / "teach.py").write_text(NET + "\n")
    refused(hwq("train", "--resume", "--out", place / "new"), place / "teach.py", "SHA-256 differs")
    refused(hwq("train", "--finetune", place / "new", "--out", place / "f"), "SHA-256 differs")


def test_compiled_code_beside_the_file_is_not_run(place: Path, hwq: Hwq) -> None:
    """Python's own loader would take it where size and time are those of the text."""
    (place / "net.py").write_text(NET.replace('"ran"', '"bad"'))
    py_compile.compile(str(place / "net.py"), importlib.util.cache_from_source(str(place / "net.py")))
    stamp = (place / "net.py").stat()
    (place / "net.py").write_text(NET)
    os.utime(place / "net.py", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    arguments = ["train", "--model", f"{place / 'net.py'}:make", "--epochs", 0, "--out", place / "new"]
    assert hwq(*arguments).code == 0
    assert (place / "ran").exists()
    assert not (place / "bad").exists()


def test_the_digest_is_of_the_file(runs: Path, place: Path) -> None:
    recorded = load(place / "run").meta.code
    assert recorded == {str(runs / "net.py"): hashlib.sha256(NET.encode()).hexdigest()}
