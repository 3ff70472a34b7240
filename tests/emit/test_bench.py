"""The self-checking test bench and the tools' scripts, used as a user uses them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hwq.cosim.toolchain import find_headers
from hwq.emit import Golden, emit
from hwq.ir import Graph
from hwq.simulate.oracle import run_oracle
from tests.emit.conftest import residual
from tests.graphs import random_pixels

IMAGES = 2
STUBS = """
set commands {open_project set_top add_files open_solution set_part create_clock csim_design csynth_design}
foreach command $commands {
  proc $command args "puts \\[list $command {*}\\$args\\]"
}
rename exit real_exit
proc exit args { puts exit; real_exit 0 }
"""


def _golden(graph: Graph) -> Golden:
    pixels = random_pixels(graph, IMAGES, 3)
    return Golden(pixels, run_oracle(graph, pixels))


@pytest.fixture
def graph() -> Graph:
    return residual(1)


@pytest.fixture
def project(tmp_path: Path, graph: Graph) -> Path:
    place = tmp_path / "project"
    emit(graph, golden=_golden(graph)).write(place)
    return place


def _make(project: Path, build: str) -> None:
    kind = "NATIVE=1" if build == "native" else f"AP_INCLUDE={find_headers().folder}"
    command = ["make", "-s", "-f", "sim/build.mk", "tb", kind]
    subprocess.run(command, cwd=project, check=True, capture_output=True)


def _bench(project: Path, folder: Path | None = None) -> tuple[int, str]:
    done = subprocess.run(
        [project / "tb"], cwd=folder or project, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout.strip()


@pytest.mark.parametrize("build", ["ap", "native"])
def test_the_bench_names_what_is_wrong(project: Path, graph: Graph, build: str, tmp_path: Path) -> None:
    _make(project, build)
    # the output counts twice: as recorded, and as read from the port
    values = IMAGES * (sum(op.out.size for op in graph) + graph.output.out.size)
    passed = (0, f"PASS: {values} values of {IMAGES} image(s) equal the golden vectors")
    assert _bench(project) == passed
    deeper = project / "vitis_hls_project" / "solution1" / "csim" / "build"
    deeper.mkdir(parents=True)
    assert _bench(project, deeper) == passed  # where the tools run it

    # one golden value
    path = project / "tb_data" / "act0.dat"
    lines = path.read_text().splitlines()
    at = graph["act0"].out.size + 5  # in the second image
    lines[at] = str(int(lines[at]) ^ 1)
    kept = path.read_text()
    path.write_text("\n".join(lines) + "\n")
    code, said = _bench(project)
    assert code == 1
    assert said.startswith(f"MISMATCH: layer act0, image 1, value 5: expected {lines[at]}, got ")
    path.write_text("\n".join(lines[:-1]) + "\n")
    assert _bench(project) == (2, "ERROR: tb_data/act0.dat is missing or not whole")
    path.write_text(kept.replace("\n", "\nx\n", 1))
    assert _bench(project) == (2, "ERROR: tb_data/act0.dat is missing or not whole")
    path.write_text(kept)
    pixels = project / "tb_data" / "pixels.dat"
    shown = pixels.read_text()
    pixels.write_text(shown + "1\n")
    assert _bench(project) == (2, "ERROR: tb_data/pixels.dat does not hold whole images")
    pixels.write_text(shown)

    # one weight, by 1
    header = project / "firmware" / "ops" / "conv0.h"
    text = header.read_text()
    found = re.search(r"weight_conv0\[\d+\]\[\d+\] = \{\s*\{\s*(-?\d+)", text)
    assert found
    header.write_text(text[: found.start(1)] + str(int(found[1]) + 1) + text[found.end(1) :])
    _make(project, build)
    code, said = _bench(project)
    assert code == 1
    assert said.startswith("MISMATCH: layer conv0, image ")

    code, said = _bench(project, tmp_path)
    assert (code, said) == (2, "ERROR: no golden vectors: tb_data/pixels.dat not found")


def _play(project: Path, script: str, **environment: str) -> list[list[str]]:
    """The commands that a Tcl script gives its tool."""
    program = STUBS + f"source {script}\n"
    done = subprocess.run(
        ["tclsh"],
        input=program,
        cwd=project,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[-1] == "exit"
    return [re.findall(r"\{[^}]*\}|\S+", line) for line in lines]


def _assert_includes(project: Path, flags: str) -> None:
    folders = [Path(flag[2:]) for flag in flags.strip("{}").split() if flag.startswith("-I")]
    assert {(project / f).resolve().name for f in folders} == {"firmware", "hls", "sim"}
    assert all((project / folder).is_dir() for folder in folders)


@pytest.mark.skipif(shutil.which("tclsh") is None, reason="needs tclsh")
@pytest.mark.parametrize("script", ["vitis_hls.tcl", "vivado_hls.tcl"])
def test_scripts(project: Path, script: str) -> None:
    commands = _play(project, script)
    assert [c[0] for c in commands] == [
        "open_project",
        "set_top",
        *["add_files"] * 3,
        "open_solution",
        "set_part",
        "create_clock",
        "csim_design",
        "csynth_design",
        "exit",
    ]
    assert commands[1] == ["set_top", "net_top"]
    assert re.search(r"^void net_top\(", (project / "firmware/net_top.cpp").read_text(), re.MULTILINE)
    for command in commands:
        if command[0] == "add_files":
            named = [word for word in command[1:] if not word.startswith(("-", "{"))]
            assert len(named) == 1
            assert (project / named[0]).exists()
            if "-cflags" in command:
                _assert_includes(project, command[command.index("-cflags") + 1])
    assert ["set_part", "xc7z020clg484-1"] in commands
    assert ["create_clock", "-period", "5", "-name", "default"] in commands
    other = _play(project, script, HWQ_PART="xczu3eg-sbva484-1-e", HWQ_PERIOD="3.3")
    assert ["set_part", "xczu3eg-sbva484-1-e"] in other
    assert ["create_clock", "-period", "3.3", "-name", "default"] in other


@pytest.mark.skipif(shutil.which("tclsh") is None, reason="needs tclsh")
@pytest.mark.parametrize("script", ["vitis_hls.tcl", "vivado_hls.tcl"])
def test_without_golden_vectors_nothing_is_simulated(tmp_path: Path, graph: Graph, script: str) -> None:
    project = tmp_path / "project"
    emit(graph).write(project)
    commands = _play(project, script)
    assert "csim_design" not in [c[0] for c in commands]
    assert not [c for c in commands if "-tb" in c]
    assert "tb_data" not in (project / "hls_config.cfg").read_text()


def test_unified_configuration(project: Path) -> None:
    text = (project / "hls_config.cfg").read_text()
    for key, value in re.findall(r"^([\w.]+)=(.*)$", text, re.MULTILINE):
        if key.endswith(".file"):
            assert (project / value).exists()
        if key.endswith(".cflags"):
            _assert_includes(project, value)
    assert "syn.top=net_top" in text
