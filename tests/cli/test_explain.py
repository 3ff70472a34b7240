"""`hwq explain` and `--layer` from the outside: text, JSON, commands that work as printed, mistakes."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Hwq, snapshot


def test_explains_and_repairs(trained: Path, tmp_path: Path, hwq: Hwq) -> None:
    """What it prints names the layers; the commands it prints run, and leave nothing to repair."""
    before, path = snapshot(trained), tmp_path / "why.json"
    done = hwq("explain", trained, "--fixed", "12,8", "--round", "trn", "--images", 100, "--json", path)
    assert (done.code, done.err) == (0, "")
    assert snapshot(trained) == before
    found = json.loads(path.read_text())
    assert (found["fixed"], found["round"], found["images"]) == ("12,8", "trn", 100)
    bad = [layer for layer in found["layers"] if layer["share"] > 0.01]
    assert len(bad) == 2
    for layer in bad:
        assert layer["op"] in done.out
        assert layer["repairs"][0]["format"] in done.out
        assert layer["repairs"] == sorted(layer["repairs"], key=lambda r: r["memory_bits"])
        assert all(r["share"] <= 0.01 for r in layer["repairs"])
    assert "To keep every error below half a code, biases need I = " in done.out
    for kind in ("uniform", "mixed"):
        line = found["commands"][kind]
        assert f"  {line}\n" in done.out
        words = shlex.split(line)
        assert words[:3] == ["hwq", "export", str(trained)]
        assert words[words.index("--round") + 1] == "trn"
        again = hwq("explain", *words[2:], "--images", 100)
        assert again.code == 0, again.err
        assert "No layer has more than 1% of its codes changed" in again.out
    # the last of them, the mixture
    out = tmp_path / "hls"
    assert hwq(*words[1:], "--out", out).code == 0
    assert json.loads((out / "project.json").read_text())["fixed"] == words[words.index("--fixed") + 1]


def test_only_the_bad_layer_is_repaired(trained: Path, tmp_path: Path, hwq: Hwq) -> None:
    """A layer that is well keeps the format that it was given, by name or not."""
    path = tmp_path / "why.json"
    done = hwq("explain", trained, "--fixed", "32,10", "--layer", "fc1=4,2", "--json", path, "--images", 50)
    assert done.code == 0, done.err
    found = json.loads(path.read_text())
    formats = {layer["op"]: layer["format"] for layer in found["layers"]}
    (bad,) = [op for op, form in formats.items() if form == "4,2"]
    assert found["layers_given"] == ["fc1=4,2"]
    assert [layer["op"] for layer in found["layers"] if layer["repairs"]] == [bad]
    words = shlex.split(found["commands"]["mixed"])
    assert any(word.startswith("32,10") or word.endswith("=32,10") for word in words)


def test_nothing_to_repair(trained: Path, hwq: Hwq) -> None:
    done = hwq("explain", trained, "--fixed", "32,auto", "--images", 50)
    assert done.code == 0
    assert "No layer has more than 1% of its codes changed" in done.out
    assert "hwq export" not in done.out


def test_worst_and_threshold(trained: Path, hwq: Hwq) -> None:
    one = hwq("explain", trained, "--fixed", "12,8", "--images", 50, "--worst", 1).out
    assert "the worst 1 of 2 bad layers" in one
    assert "Also bad: " in one
    assert "No layer has more than 99%" in hwq("explain", trained, "--threshold", 99, "--images", 50).out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere"),
        (["RUN/hls"], "an exported project holds integers alone; explain reads the run folder or checkpoint"),
        (["RUN", "--fixed", "70,2"], "W must be 2..64"),
        (["RUN", "--layer", "fc7=16,8"], "layer pattern 'fc7' matches nothing; near it: fc"),
        (["RUN", "--layer", "fc1"], "--layer takes PATTERN=FORMAT"),
        (["RUN", "--data", "folder:/nowhere"], "/nowhere"),
        (["RUN", "--json", "/nowhere/x.json"], "/nowhere"),
        (["RUN", "--threshold", "100"], "'--threshold'"),
        (["RUN", "--images", "0"], "'--images'"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], words: str, exported: Path, hwq: Hwq) -> None:
    done = hwq("explain", *(word.replace("RUN", str(exported)) for word in arguments))
    assert done.code not in (0, None)
    assert words in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


def test_a_run_without_its_images(exported: Path, tmp_path: Path, hwq: Hwq) -> None:
    """The checkpoint alone is not enough: explain looks at test images."""
    copy = tmp_path / "run"
    shutil.copytree(exported, copy)
    done = hwq("explain", copy / "checkpoint.safetensors", "--images", 20)
    assert done.code == 0, done.err


def test_inspect_shows_layers_and_ranges(trained: Path, tmp_path: Path, hwq: Hwq) -> None:
    arguments = ("--fixed", "16,8", "--layer", "fc1=12,channel")
    facts = json.loads(hwq("inspect", trained, *arguments, "--json").out)
    constants = [c for op in facts["ops"] for c in op["constants"]]
    assert {c["format"] for c in constants} == {"32,16", "16,8", "12,channel", "32,auto"}
    literal = [c for c in constants if c["format"] == "16,8"]
    for c in literal:
        assert c["share"] == max(abs(c["low"]), abs(c["high"])) / 128
        assert c["memory_bits"] == 16 * c["count"]
    text = hwq("inspect", trained, *arguments).out
    assert "range used" in text
    assert "12,channel" in text
    out = tmp_path / "hls"
    assert hwq("export", trained, *arguments, "--out", out, "--allow-lossy").code == 0
    project = json.loads(hwq("inspect", out, "--json").out)
    assert [op["constants"] for op in project["ops"]] == [op["constants"] for op in facts["ops"]]


def test_export_says_what_each_format_uses(trained: Path, tmp_path: Path, hwq: Hwq) -> None:
    done = hwq("export", trained, "--fixed", "16,8", "--out", tmp_path / "hls", "--allow-lossy")
    (row,) = [line for line in done.out.splitlines() if "16,8" in line and "multipliers" in line]
    facts = json.loads(hwq("inspect", trained, "--fixed", "16,8", "--json").out)
    held = [c for op in facts["ops"] for c in op["constants"] if c["format"] == "16,8" and c["source"]]
    assert f" {sum(c['count'] for c in held)} " in row
    assert f"{100 * max(c['share'] for c in held):.2g}%" in row
    assert f"{min(c['smallest_bits'] for c in held)} bit" in row
