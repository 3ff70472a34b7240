"""Mistakes around `hwq export` and `hwq simulate`: one line, a non-zero exit, an untouched disk."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Hwq, snapshot
from tests.cli.test_bad_input import Arguments, Case, Place, check


def _export(*flags: object) -> Callable[[Place], Arguments]:
    return lambda p: ["export", p.run, *flags]


def _lossy(p: Place) -> Arguments:
    return ["export", p.run, "--fixed", "8,7"]


def _truncated(p: Place) -> Arguments:
    path = p.run / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    return ["export", p.run]


def _into_file(p: Place) -> Arguments:
    (p.tmp / "file").write_text("mine")
    return ["export", p.run, "--out", p.tmp / "file"]


def _into_foreign(p: Place) -> Arguments:
    (p.tmp / "mine").mkdir()
    (p.tmp / "mine" / "thesis.tex").write_text("years of work")
    return ["export", p.run, "--out", p.tmp / "mine"]


EXPORT = [
    Case("W too large", _export("--fixed", "65,10"), 2, ("W must be 2..64",)),
    Case("W too small", _export("--fixed", "1,1"), 2, ("W must be 2..64",)),
    Case("I too small", _export("--fixed", "32,-31"), 2, ("I must be >= W - 62",)),
    Case("I too large", _export("--fixed", "32,2000"), 2, ("I must be <= 1024",)),
    Case("I not a number", _export("--fixed", "32,ten"), 2, ("ten",)),
    Case("not a format", _export("--fixed", "wide"), 2, ("wide", "32,10")),
    Case("unknown rounding", _export("--fixed", "32,10,UP"), 2, ("unknown rounding", "UP", "RND_CONV")),
    Case(
        "unknown overflow", _export("--fixed", "32,10,RND,CLIP"), 2, ("unknown overflow", "CLIP", "SAT_SYM")
    ),
    Case("edge format too wide", _export("--edge-fixed", "40,16"), 2, ("--edge-fixed",)),
    Case("constants that saturate", _lossy, 2, ("--allow-lossy",)),
    Case("truncated checkpoint", _truncated, 2, ("truncated",)),
    Case("folding of Python", _export("--folding", "net.py"), 2, ("net.py", ".toml or a .json")),
    Case("no run", lambda p: ["export", p.tmp / "missing"], 2, ("missing",)),
    Case("not a run", lambda p: ["export", p.tmp], 2, ("checkpoint.safetensors",)),
    Case("output is a file", _into_file, 2, ("file",)),
    Case("output holds something else", _into_foreign, 2, ("mine",)),
    Case("output cannot be made", _export("--out", "/proc/hwq/hls"), 4, ("/proc",)),
]


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> Place:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    return Place(tmp=tmp_path, run=run)


@pytest.mark.parametrize("case", EXPORT, ids=lambda case: case.name)
def test_export(case: Case, place: Place, hwq: Hwq) -> None:
    arguments = case.build(place)
    before = snapshot(place.tmp)
    check(hwq(*arguments), case)
    assert snapshot(place.tmp) == before


def test_an_unknown_requantisation_mode_is_a_usage_error(trained: Path, hwq: Hwq) -> None:
    done = hwq("export", trained, "--round", "up")
    assert done.code == 2
    assert "Traceback" not in done.err
    assert "up" in done.err
    assert not (trained / "hls").exists()


def test_a_full_disk_during_export_leaves_nothing(
    place: Place, hwq: Hwq, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(place.tmp)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("os.fsync", "os.rename", "os.replace", "pathlib.Path.rename", "pathlib.Path.replace"):
        monkeypatch.setattr(name, full)
    check(hwq("export", place.run), Case("full disk", _export(), 4, ("No space left on device",)))
    monkeypatch.undo()
    assert snapshot(place.tmp) == before


def test_a_failed_export_keeps_the_earlier_one(exported: Path, tmp_path: Path, hwq: Hwq) -> None:
    run = tmp_path / "run"
    shutil.copytree(exported, run)
    before = snapshot(run)
    assert hwq("export", run, "--fixed", "8,7").code == 2
    assert snapshot(run) == before


# -- simulate ------------------------------------------------------------------------------------


def _damaged_manifest(p: Place) -> Arguments:
    (p.run / "hls" / "project.json").write_text("{")
    return ["simulate", p.run]


def _other_abi(p: Place) -> Arguments:
    path = p.run / "hls" / "project.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "abi": 99}))
    return ["simulate", p.run]


def _damaged_graph(p: Place) -> Arguments:
    path = p.run / "hls" / "graph.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    return ["simulate", p.run, "--accept-edits"]


def _other_size(p: Place) -> Arguments:
    return ["simulate", p.run, "--data", f"folder:{p.images('data', size=(9, 7))}"]


def _nested_manifest(p: Place) -> Arguments:
    (p.run / "hls" / "project.json").write_text("[" * 100_000)
    return ["simulate", p.run]


def _path_outside(p: Place) -> Arguments:
    path = p.run / "hls" / "project.json"
    content = json.loads(path.read_text())
    content["files"]["../../secret"] = ""
    path.write_text(json.dumps(content))
    return ["simulate", p.run]


def _damaged_issues(p: Place) -> Arguments:
    (p.run / "hls" / "issues.json").write_text('[{"op": 1}]')
    return ["inspect", p.run / "hls"]


def _never_exported(p: Place) -> Arguments:
    shutil.rmtree(p.run / "hls")
    return ["simulate", p.run]


def _simulate(*flags: object) -> Callable[[Place], Arguments]:
    return lambda p: ["simulate", p.run, *flags]


SIMULATE = [
    Case("never exported", _never_exported, 2, ("hwq export",)),
    Case("no such run", lambda p: ["simulate", p.tmp / "missing"], 2, ("missing",)),
    Case("damaged manifest", _damaged_manifest, 2, ("project.json", "export the project again")),
    Case("manifest nested without end", _nested_manifest, 2, ("project.json", "export the project again")),
    Case("manifest with a path outside", _path_outside, 2, ("../../secret", "not a plain path")),
    Case("damaged issues", _damaged_issues, 2, ("issues.json", "export the project again")),
    Case("another ABI", _other_abi, 2, ("ABI", "export the project again")),
    Case("missing data", _simulate("--data", "folder:/nowhere"), 2, ("/nowhere",)),
    Case("images of another size", _other_size, 2, ("8x8x1",)),
]


@pytest.fixture
def project(exported: Path, tmp_path: Path) -> Place:
    run = tmp_path / "run"
    shutil.copytree(exported, run)
    return Place(tmp=tmp_path, run=run)


@pytest.mark.parametrize("case", SIMULATE, ids=lambda case: case.name)
def test_simulate(case: Case, project: Place, hwq: Hwq) -> None:
    arguments = case.build(project)
    before = snapshot(project.tmp)
    check(hwq(*arguments), case)
    assert snapshot(project.tmp) == before


def test_a_damaged_graph(project: Place, hwq: Hwq) -> None:
    done = hwq(*_damaged_graph(project))
    assert done.code == 2
    assert "Traceback" not in done.err
    assert "graph.safetensors" in done.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"CXX": "no-such-compiler"}, ("no-such-compiler", "CXX")),
        ({"CXX": "", "PATH": "/nowhere"}, ("no C++ compiler", "apt-get install g++")),
        ({"XILINX_HLS": "/nowhere"}, ("XILINX_HLS", "/nowhere")),
    ],
    ids=["CXX names nothing", "no compiler", "no headers"],
)
def test_missing_tools(
    project: Place,
    hwq: Hwq,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    says: tuple[str, ...],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    before = snapshot(project.tmp)
    check(hwq("simulate", project.run, "--images", 2), Case("tools", _simulate(), 4, says))
    assert snapshot(project.tmp) == before


def test_a_compile_error_names_its_line_and_its_log(project: Place, hwq: Hwq) -> None:
    source = next(
        path for path in sorted((project.run / "hls").rglob("*.cpp")) if "main(" not in path.read_text()
    )
    source.write_text(source.read_text() + "\nthis is no C++;\n")
    done = hwq("simulate", project.run, "--images", 2, "--build", "native", "--accept-edits")
    assert done.code == 4
    line = done.err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert "does not compile" in line
    assert source.name in line
    log = line.split("full log: ")[1].rstrip(")")
    assert "this is no C++" in Path(log).read_text() or "error" in Path(log).read_text()


def test_a_folder_of_files_that_are_gone_is_one_line(project: Place, hwq: Hwq) -> None:
    shutil.rmtree(project.run / "hls" / "firmware")
    done = hwq("simulate", project.run, "--build", "native", "--images", 2)
    assert done.code == 1
    (line,) = done.err.strip().splitlines()
    assert re.search(r"nothing of it was compiled: \d+ files missing: firmware/\S+, \S+, \S+, \.\.\.; ", line)


def test_off_bits_of_nothing_is_noted(place: Place, hwq: Hwq) -> None:
    done = hwq("export", place.run, "--off-bits", 8)
    assert done.code == 0
    assert "note: --off-bits changed nothing" in done.out


def test_every_accuracy_says_of_how_many_images_it_is(project: Place, hwq: Hwq) -> None:
    page = project.run / "hls" / "report.html"
    few = hwq("simulate", project.run, "--build", "native", "--images", 5).out
    (line,) = [line for line in few.splitlines() if line.startswith("accuracy")]
    assert re.fullmatch(
        r"accuracy of 5 images: integer (\S+%), C\+\+ \1; of all test images, in training: fake_quant \S+%",
        line,
    )
    assert page.read_text().count("all test images, in training") == 1
    every = hwq("simulate", project.run, "--build", "native").out
    (line,) = [line for line in every.splitlines() if line.startswith("accuracy")]
    assert re.fullmatch(r"accuracy of 355 images: fake_quant \S+%, integer (\S+%), C\+\+ \1", line)
    assert "all test images, in training" not in page.read_text()


def test_zero_images_is_a_usage_error(exported: Path, hwq: Hwq) -> None:
    done = hwq("simulate", exported, "--images", 0)
    assert done.code == 2
    assert "--images" in done.err


# -- names ---------------------------------------------------------------------------------------


def _network(path: Path, names: list[str]) -> Path:
    """A perceptron whose five layers have the given names."""
    layers = [
        "Flatten()",
        "Linear(64, 16, bias=False)",
        "BatchNorm1d(16)",
        "ReLU()",
        "Linear(16, 10)",
    ]
    added = "".join(
        f"    net.add_module({n!r}, nn.{layer})\n" for n, layer in zip(names, layers, strict=True)
    )
    path.write_text(f"from torch import nn\ndef make():\n    net = nn.Sequential()\n{added}    return net\n")
    return path


@pytest.mark.parametrize(
    "names",
    [
        ["int", "namespace", "switch", "template", "main"],
        ["*/ #define x", "a); system('touch pwned'); (", "<script>", "$(touch pwned)", "[exec touch pwned]"],
        ["a-b", "a_b", "a b", "a__b", "\N{LATIN SMALL LETTER E WITH ACUTE}"],
        ["ap_int", "hls", "hwq_run", "std", "input"],
    ],
    ids=["keywords", "injections", "clashes", "names of the library"],
)
def test_odd_layer_names_become_safe_identifiers(names: list[str], tmp_path: Path, hwq: Hwq) -> None:
    net, run = _network(tmp_path / "net.py", names), tmp_path / "run"
    for command in (
        ["train", "--model", f"{net}:make", "--epochs", 1, "--out", run],
        ["export", run, "--fixed", "32,auto"],
        ["simulate", run, "--build", "native", "--images", 4],
        ["inspect", run],
    ):
        done = hwq(*command)
        assert done.code == 0, (command[0], done.err)
    assert not list(tmp_path.rglob("pwned"))
    assert not Path("pwned").exists()
    for path in (run / "hls").rglob("*"):
        if path.suffix in (".cpp", ".h", ".hpp", ".tcl", ".cfg"):
            text = path.read_text(encoding="utf-8")
            code = [line for line in text.splitlines() if not _comment(line)]
            raw = RAW if path.suffix in (".tcl", ".cfg") else RAW[1:]
            assert not [line for line in code for piece in raw if piece in line], path


RAW = ("[exec", "system('", "$(touch", "*/ #define", "); (")
"""Pieces of those names that code may hold only escaped; the first means nothing in C++."""


def _comment(line: str) -> bool:
    return line.lstrip().startswith(("//", "#", ";")) and not line.lstrip().startswith(("#pragma", "#define"))


@pytest.mark.parametrize("name", ['a"; system("touch pwned', "while", "back\\slash", "two\nlines"])
def test_layer_names_that_torch_cannot_trace_are_refused(name: str, place: Place, hwq: Hwq) -> None:
    net = _network(place.tmp / "net.py", ["first", name, "bn", "relu", "last"])
    before = snapshot(place.tmp)
    done = hwq("train", "--model", f"{net}:make", "--epochs", 1, "--out", place.tmp / "new")
    check(done, Case("name", _export(), 3, ("rename it", "torch.fx")))
    assert snapshot(place.tmp) == before


def test_lossy_constants_are_known_to_the_project(place: Place, hwq: Hwq) -> None:
    out = place.tmp / "my project"
    done = hwq("export", place.run, "--fixed", "8,7", "--allow-lossy", "--out", out)
    assert done.code == 0, done.err
    assert f"next: hwq simulate '{out}'" in done.out
    of_run = hwq("inspect", place.run, "--fixed", "8,7", "--json")
    of_project = hwq("inspect", out, "--json")
    assert of_project.code == 0, of_project.err
    assert json.loads(of_project.out)["issues"] == json.loads(of_run.out)["issues"] != []


def test_simulate_writes_a_page(project: Place, hwq: Hwq) -> None:
    done = hwq("simulate", project.run, "--build", "native", "--images", 4)
    assert done.code == 0, done.err
    page = project.run / "hls" / "report.html"
    assert done.out.splitlines()[-1] == f"report: {page}"
    assert "PROVEN bit-exact" in page.read_text(encoding="utf-8")
