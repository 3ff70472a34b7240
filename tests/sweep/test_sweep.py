"""The sweep: local error shares by hand, counts, resuming, files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from hwq.data import DataSpec, load_split
from hwq.engine import Preference, simulator
from hwq.errors import InputError
from hwq.fixed import AutoFormat, ConstantFormat, IntType, parse_format
from hwq.ir import Graph, Input, Output, Requant, Requantize, TensorSpec, verify
from hwq.lower import Formats, RealConstants, lower
from hwq.models import build
from hwq.quant import Policy, calibrate, prepare
from hwq.sweep import Candidate, Grid, GridPoint, Store, body_layers, evaluate_format, run_grid
from hwq.train.checkpoint import Meta, save_checkpoint

S8, U8 = IntType(bits=8, signed=True), IntType(bits=8, signed=False)
REALS = [(1.0, -128.0), (0.61803, 0.3), (0.5, 0.0)]
"""(M, B) of three requantisations in a row: input, body, logits."""


def three_steps(form: ConstantFormat, classes: int = 2) -> Candidate:
    """pixels (1, 1, classes) -> three requantisations -> output."""
    spec = TensorSpec(shape=(1, 1, classes), type=U8, scale=1.0)
    ops: list[Any] = [Input(name="pixels", inputs=(), out=spec)]
    real = {}
    for i, (m, b) in enumerate(REALS):
        name = f"r{i}"
        used = AutoFormat(40) if i != 1 else form
        requant = Requant(
            terms=(used.quantize(np.array([m]), bias=False),),
            bias=used.quantize(np.array([b]), bias=True),
            out=S8,
            lo=S8.lo,
            hi=S8.hi,
        )
        out = TensorSpec(shape=spec.shape, type=S8, scale=1.0)
        ops.append(Requantize(name=name, inputs=(ops[-1].name,), out=out, requant=requant))
        real[name] = RealConstants(terms=(np.array([m]),), bias=np.array([b]))
    ops.append(Output(name="out", inputs=("r2",), out=ops[-1].out))
    graph = Graph(name="three", ops=tuple(ops))
    verify(graph)
    return Candidate(graph=graph, real=real, saturated=1, vanished=2, harmful=3)


def images(count: int = 150) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 1, 1, 2), dtype=np.uint8), rng.integers(0, 2, count)


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize("text", ["8,4", "4,2", "40,auto"])
def test_local_errors_by_hand(text: str, engine: Preference) -> None:
    """Only the body's share counts, and it is that of its own constants on the codes it really got."""
    pixels, labels = images()
    candidate = three_steps(parse_format(text))
    result = evaluate_format(candidate, pixels, labels, runner=simulator(candidate.graph, 1, engine))
    assert body_layers(candidate.graph) == ("r1",)
    body = candidate.graph["r1"]
    assert isinstance(body, Requantize)
    m, b = body.requant.terms[0].values()[0], body.requant.bias.values()[0]
    codes = np.clip(pixels.astype(float) - 128, -127, 127)
    stored = np.clip(np.floor(codes * m + b + 0.5), -127, 127)
    exact = np.clip(np.floor(codes * REALS[1][0] + REALS[1][1] + 0.5), -127, 127)
    assert result.layers == {"r1": np.count_nonzero(stored != exact) / stored.size}
    assert (result.local > 0) == (text != "40,auto")
    assert set(result.edge_layers) == {"r0", "r2"}
    logits = np.clip(np.floor(stored * 0.5 + 0.5), -127, 127).reshape(-1, 2)
    assert result.accuracy == 100 * np.count_nonzero(logits.argmax(1) == labels) / len(labels)
    assert (result.saturated, result.vanished, result.harmful) == (1, 2, 3)


def grid(make: Callable[[ConstantFormat], Candidate] = three_steps, checkpoint: str = "abc") -> Grid:
    pixels, labels = images()
    return Grid(checkpoint=checkpoint, data="random", lower=make, pixels=pixels, labels=labels)


def test_stored_rows_are_not_computed_again(tmp_path: Path) -> None:
    made: list[str] = []

    def make(form: ConstantFormat) -> Candidate:
        made.append(str(form))
        return three_steps(form)

    points = [GridPoint.parse(text) for text in ("8,4", "16,auto", "8,4")]
    path = tmp_path / "sweep.csv"
    first = run_grid(grid(make), points[:1], Store.open(path))
    rows = run_grid(grid(make), points, Store.open(path))
    assert made == ["8,4", "16,auto"]
    assert rows[0] == first[0]
    assert [row["format"] for row in rows] == ["8,4", "16,auto"]
    # another checkpoint is another measurement; the old rows stay
    run_grid(grid(make, "def"), points[:1], Store.open(path))
    assert made == ["8,4", "16,auto", "8,4"]
    assert [row["checkpoint"] for row in Store.open(path).rows] == ["abc", "abc", "def"]


