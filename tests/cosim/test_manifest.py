"""What counts as an edited project."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hwq.cosim.manifest import read_manifest
from hwq.emit.project import manifest_digest
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
    raw |= changes
    with suppress(AttributeError):  # damaged on purpose
        raw["digest"] = manifest_digest(raw)
    (folder / "project.json").write_text(json.dumps(raw))


def test_untouched(project: Path) -> None:
    assert read_manifest(project).edits() == []


def test_every_kind_of_edit_is_named(project: Path) -> None:
    (project / "src/weights/conv1.h").write_text("1, 2, 4\n")
    (project / "src/top.cpp").unlink()
    (project / "src/ap_int.h").write_text("// in the way\n")
    (project / "notes.h").write_text("// not in a folder of sources\n")
    (project / "src/vector").write_text("// in the way of a standard header\n")
    (project / "src/deep/er").mkdir(parents=True)
    (project / "src/deep/er/x.inc").symlink_to("/nowhere")
    (project / "src/elsewhere").symlink_to("/tmp")
    assert [str(edit) for edit in read_manifest(project).edits()] == [
        "src/top.cpp (missing)",
        "src/weights/conv1.h (edited; constants of op 'conv1')",
        "src/ap_int.h (added)",
        "src/deep/er/x.inc (added)",
        "src/elsewhere (added)",
        "src/vector (added)",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"abi": 2}, "has ABI 2"),
        ({"files": []}, "damaged"),
        ({"files": {}}, "damaged"),
        ({"files": {"a": 1}}, "damaged"),
        ({"ops": [{}]}, "damaged"),
        ({"sources": []}, "damaged"),
        ({"sources": ["src/other.cpp"]}, "does not list"),
        ({"sources": ["README.md"]}, "not C\\+\\+"),  # the linker takes it for a script
        ({"includes": None}, "damaged"),
        ({"includes": ["elsewhere"]}, "folders of none of its files"),
    ],
)
def test_damaged(project: Path, changes: dict[str, Any], message: str) -> None:
    write(project, **changes)
    with pytest.raises(InputError, match=message):
        read_manifest(project)


@pytest.mark.parametrize(
    "name",
    [
        *("/etc/passwd", "../x", "src/../../x", "..", ".", "src/..", "./src", "src//top.cpp", "src/", ""),
        *("@file", "src/@file", "-fplugin=x", "src/-x", "--", ".hidden", "src/.x.cpp"),
        *("a b", "a\nb", "a;b", "$(x)", "`x`", "a'b", 'a"b', "a\\b", "C:x", "a\0b", "\x1b[31m", "\u00e9"),
    ],
)
@pytest.mark.parametrize("field", ["files", "sources", "includes"])
def test_only_plain_paths(project: Path, field: str, name: str) -> None:
    write(project, **{field: {name: "0"} if field == "files" else [name]})
    with pytest.raises(InputError, match="not a plain path inside the project") as caught:
        read_manifest(project)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["src/top.cpp", "src"])
def test_links_out_of_the_project(project: Path, tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    outside = tmp_path_factory.mktemp("outside") / "there"
    (project / name).rename(outside)
    (project / name).symlink_to(outside)
    with pytest.raises(InputError, match="leads outside the project"):
        read_manifest(project)


def test_a_link_within_the_project_is_its_content(project: Path) -> None:
    (project / "src/top.cpp").rename(project / "kept.cpp")
    (project / "src/top.cpp").symlink_to("../kept.cpp")
    assert read_manifest(project).edits() == []


def test_a_manifest_without_its_digest_is_an_edit(project: Path) -> None:
    raw = json.loads((project / "project.json").read_text())
    del raw["digest"]
    (project / "project.json").write_text(json.dumps(raw))
    assert [str(edit) for edit in read_manifest(project).edits()] == ["project.json (without its digest)"]


def test_no_project(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not an exported project: it has no project\.json"):
        read_manifest(tmp_path)
    (tmp_path / "project.json").write_text("{")
    with pytest.raises(InputError, match=r"not valid JSON.*; export"):
        read_manifest(tmp_path)
    (tmp_path / "project.json").write_text("[]")
    with pytest.raises(InputError, match=r"must hold a table.*; export"):
        read_manifest(tmp_path)
