"""What counts as an edited project."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from hwq.cosim.manifest import read_manifest
from hwq.errors import InputError

FILES = {"src/top.cpp": "int top;\n", "src/weights/conv1.h": "1, 2, 3\n", "README.md": "hello\n"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    write(tmp_path)
    return tmp_path


def write(folder: Path, **changes: Any) -> None:
    raw = {
        "hwq": "0",
        "abi": 1,
        "ops": [{"name": "conv1", "kind": "Conv2d"}],
        "files": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in FILES.items()},
        "sources": ["src/top.cpp"],
        "includes": ["src"],
        "constants": {"src/weights/conv1.h": "conv1"},
    }
    (folder / "project.json").write_text(json.dumps({**raw, **changes}))


def test_untouched(project: Path) -> None:
    assert read_manifest(project).edits() == []


def test_every_kind_of_edit_is_named(project: Path) -> None:
    (project / "src/weights/conv1.h").write_text("1, 2, 4\n")
    (project / "src/top.cpp").unlink()
    (project / "src/ap_int.h").write_text("// in the way\n")
    (project / "notes.h").write_text("// not in a folder of sources\n")
    (project / "src/notes.txt").write_text("no code\n")
    assert [str(edit) for edit in read_manifest(project).edits()] == [
        "src/top.cpp (missing)",
        "src/weights/conv1.h (edited; constants of op 'conv1')",
        "src/ap_int.h (added)",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"abi": 2}, "has ABI 2"),
        ({"files": []}, "damaged"),
        ({"files": {}}, "damaged"),
        ({"files": {"a": 1}}, "damaged"),
        ({"ops": [{}]}, "damaged"),
        ({"files": {"../../etc/passwd": "0"}}, "outside the project"),
        ({"sources": []}, "damaged"),
        ({"sources": ["/src/top.cpp"]}, "outside the project"),
        ({"sources": ["src/other.cpp"]}, "does not list"),
        ({"includes": ["../x"]}, "outside the project"),
        ({"includes": ["-fplugin=x"]}, "outside the project"),
        ({"includes": None}, "damaged"),
        ({"files": {"/etc/passwd": "0"}}, "outside the project"),
    ],
)
def test_damaged(project: Path, changes: dict[str, Any], message: str) -> None:
    write(project, **changes)
    with pytest.raises(InputError, match=message):
        read_manifest(project)


def test_no_project(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not an exported project: it has no project\.json"):
        read_manifest(tmp_path)
    (tmp_path / "project.json").write_text("{")
    with pytest.raises(InputError, match=r"not valid JSON.*; export"):
        read_manifest(tmp_path)
    (tmp_path / "project.json").write_text("[]")
    with pytest.raises(InputError, match=r"must hold a table.*; export"):
        read_manifest(tmp_path)