def test_an_interrupted_sweep_keeps_its_rows(tmp_path: Path) -> None:
    def make(form: ConstantFormat) -> Candidate:
        if str(form) == "16,auto":
            raise KeyboardInterrupt
        return three_steps(form)

    points = [GridPoint.parse(text) for text in ("8,4", "16,auto")]
    with pytest.raises(KeyboardInterrupt):
        run_grid(grid(make), points, Store.open(tmp_path / "s.csv"))
    assert [row["format"] for row in Store.open(tmp_path / "s.csv").rows] == ["8,4"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.csv", "s.json"]


def test_csv_has_a_column_a_layer(tmp_path: Path) -> None:
    rows = run_grid(grid(), [GridPoint.parse("8,4")], Store.open(tmp_path / "s.csv"))
    with (tmp_path / "s.csv").open() as file:
        table = list(csv.DictReader(file))
    assert table[0]["format"] == "8,4"
    assert float(table[0]["local.r1"]) == rows[0]["layers"]["r1"]


@pytest.mark.parametrize(
    ("files", "out", "words"),
    [
        ({}, "s.json", "must end in .csv"),
        ({}, "nowhere/s.csv", "no folder"),
        ({"s.csv": "mine"}, "s.csv", "no result of hwq sweep"),
        ({"s.json": "{"}, "s.csv", "no result of hwq sweep"),
        ({"s.json": '{"rows": []}'}, "s.csv", "no result of hwq sweep"),
        ({"s.json": '{"hwq_sweep": 1, "rows": [{"format": "8,4"}]}'}, "s.csv", "no result of hwq sweep"),
        ({"s.json": '{"hwq_sweep": 99, "rows": []}'}, "s.csv", "another version"),
    ],
)
def test_foreign_files_are_left_alone(tmp_path: Path, files: dict[str, str], out: str, words: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        Store.open(tmp_path / out)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == files


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of an untrained digits network."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    spec = DataSpec(name="digits")
    train = load_split(spec, "train")
    model: nn.Module = prepare(build("digits", train.shape, 10), Policy(), train.shape)
    batch = torch.from_numpy(train.pixels[:64]).float().permute(0, 3, 1, 2) / 255 * 2 - 1
    calibrate(model, [batch])
    meta = Meta(
        model="digits",
        image_shape=train.shape,
        classes=train.classes,
        data=spec,
        mean=(0.5,),
        std=(0.5,),
        policy=Policy(),
        recipe={},
    )
    save_checkpoint(folder / "checkpoint.safetensors", meta, model, {})
    return folder


def sweep(*args: object) -> Any:
    from hwq.cli.sweep import command

    return CliRunner().invoke(command, [str(a) for a in args])


def test_the_command(run: Path) -> None:
    options = ("--fixed", "32,10", "--fixed", "8,auto", "--images", 40, "--threads", 1)
    done = sweep(run, *options)
    assert done.exit_code == 0, done.output
    document = json.loads((run / "sweep.json").read_text())
    assert [row["format"] for row in document["rows"]] == ["real", "32,10", "8,auto"]
    shares = [row["local"] for row in document["rows"]]
    assert shares[0] <= shares[1] < shares[2]
    before = (run / "sweep.json").read_bytes()
    assert sweep(run, *options).exit_code == 0
    assert (run / "sweep.json").read_bytes() == before


def test_the_commands_real_row_is_nearly_real(run: Path) -> None:
    """54-bit mantissas: no code differs from float64 constants on the digits network."""
    assert sweep(run, "--fixed", "real", "--images", 40, "--out", run / "r.csv").exit_code == 0
    (row,) = json.loads((run / "r.json").read_text())["rows"]
    assert row["local"] == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--fixed", "16"), "not a fixed-point format"),
        (("--edge-fixed", "40,8"), "W at most 32"),
        (("--data", "cifar10:/nowhere"), "nowhere"),
    ],
)
def test_bad_options_are_input_errors(run: Path, args: tuple[str, ...], words: str) -> None:
    done = sweep(run, *args, "--out", run / "bad.csv")
    assert isinstance(done.exception, InputError)
    assert words in str(done.exception)
    assert not (run / "bad.csv").exists()


def test_lowering_real_constants_are_reported_for_every_requantisation() -> None:
    """What the sweep relies on: `LowerReport.real` covers the graph."""
    torch.manual_seed(0)
    net = prepare(build("digits", (8, 8, 1), 10), Policy(), (8, 8, 1)).eval()
    calibrate(net, [torch.randn(4, 1, 8, 8)])
    done = lower(net, shape=(1, 8, 8), mean=[0.5], std=[0.5], formats=Formats(body=parse_format("32,10")))
    assert {op.name for op in done.graph if isinstance(op, Requantize)} == set(done.report.real)
