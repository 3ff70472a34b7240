"""`hwq sweep` from its options to its files."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from hwq.data import DataSpec, load_split
from hwq.errors import HwqError, InputError
from hwq.fixed import parse_format
from hwq.ir import Requantize
from hwq.lower import Formats, lower
from hwq.models import build
from hwq.quant import Policy, calibrate, prepare
from hwq.sweep import Store
from hwq.train.posttraining import requantise
from hwq.train.restore import evaluate, restore
from tests.sweep.networks import digits_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_run(tmp_path_factory.mktemp("run"))


def sweep(*args: object) -> Any:
    from hwq.cli.sweep import command

    return CliRunner().invoke(command, [*map(str, args), "--threads", "1"])


FAST = ("--images", 40, "--no-picture")


def test_the_command(run: Path) -> None:
    options = ("--fixed", "32,10", "--fixed", "8,auto", "--images", 40)
    done = sweep(run, *options)
    assert done.exit_code == 0, done.output
    document = json.loads((run / "sweep.json").read_text())
    assert [row["format"] for row in document["rows"]] == ["real", "32,10", "8,auto"]
    shares = [row["local"] for row in document["rows"]]
    assert shares[0] <= shares[1] < shares[2]
    assert (run / "sweep.png").read_bytes().startswith(b"\x89PNG")
    drawn = (run / "sweep.svg").read_bytes()
    assert b"Pareto front" in drawn
    before = (run / "sweep.json").read_bytes()
    assert sweep(run, *options).exit_code == 0
    assert ((run / "sweep.json").read_bytes(), (run / "sweep.svg").read_bytes()) == (before, drawn)


def test_a_grid_and_what_it_recommends(run: Path, tmp_path: Path) -> None:
    """The printed command is one that exports the very row."""
    options = ("--widths", "8:12:4", "--integer", "auto,8", "--round", "trn", "--within", 100)
    done = sweep(run, *options, *FAST, "--out", tmp_path / "s.csv")
    assert done.exit_code == 0, done.output
    assert "left out, without fraction bits or with too many: 8,8" in done.output
    names = [(row["format"], row["round"]) for row in Store.open(tmp_path / "s.csv").rows]
    assert names == [("real", "trn"), ("8,auto", "trn"), ("12,auto", "trn"), ("12,8", "trn")]
    lines = [line.strip() for line in done.output.splitlines()]
    assert any(line.startswith("auto trn: 8 bits (") for line in lines)
    (line,) = (line for line in lines if line.startswith("hwq export"))
    assert shlex.split(line) == ["hwq", "export", str(run), "--fixed", "8,auto", "--round", "trn"]


def test_the_commands_real_row_is_nearly_real(run: Path, tmp_path: Path) -> None:
    """54-bit mantissas: no code differs from float64 constants on the digits network."""
    assert sweep(run, "--fixed", "real", *FAST, "--out", tmp_path / "r.csv").exit_code == 0
    (row,) = Store.open(tmp_path / "r.csv").rows
    assert (row["local"], row["logits_snr"], row["first_wrong"]) == (0, None, "")


def test_other_bits(run: Path, tmp_path: Path) -> None:
    """Quantised anew as `requantise` does it, once; exported from the folder that the command names."""
    options = ("--bits", "own,4/8", "--fixed", "16,auto", "--within", 100, "--out", tmp_path / "b.csv")
    done = sweep(run, *options, "--no-picture", "--error-images", 10)
    assert done.exit_code == 0, done.output
    rows = Store.open(tmp_path / "b.csv").rows
    found = [(row["bits"], row["format"]) for row in rows]
    assert found == [("", "real"), ("4/8", "real"), ("", "16,auto"), ("4/8", "16,auto")]
    (folder,) = (tmp_path / "sweep-bits").iterdir()
    assert f"hwq export {folder} --fixed 16,auto" in done.output
    stored, meta = restore(folder)
    assert (meta.policy.weight_bits, meta.policy.act_bits) == (4, 8)
    made, _ = requantise(run, 4, 8)
    state, other = stored.state_dict(), made.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in state.items())
    test = load_split(DataSpec(name="digits"), "test")
    # float32 evaluation of the same codes: a tie may fall otherwise on an image or two
    assert abs(evaluate(stored, test, meta.mean, meta.std) - rows[1]["accuracy"]) <= 100 * 2 / len(test)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert sweep(run, *options, "--no-picture", "--error-images", 10).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_search_prints_its_layers(run: Path, tmp_path: Path) -> None:
    options = ("--widths", "3,12", "--mixed", 0, "--out", tmp_path / "m.csv")
    done = sweep(run, *options, *FAST)
    assert done.exit_code == 0, done.output
    line = next(line for line in done.output.splitlines() if line.strip().startswith("hwq export"))
    words = shlex.split(line)
    best = [row for row in Store.open(tmp_path / "m.csv").rows if row["images"] == 40]
    (row,) = (
        r for r in best if r["format"] == words[4] and r["assigned"] == words[6::2][: len(r["assigned"])]
    )
    assert row["accuracy"] >= best[0]["accuracy"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose C++ compiles quickly."""
    return digits_run(tmp_path_factory.mktemp("small"), "mlp")


