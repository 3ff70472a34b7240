"""A changed constant in the generated C++ is found by comparison, in the op it belongs to: every tensor."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwq.cosim.build import _FLAGS, Build
from hwq.cosim.manifest import read_manifest
from hwq.cosim.project import Batch, verify_project
from hwq.data import DataSpec, load_split
from hwq.ir import Conv2d, Graph, Linear, Requantize
from hwq.serde import load
from hwq.simulate import Simulator
from tests.cosim.conftest import hwq

IMAGES = 60
TABLE = re.compile(
    r"static const \w+ (weight|multiplier\d+|bias)_\w+((?:\[\d+\])+) = \{(.*?)\n\};", re.DOTALL
)
INTEGER = re.compile(r"-?\d+")


@dataclass(frozen=True)
class Tensor:
    """One constant table of a header: where its integers stand in the text."""

    path: str
    op: str
    what: str
    spans: tuple[tuple[int, int], ...]

    def changed(self, text: str, position: int, change: Callable[[int], int]) -> str:
        start, end = self.spans[position]
        return text[:start] + str(change(int(text[start:end]))) + text[end:]


def tensors(folder: Path) -> list[Tensor]:
    """Every constant table of the project's C++."""
    found = []
    for path, op in read_manifest(folder).constants.items():
        if not path.endswith(".h"):
            continue
        text = (folder / path).read_text()
        for table in TABLE.finditer(text):
            spans = tuple(m.span() for m in INTEGER.finditer(text, *table.span(3)))
            found.append(Tensor(path, op, table.group(1), spans))
    return found


def busiest(codes: np.ndarray[Any, Any]) -> int:
    """The channel whose codes vary most."""
    return int(codes.reshape(-1, codes.shape[-1]).astype(float).std(axis=0).argmax())


def tamper(tensor: Tensor, text: str, graph: Graph, codes: dict[str, Any]) -> str:
    """A weight by 1, a multiplier by 1 %, a bias by half an output code; where the data reaches it."""
    op = graph[tensor.op]
    if isinstance(op, Conv2d | Linear):
        source = busiest(codes[op.inputs[0]])
        inputs, last = int(op.weight[0].size), op.weight.shape[-1]
        # of output 0, in the middle of the kernel
        position = (inputs // last // 2) * last + source % last
        hi = op.weight_type.hi
        return tensor.changed(text, position, lambda w: w + 1 if w < hi else w - 1)
    assert isinstance(op, Requantize)
    channel = busiest(codes[op.name]) if len(tensor.spans) > 1 else 0
    if tensor.what.startswith("multiplier"):
        return tensor.changed(text, channel, lambda m: m + max(1, abs(m) // 100))
    half = 1 << int(op.requant.bias.fraction[channel] - 1)
    return tensor.changed(text, channel, lambda b: b + half)


@pytest.fixture(scope="module")
def batch() -> Batch:
    images = load_split(DataSpec(name="digits"), "test").head(IMAGES)
    return Batch(pixels=images.pixels, labels=images.labels, what="test images")


def test_every_constant_is_a_tensor_here(exported: Path) -> None:
    """The parser misses nothing: as many tables as raw weight files."""
    raw = {path for path in read_manifest(exported).constants if path.endswith(".npy")}
    found = tensors(exported)
    assert len(found) == len(raw)
    assert {t.op for t in found} == {
        op.name for op in load(exported) if isinstance(op, Conv2d | Linear | Requantize)
    }


@pytest.mark.slow
def test_every_changed_constant_is_found(
    project: Path, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    _assert_found(project, batch, monkeypatch, tensors(project))


def test_a_changed_constant_of_each_kind_is_found(
    project: Path, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is compiled anew; `make test-slow` changes every tensor."""
    graph = load(project)
    kinds = {(type(graph[t.op]), t.what): t for t in tensors(project)}
    assert {what for _, what in kinds} == {"weight", "multiplier0", "multiplier1", "bias"}
    _assert_found(project, batch, monkeypatch, list(kinds.values()))


def _assert_found(
    project: Path, batch: Batch, monkeypatch: pytest.MonkeyPatch, changed: list[Tensor]
) -> None:
    monkeypatch.setitem(_FLAGS, Build.NATIVE, ("-std=c++14", "-O0", "-DHWQ_NATIVE=1"))
    graph = load(project)
    codes = dict(Simulator(graph).run(batch.pixels, keep="all").outputs)
    for tensor in changed:
        path = project / tensor.path
        text = path.read_text()
        path.write_text(tamper(tensor, text, graph, codes))
        manifest = read_manifest(project)
        edits = manifest.edits()
        report = verify_project(manifest, Build.NATIVE, batch, graph=graph, edits=edits, accepted=True)
        path.write_text(text)
        where = f"{tensor.path}: {tensor.what}"
        assert [(e.path, e.op, e.what) for e in edits] == [(tensor.path, tensor.op, "edited")], where
        assert not report.passed, where
        assert report.verdict.first_mismatch is not None
        assert report.verdict.first_mismatch.op == tensor.op, where
    assert read_manifest(project).edits() == []


@pytest.mark.parametrize("what", ["weight", "multiplier0", "bias"])
def test_the_command_exits_1_and_names_the_op(project: Path, batch: Batch, what: str) -> None:
    graph = load(project)
    codes = dict(Simulator(graph).run(batch.pixels, keep="all").outputs)
    tensor = [t for t in tensors(project) if t.what == what][1]
    path = project / tensor.path
    path.write_text(tamper(tensor, path.read_text(), graph, codes))
    arguments = ("simulate", str(project), "--build", "native", "--images", str(IMAGES))
    edit = f"{tensor.path} (edited; constants of op '{tensor.op}')"
    (project / "verdict-native.json").unlink(missing_ok=True)
    done = hwq(*arguments)
    assert done.returncode == 1
    assert edit in done.stderr
    assert not (project / "verdict-native.json").exists()
    done = hwq(*arguments, "--accept-edits")
    assert done.returncode == 1
    assert f"first in op '{tensor.op}'" in done.stdout
    assert edit in done.stderr
    verdict = json.loads((project / "verdict-native.json").read_text())
    assert not verdict["passed"]
    assert verdict["first_mismatch"]["op"] == tensor.op
    assert verdict["edited_files"][0]["op"] == tensor.op
