"""`hwq inspect` on an exported folder and on a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from hwq.cli.inspect import command, inspect_graph
from hwq.data import DataSpec
from hwq.errors import HwqError, InputError
from hwq.ir import Conv2d, Linear
from hwq.lower import lower
from hwq.models import build
from hwq.quant import Policy, calibrate, prepare
from hwq.serde import save
from hwq.train.checkpoint import LAST, Meta, save_checkpoint
from tests.graphs import seeded_graph
from tests.lower.reference import WIDE


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    policy = Policy()
    model = prepare(build("mlp", (8, 8, 1), 10), policy, (8, 8, 1)).eval()
    calibrate(model, [torch.randn(8, 1, 8, 8)])
    meta = Meta(
        model="mlp",
        image_shape=(8, 8, 1),
        classes=tuple("0123456789"),
        data=DataSpec(name="digits"),
        mean=(0.3,),
        std=(0.4,),
        policy=policy,
        recipe={},
    )
    save_checkpoint(folder / LAST, meta, model, {})
    return folder


def invoke(*args: str) -> str:
    result = CliRunner().invoke(command, list(args), standalone_mode=False, catch_exceptions=False)
    return result.output


def test_checkpoint(run: Path) -> None:
    document = json.loads(invoke(str(run), "--json", "--fixed", "16,12"))
    ops = {op["name"]: op for op in document["ops"]}
    assert ops["fc1"]["macs"] == ops["fc1"]["parameters"] == 64 * 128
    assert ops["input_quant"]["constants"][0]["format"] == "32,16"
    assert ops["relu1_quant"]["constants"][0]["format"] == "16,12"
    assert ops["relu1_quant"]["constants"][0]["vanished"] == 1
    assert any(issue["harmful"] for issue in document["issues"])
    text = invoke(str(run / LAST), "--fixed", "16,12")
    assert "harmful relu1_quant: multiplier of fc1: " in text
    assert "became 0" in text


def test_project(tmp_path: Path) -> None:
    graph = seeded_graph(11)
    save(graph, tmp_path)
    document = json.loads(invoke(str(tmp_path), "--json"))
    assert document["issues"] is None
    assert [op["name"] for op in document["ops"]] == [op.name for op in graph]
    assert "multiply-accumulates an image" in invoke(str(tmp_path))


def test_facts_agree_with_the_graph() -> None:
    for seed in range(12):
        graph = seeded_graph(seed)
        for op, facts in zip(graph, inspect_graph(graph, None), strict=True):
            assert facts.shape == op.out.shape
            if isinstance(op, Conv2d | Linear):
                assert (facts.weight_low, facts.weight_high) == (op.weight.min(), op.weight.max())
            if facts.kind == "Requantize":
                assert facts.sum_bits == graph.sum_bits(op)  # type: ignore[arg-type]
                assert all(1 <= c.used_bits <= c.width for c in facts.constants)
                assert all(c.vanished is None for c in facts.constants)


def test_bad_targets(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        invoke(str(tmp_path / "nowhere"))
    with pytest.raises(HwqError):
        invoke(str(tmp_path))
    with pytest.raises(InputError, match="not a fixed-point format"):
        invoke(str(run), "--fixed", "banana")
    (tmp_path / "graph.json").write_text("{")
    with pytest.raises(InputError, match=r"graph\.safetensors"):
        invoke(str(tmp_path))


def test_lower_is_deterministic() -> None:
    from hwq.serde import dump

    torch.manual_seed(0)
    model = prepare(build("mlp", (4, 4, 3), 3), Policy(), (4, 4, 3)).eval()
    files = [
        dump(lower(model, shape=(3, 4, 4), mean=[0.5] * 3, std=[0.2] * 3, formats=WIDE).graph)
        for _ in range(2)
    ]
    assert files[0] == files[1]
