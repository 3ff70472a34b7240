"""Float weights of other programs as a start, with as many classes or others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hwq.data import DataSpec
from hwq.errors import InputError
from hwq.models import build
from hwq.train import Recipe, Schedule, Silent, load, train
from hwq.train.pretrained import fit_classes

SHAPE = (8, 8, 1)


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def _run(source: Path, out: Path, key: str = "pretrained") -> Notes:
    notes, schedule = Notes(), Schedule(epochs=0, calibrate=64)
    recipe = Recipe(model="digits", data=DataSpec(name="digits"), train=schedule, **{key: str(source)})
    train(recipe, out, reporter=notes)
    return notes


def _store(path: Path, classes: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(classes)
    weights = build("digits", SHAPE, classes).state_dict()
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path)
    return weights


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("classes", [10, 100])
def test_all_but_another_last_layer(tmp_path: Path, suffix: str, classes: int) -> None:
    source = tmp_path / f"net{suffix}"
    weights = _store(source, classes)
    notes = _run(source, tmp_path / "run").notes
    stored = load(tmp_path / "run").model
    parameters = [k for k in weights if k.endswith(("weight", "bias"))]
    for key in parameters:
        same = stored[key].shape == weights[key].shape and torch.equal(stored[key], weights[key])
        assert same == (classes == 10 or not key.startswith("linear.")), key
    said = [n for n in notes if "made new" in n]
    assert said == (
        []
        if classes == 10
        else [f"{source}: its last layer 'linear' knows 100 classes, the data 10: made new"]
    )
    # the accuracy of a layer that has learned nothing is not worth a line
    assert any(n.startswith("float:") for n in notes) == (classes == 10)


def test_init_from_stays_strict(tmp_path: Path) -> None:
    _store(tmp_path / "net.pth", 100)
    with pytest.raises(InputError, match=r"'linear\.weight' has shape \(100, 32\), not \(10, 32\)"):
        _run(tmp_path / "net.pth", tmp_path / "run", "init_from")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("stem.weight"), "'stem.weight' is missing"),
        (lambda w: w.update({"stem.weight": torch.zeros(16, 3, 3, 3)}), "'stem.weight' has shape"),
        (lambda w: w.update({"linear.weight": torch.zeros(100, 64)}), "'linear.weight' has shape"),
        (lambda w: w.pop("linear.bias"), "'linear.bias' is missing"),
        (lambda w: w.update({"extra.weight": torch.zeros(1)}), "'extra.weight' is not part of it"),
    ],
)
def test_other_differences_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    weights = _store(tmp_path / "net.pth", 100)
    change(weights)
    torch.save(weights, tmp_path / "net.pth")
    with pytest.raises(InputError, match=message):
        _run(tmp_path / "net.pth", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "size", "last"),
    [("resnet18", 224, "fc"), ("mobilenet_v2", 224, "classifier.1"), ("vgg11_bn", 224, "classifier.6")],
)
def test_the_last_layer_of_torchvisions(name: str, size: int, last: str) -> None:
    with torch.device("meta"):
        theirs, ours = build(name, (size, size, 3), 1000), build(name, (size, size, 3), 10)
    weights = theirs.state_dict()
    assert f"'{last}' knows 1000 classes" in (fit_classes(ours, weights, "file") or "")
    assert {k: v.shape for k, v in weights.items()} == {k: v.shape for k, v in ours.state_dict().items()}
