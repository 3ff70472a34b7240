"""The README's tour on one's own network, and the demo: run as written."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hwq.cli.export import Exported
from hwq.cli.route import Trained
from hwq.report import Report
from hwq.train import Interrupted
from tests.cli.conftest import Hwq, snapshot

ROOT = Path(__file__).parents[2]
SHORTER = {"train": ["--epochs", "2"], "simulate": ["--images", "4"]}
"""What a test adds: the tour's lines are otherwise run as they stand."""


def _tour() -> list[list[str]]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.split("<!-- tour: every line is run by a test -->\n```sh\n")[1].split("```")[0]
    return [shlex.split(line, comments=True) for line in block.splitlines()]


def test_the_readme_tour(tmp_path: Path, hwq: Hwq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples" / "own_network", tmp_path / "examples" / "own_network")
    said = []
    for tool, name, *arguments in _tour():
        assert tool == "hwq"
        done = hwq(name, *arguments, *SHORTER.get(name, []))
        assert done.code == 0, (name, done.err)
        said.append(done.out)
    assert [line[1] for line in _tour()] == ["train", "export", "simulate", "simulate", "sweep", "explain"]
    for build in ("ap", "native"):
        verdict = json.loads((tmp_path / f"runs/own/hls/verdict-{build}.json").read_text())
        assert (verdict["mismatches"], verdict["samples"]) == (0, 4)
    assert all(width in said[-2] for width in ("32,10", "16,8", "16,auto"))
    assert "layers have more than 1% of their codes changed" in said[-1]


def _accuracies(text: str) -> dict[str, float]:
    return {m[1].strip(): float(m[2]) for m in re.finditer(r"^(\S.*?) +(\d+\.\d\d)%$", text, re.MULTILINE)}


def test_the_demo_twice(tmp_path: Path, hwq: Hwq) -> None:
    out = tmp_path / "demo"
    first = hwq("demo", "--out", out)
    assert first.code == 0, first.err
    stages = _accuracies(first.out)
    assert list(stages) == ["float", "fake-quantised", "integer, Python", "C++, ap", "C++, native"]
    assert min(stages.values()) >= 97.0
    assert stages["integer, Python"] == stages["C++, ap"] == stages["C++, native"]
    assert re.search(r"PROVEN bit-exact: [\d,]+ values compared, 0 mismatches", first.out)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "PROVEN bit-exact" in page
    for build in ("ap", "native"):
        verdict = json.loads((out / "hls" / f"verdict-{build}.json").read_text())
        assert verdict["samples"] == 355
        assert verdict["mismatches"] == 0
        assert all(op["values"] > 0 for op in verdict["ops"])
    assert hwq("simulate", out, "--build", "native").code == 0

    (out / "notes.txt").write_text("mine")
    before = snapshot(out)
    second = hwq("demo", "--out", out)
    assert second.code == 0, second.err
    after = snapshot(out)
    assert after["notes.txt"] == before["notes.txt"]
    assert set(after) == set(before) - {"hls/report.html"}  # simulate's page of the replaced project
    assert after["hls/graph.safetensors"] == before["hls/graph.safetensors"]  # the same integers on every run
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_the_demo_leaves_what_is_not_its_own(kind: str, tmp_path: Path, hwq: Hwq) -> None:
    out = tmp_path / "mine"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "thesis.tex").write_text("years of work")
    before = snapshot(tmp_path)
    done = hwq("demo", "--out", out)
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1
    assert done.err.startswith(f"error: {out}")
    assert snapshot(tmp_path) == before


def _stub_train(run: Path, bits: int) -> Trained:
    run.mkdir()
    (run / "checkpoint.safetensors").write_text("new")
    return Trained(run=run, floating=99.0, quantised=98.0)


STUBS: dict[str, Callable[..., object]] = {
    "_train": _stub_train,
    "export_run": lambda run, options: Exported(folder=run / "hls", ops=1, macs=1, issues=()),
    "_compare": lambda run, out, threads: [],
    "_page": lambda *_: Report(title="new"),
    "write_report": lambda run, report: (run / "report.html").write_text("new"),
}


def _earlier(out: Path) -> dict[str, str]:
    out.mkdir()
    (out / "demo.json").write_text('{"files": ["report.html", "hls", "../victim", ".."]}')
    (out / "report.html").write_text("earlier")
    (out / "hls").mkdir()
    (out / "hls" / "net.cpp").write_text("earlier")
    (out / "notes.txt").write_text("mine")
    (out.parent / "victim").write_text("not the demo's")
    return snapshot(out.parent)


@pytest.mark.parametrize("stage", STUBS)
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_demo_that_stops_halfway_leaves_the_earlier_one(
    stage: str, failure: BaseException, tmp_path: Path, hwq: Hwq, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _earlier(tmp_path / "demo")

    def fail(*_: object) -> None:
        raise failure

    for name, stub in STUBS.items():
        monkeypatch.setattr(f"hwq.cli.route.{name}", fail if name == stage else stub)
    done = hwq("demo", "--out", tmp_path / "demo")
    assert done.code == (130 if isinstance(failure, KeyboardInterrupt) else 4)
    assert done.err.strip().startswith("error: ")
    assert len(done.err.strip().splitlines()) == 1
    assert snapshot(tmp_path) == before


def test_ctrl_c_while_the_demo_trains_names_no_folder_that_is_gone(
    tmp_path: Path, hwq: Hwq, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise Interrupted("go on with: hwq train --resume --out /tmp/gone")

    monkeypatch.setattr("hwq.cli.route.train", interrupted)
    done = hwq("demo", "--out", tmp_path / "demo")
    assert (done.code, done.err.strip()) == (130, "error: interrupted")
    assert list(tmp_path.iterdir()) == []


def test_a_demo_replaces_only_what_an_earlier_one_wrote(
    tmp_path: Path, hwq: Hwq, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "demo"
    _earlier(out)
    for name, stub in STUBS.items():
        monkeypatch.setattr(f"hwq.cli.route.{name}", stub)
    assert hwq("demo", "--out", out).code == 0
    assert {path.name for path in out.iterdir()} == {
        "demo.json",
        "report.html",
        "checkpoint.safetensors",
        "notes.txt",
    }
    assert (out / "report.html").read_text() == "new"
    assert (out / "notes.txt").read_text() == "mine"
    assert (tmp_path / "victim").read_text() == "not the demo's"

    (out / "checkpoint.safetensors").unlink()
    (out / "demo.json").write_text('{"files": ["report.html"]}')
    (out / "checkpoint.safetensors").write_text("mine")
    done = hwq("demo", "--out", out)
    assert done.code == 2
    assert "checkpoint.safetensors" in done.err
    assert (out / "checkpoint.safetensors").read_text() == "mine"