def test_rows_checked_in_cpp(small: Path, tmp_path: Path) -> None:
    """Both builds; what is stored is not compiled again. A row that the C++ contradicts fails the command."""
    options = ("--fixed", "12,auto", "--fixed", "6,4", "--out", tmp_path / "c.csv", *FAST)
    done = sweep(small, *options, "--check", 1, "--check-ap", 1)
    assert done.exit_code == 0, done.output
    rows = Store.open(tmp_path / "c.csv").rows
    (row,) = (row for row in rows if row["checks"])
    native, ap = row["checks"]
    assert (native["build"], native["images"], native["mismatches"]) == ("native", 40, 0)
    assert (ap["build"], ap["images"], ap["mismatches"]) == ("ap", 1, 0)
    assert native["accuracy"] == row["accuracy"]
    assert native["values"] == 40 * ap["values"]
    assert row["checked"] == "native 40: equal, ap 1: equal"
    assert "native 40: equal" in done.output
    before = (tmp_path / "c.json").read_bytes()
    assert sweep(small, *options, "--check", 1, "--check-ap", 1).exit_code == 0
    assert (tmp_path / "c.json").read_bytes() == before

    Store.open(tmp_path / "c.csv").put({**row, "accuracy": 99.0, "checks": [], "checked": ""})
    done = sweep(small, *options, "--check", 1, "--check-ap", 0)
    assert isinstance(done.exception, HwqError)
    assert done.exception.exit_code == 1
    assert row["format"] in str(done.exception)
    (row,) = (row for row in Store.open(tmp_path / "c.csv").rows if row["checks"])
    assert "another accuracy" in row["checked"]


@pytest.mark.parametrize(
    ("count", "names"),
    [
        (1, ["8,auto"]),  # the fewest bits within the loss
        (3, ["8,auto", "20,auto", "2,auto"]),  # the best, the worst
        (4, ["8,auto", "20,auto", "2,auto", "16,auto"]),
        (9, ["8,auto", "20,auto", "2,auto", "16,auto", "12,auto"]),
    ],
)
def test_rows_chosen_for_a_check(count: int, names: list[str]) -> None:
    """12,4 has the integers of 12,auto, and needs no check of its own."""
    from hwq.cli.sweep_check import chosen

    plain = {"round": "rnd", "bits": "", "assigned": []}
    given = [("real", 99, 90.0), ("20,auto", 20, 91.0), ("16,auto", 16, 90.5), ("12,auto", 12, 90.2)]
    given += [("12,4", 12, 90.2), ("8,auto", 8, 89.9), ("2,auto", 2, 10.0)]
    rows = [
        {"format": f, "memory": m, "accuracy": a, "digest": f.replace("12,4", "12,auto"), **plain}
        for f, m, a in given
    ]
    assert [row["format"] for row in chosen(rows, count, 0.1)] == names


