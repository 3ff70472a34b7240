"""`hwq export` and `hwq simulate` from the outside: exit codes, messages, JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cosim.conftest import hwq


def failed(*arguments: str) -> str:
    """The one line of a run that must fail without a traceback."""
    done = hwq(*arguments)
    assert done.returncode not in (0, None), done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("build", ["ap", "native"])
def test_pass(exported: Path, tmp_path: Path, build: str) -> None:
    copy, trace = tmp_path / "v.json", tmp_path / "t.npz"
    options = ["--images", "20", "--build", build, "--trace", str(trace), "--json", str(copy)]
    done = hwq("simulate", str(exported.parent), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS: " in done.stdout
    verdict = json.loads((exported / f"verdict-{build}.json").read_text())
    assert verdict == json.loads(copy.read_text())
    assert verdict["passed"]
    assert verdict["samples"] == 20
    assert verdict["mismatches"] == 0
    assert verdict["first_mismatch"] is None
    assert verdict["edited_files"] == []
    assert set(verdict["accuracy"]) == {"float", "fake_quant", "integer", "C++"}
    assert verdict["accuracy"]["integer"] == verdict["accuracy"]["C++"]
    ops = json.loads((exported / "project.json").read_text())["ops"]
    assert [row["op"] for row in verdict["ops"]] == [op["name"] for op in ops]
    for row, op in zip(verdict["ops"], ops, strict=True):
        assert row["values"] == 20 * np.prod(op["shape"])
    with np.load(trace) as stored:
        assert {name: stored[name].shape for name in stored} == {op["name"]: (20, *op["shape"]) for op in ops}


@pytest.mark.parametrize("engine", ["torch", "native"])
def test_the_verdict_says_which_engine_it_compares_with(project: Path, engine: str) -> None:
    side = {"torch": "Python", "native": "the native engine"}[engine]
    done = hwq("simulate", str(project), "--build", "native", "--images", "3", "--engine", engine)
    assert done.returncode == 0, done.stderr
    assert f"C++ (native) against {side}, 3 of" in " ".join(done.stdout.split())
    assert json.loads((project / "verdict-native.json").read_text())["reference"] == engine
    assert f"against {side}" in (project / "report.html").read_text()


def test_comment_edit_is_named_and_can_be_accepted(project: Path) -> None:
    path = project / "hls" / "hwq_pool.h"
    path.write_text(path.read_text() + "// a remark\n")
    options = ("--build", "native", "--images", "3")
    done = hwq("simulate", str(project), *options)
    assert done.returncode == 1
    assert "changed since export, nothing of it was compiled: hls/hwq_pool.h (edited);" in done.stderr
    done = hwq("simulate", str(project), *options, "--accept-edits")
    assert done.returncode == 0
    assert "accepted: hls/hwq_pool.h (edited)" in done.stderr
    verdict = json.loads((project / "verdict-native.json").read_text())
    assert verdict["passed"]
    assert verdict["edits_accepted"]
    assert verdict["edited_files"] == [{"path": "hls/hwq_pool.h", "what": "edited", "op": None}]


def test_edited_reference_is_named(project: Path) -> None:
    path = project / "graph.json"
    path.write_text(path.read_text() + "\n")
    assert "graph.json (edited)" in failed("simulate", str(project), "--build", "native", "--images", "3")


def test_compile_error(project: Path) -> None:
    top = next((project / "firmware").glob("*_top.cpp"))
    top.write_text(top.read_text() + "int broken = ;\n")
    done = hwq("simulate", str(project), "--build", "native", "--images", "3", "--accept-edits")
    assert done.returncode == 4
    assert "(edited)" in done.stderr
    assert "does not compile: firmware/" in done.stderr
    assert "full log: " in done.stderr
    assert "Traceback" not in done.stderr


def test_segfault_in_edited_code(project: Path) -> None:
    top = next((project / "firmware").glob("*_top.cpp"))
    text = top.read_text()
    at = text.index("#pragma HLS DATAFLOW")
    top.write_text(text[:at] + "*(volatile int *)8 = 1;\n" + text[at:])
    done = hwq("simulate", str(project), "--build", "native", "--images", "3", "--accept-edits")
    assert done.returncode == 4
    assert "crashed (signal SIGSEGV) on images 0..2" in done.stderr
    assert "Traceback" not in done.stderr


def test_data_of_another_size(exported: Path, tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "data" / "test" / "a"
    folder.mkdir(parents=True)
    Image.new("L", (5, 6)).save(folder / "x.png")
    message = failed("simulate", str(exported), "--data", f"folder:{tmp_path / 'data'}")
    assert "the network takes images of 8x8x1" in message


def test_golden_vectors_when_data_is_gone(project: Path) -> None:
    manifest = json.loads((project / "project.json").read_text())
    manifest["data"] = {"name": "folder", "root": "/nowhere"}
    (project / "project.json").write_text(json.dumps(manifest))
    done = hwq("simulate", str(project), "--build", "native", "--accept-edits")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "golden vectors instead" in done.stderr
    assert "4 golden images" in done.stdout
    message = failed("simulate", str(project), "--data", "folder:/nowhere", "--accept-edits")
    assert "/nowhere" in message


def test_no_project(run_folder: Path, tmp_path: Path) -> None:
    assert "no such folder" in failed("simulate", str(tmp_path / "none"))
    assert "holds no exported project" in failed("simulate", str(tmp_path))
    assert "'--images'" in failed("simulate", str(tmp_path), "--images", "0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--fixed", "99,10"), "W must be 2..64"),
        (("--fixed", "32,10,NEAREST"), "unknown rounding name"),
        (("--fixed", "banana"), "not a fixed-point format"),
        (("--edge-fixed", "32,auto"), "--edge-fixed takes W,I"),
        (("--fixed", "4,2"), "constants saturate"),
        (("--fold", "nosuch=1,1"), "no convolution or linear layer"),
        (("--data", "folder:/nowhere"), "/nowhere"),
    ],
)
def test_export_refuses(run_folder: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    assert message in failed("export", str(run_folder), "--out", str(tmp_path / "out"), *options)
    assert list(tmp_path.iterdir()) == []


def test_export_into_something_else(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    assert "no hwq project" in failed("export", str(run_folder), "--out", str(tmp_path))
    assert (tmp_path / "thesis.txt").read_text() == "irreplaceable"


def test_export_replaces_an_older_project(run_folder: Path, project: Path) -> None:
    done = hwq("export", str(run_folder), "--out", str(project), "--fixed", "24,auto", "--round", "trn")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((project / "project.json").read_text())
    assert (manifest["fixed"], manifest["round"]) == ("24,auto", "trn")
    assert manifest["data"]["name"] == "digits"
