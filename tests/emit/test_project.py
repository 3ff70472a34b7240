"""Writing a project: all or nothing, and never over something else."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import jinja2
import pytest

from hwq import assets
from hwq.cosim.manifest import read_manifest
from hwq.emit import Project, emit
from hwq.emit.render import environment
from hwq.errors import InputError, ToolError, UnsupportedError
from hwq.fixed import FixedType, LiteralFormat
from hwq.serde import dump
from tests.emit.conftest import Maker, every_op, residual


def _content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_write_and_replace(tmp_path: Path) -> None:
    first, second = emit(residual()), emit(every_op())
    target = tmp_path / "a" / "out"
    first.write(target)
    assert _content(target) == first.files
    second.write(target)
    assert _content(target) == second.files
    assert [p.name for p in target.parent.iterdir()] == ["out"]
    with pytest.raises(InputError, match="holds a project already"):
        first.write(target, replace=False)


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    emit(residual()).write(target)
    assert (target / "project.json").is_file()


@pytest.mark.parametrize("manifest", [None, "{}", "not json", "[]"])
def test_a_foreign_folder_is_refused(tmp_path: Path, manifest: str | None) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    if manifest is not None:
        (tmp_path / "project.json").write_text(manifest)
    before = _content(tmp_path)
    with pytest.raises(InputError, match="no hwq project"):
        emit(residual()).write(tmp_path)
    assert _content(tmp_path) == before


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        emit(residual()).write(tmp_path / "out")
    with pytest.raises(ToolError, match="cannot write"):
        emit(residual()).write(tmp_path / "out" / "deeper")


def test_a_dangling_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="link to nowhere"):
        emit(residual()).write(tmp_path / "out")


def test_a_linked_project_is_replaced_in_place(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    emit(residual()).write(real)
    link.symlink_to(real)
    emit(every_op()).write(link)
    assert link.is_symlink()
    assert (real / "firmware" / "ops" / "stem.h").is_file()


@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
def test_failures_leave_the_old_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """A full disk while files are written, or a refused rename: the earlier result stays whole."""
    target = tmp_path / "out"
    old = emit(residual())
    old.write(target)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    if call == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    elif call == "mkdir":
        monkeypatch.setattr(Path, "mkdir", full)
    else:
        real = Path.rename

        def second_fails(self: Path, other: Path) -> Path:
            if self.parent.name == "new":
                full()
            return real(self, other)

        monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(ToolError, match="No space left on device"):
        emit(every_op()).write(target)
    assert _content(target) == old.files
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_parent(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(ToolError, match="Permission denied"):
            emit(residual()).write(tmp_path / "out")
    finally:
        tmp_path.chmod(0o755)


def test_manifest(tmp_path: Path) -> None:
    graph = every_op()
    project = emit(graph, fixed="16,auto", bound=lambda digest: dump(graph, digest)["graph.json"])
    raw = json.loads(project.files["project.json"])
    assert raw["abi"] == 1
    assert [op["name"] for op in raw["ops"]] == [op.name for op in graph]
    assert set(raw["files"]) == set(project.files) - {"project.json"}
    for name, digest in raw["files"].items():
        assert hashlib.sha256(project.files[name]).hexdigest() == digest
    assert raw["constants"]["firmware/ops/stem_act.h"] == "stem.act"
    assert raw["constants"]["weights/stem.weight.npy"] == "stem"
    assert set(raw["constants"]) <= set(raw["files"])
    assert json.loads(project.files["graph.json"])["project"] == raw["digest"]
    project.write(tmp_path / "out")
    assert read_manifest(tmp_path / "out").edits() == []


def test_same_graph_same_digest() -> None:
    assert emit(every_op()).digest() == emit(every_op()).digest()
    assert emit(every_op()).digest() != emit(residual()).digest()
    assert Project({"a": b"x"}).digest() != Project({"a": b"y"}).digest()


def test_sums_no_build_can_hold_are_refused() -> None:
    m = Maker((2, 2, 1))
    wide = LiteralFormat(FixedType(width=64, integer=10))
    x = m.requant("a", m.input, form=wide)
    huge = LiteralFormat(FixedType(width=8, integer=200))
    m.requant("b", x, form=huge)
    made = m.finish()
    big = made["b"].requant  # type: ignore[attr-defined]
    big.terms[0].raw.setflags(write=True)
    big.terms[0].raw[:] = 100
    with pytest.raises(UnsupportedError, match="op 'b'"):
        emit(made)


def test_templates_are_strict() -> None:
    env = environment()
    with pytest.raises(jinja2.UndefinedError):
        env.get_template("top.h.j2").render({})
    names = {p.name for p in (assets.folder("templates") / "project").iterdir()}
    assert set(env.list_templates()) == names


def test_no_template_computes() -> None:
    for path in (assets.folder("templates") / "project").iterdir():
        text = path.read_text()
        for hole in text.split("{{")[1:]:
            inside = hole.split("}}")[0].strip().strip("-").strip()
            quoted = inside.startswith('"')
            assert quoted or not any(sign in inside for sign in "+*/%"), (path.name, inside)