def test_ctrl_c(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows done are kept, and the message says how to go on."""
    from hwq.cli.networks import Networks

    candidate = Networks.candidate

    def stop(self: Networks, point: Any) -> Any:
        if point.name == "8,auto":
            raise KeyboardInterrupt
        return candidate(self, point)

    monkeypatch.setattr(Networks, "candidate", stop)
    options = ("--fixed", "12,auto", "--fixed", "8,auto", *FAST, "--out", tmp_path / "s.csv")
    done = sweep(run, *options)
    assert isinstance(done.exception, HwqError)
    assert done.exception.exit_code == 130
    assert "2 rows are in" in str(done.exception)
    assert "the same command goes on" in str(done.exception)
    monkeypatch.setattr(Networks, "candidate", candidate)
    assert sweep(run, *options).exit_code == 0
    assert len(Store.open(tmp_path / "s.csv").rows) == 3


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--fixed", "16"), "not a fixed-point format"),
        (("--fixed", "1,auto"), "W must be 2..64"),
        (("--edge-fixed", "40,8"), "W at most 32"),
        (("--edge-fixed", "1,1"), "W must be 2..64"),
        (("--edge-fixed", "8,auto"), "takes W,I"),
        (("--data", "cifar10:/nowhere"), "nowhere"),
        (("--widths", "0:4"), "W must be 2..64, not 0"),
        (("--widths", "8:6"), "is empty"),
        (("--widths", "junk"), "not a width"),
        (("--widths", "8", "--integer", "x"), "'x' is none of"),
        (("--widths", "4,8", "--integer", "8"), "no format is left"),
        (("--integer", "4"), "--integer goes with --widths"),
        (("--round", "up"), "none of rnd, trn"),
        (("--bits", "0"), "widths are 1..16"),
        (("--images", "-1"), "--images"),
        (("--images", "0"), "--images"),
        (("--error-images", "-5"), "--error-images"),
        (("--wrong-above", "101"), "--wrong-above"),
        (("--within", "-1"), "--within"),
        (("--mixed", "x"), "--mixed"),
        (("--mixed", "1", "--fixed", "8,auto"), "give two or more"),
        (("--check", "-1"), "--check"),
        (("--jobs", "0"), "--jobs"),
        (("--jobs", "2"), "--threads is for a sweep in one process"),
        (("--backend", "mpi"), "--backend"),
        (("--out", "nowhere/s.csv"), "no folder"),
        (("--out", "s.txt"), "must end in .csv"),
    ],
)
def test_bad_options_are_one_line(
    run: Path, tmp_path: Path, args: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--out", "bad.csv", *args) if "--out" not in args else args
    done = sweep(run, *options, *(() if "--images" in args else FAST))
    said = str(done.exception) if isinstance(done.exception, HwqError) else done.output.splitlines()[-1]
    assert done.exit_code != 0
    assert words in said
    assert "\n" not in said
    if "--mixed" not in args:  # the grid's own rows are measured before the search
        assert list(tmp_path.iterdir()) == []


def test_requantise_refuses_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="not a readable checkpoint"):
        requantise(tmp_path / "x.safetensors", 4, 4)


def test_lowering_real_constants_are_reported_for_every_requantisation() -> None:
    """What the sweep relies on: `LowerReport.real` covers the graph."""
    torch.manual_seed(0)
    net = prepare(build("digits", (8, 8, 1), 10), Policy(), (8, 8, 1)).eval()
    calibrate(net, [torch.randn(4, 1, 8, 8)])
    done = lower(net, shape=(1, 8, 8), mean=[0.5], std=[0.5], formats=Formats(body=parse_format("32,10")))
    assert {op.name for op in done.graph if isinstance(op, Requantize)} == set(done.report.real)


def test_rows_of_another_maker_are_said(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--fixed", "12,auto", *FAST, "--out", tmp_path / "s.csv")
    assert "also holds" not in sweep(run, *options).output
    monkeypatch.setattr("hwq.sweep.run.__version__", "0.0.9")
    done = sweep(run, *options)
    assert done.exit_code == 0, done.output
    assert "s.json also holds 2 rows of another checkpoint, of other images or by another hwq" in " ".join(
        done.output.split()
    )
    assert len(Store.open(tmp_path / "s.csv").rows) == 4
