"""A project that is not as hwq wrote it: every change is named, and nothing of it is compiled or run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hwq.cosim.examine import FOREIGN, examine
from hwq.cosim.manifest import read_manifest
from hwq.emit.project import manifest_digest
from hwq.errors import InputError, MismatchError
from hwq.serde import GRAPH_JSON, GRAPH_TENSORS
from hwq.serde.files import _digest
from tests.cosim.conftest import hwq

Document = dict[str, Any]
FOLLOWS = ("name", "top", "sources", "includes", "ops", "constants", "folding")
"""Fields that follow from the graph: a change of them is found even where every digest is made anew."""


@pytest.fixture(autouse=True)
def _nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a project that was changed got to the compiler")

    monkeypatch.setattr("hwq.cosim.project.compile_project", never)
    monkeypatch.setattr("subprocess.Popen", never)


def refused(folder: Path) -> str:
    """The line that refuses it; "" where it is taken as it stands."""
    try:
        examine(read_manifest(folder), accept=False)
    except (InputError, MismatchError) as error:
        return str(error)
    return ""


def reseal(folder: Path, raw: Document) -> None:
    """Write a manifest with all digests made anew, as anyone can: of all files, its own, and graph.json's."""
    for name in raw["files"]:
        if (folder / name).is_file() and name != GRAPH_JSON:
            raw["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    raw["digest"] = manifest_digest(raw)
    graph = json.loads((folder / GRAPH_JSON).read_text())
    graph["project"] = raw["digest"]
    graph["digest"] = _digest(graph, hashlib.sha256((folder / GRAPH_TENSORS).read_bytes()).hexdigest())
    (folder / GRAPH_JSON).write_text(json.dumps(graph))
    if GRAPH_JSON in raw["files"]:
        raw["files"][GRAPH_JSON] = hashlib.sha256((folder / GRAPH_JSON).read_bytes()).hexdigest()
    (folder / "project.json").write_text(json.dumps(raw))


def other(value: Any) -> Any:
    """Another value of the same kind."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return f"{value}x"
        case list():
            return [*value, value[0]] if value else ["x"]
        case dict():
            return {**value, "x": next(iter(value.values()), "x")}
        case _:
            return 1


def changes(raw: Document) -> Iterator[tuple[str, Callable[[Document], None]]]:
    """A leaf changed, an entry deleted, a table or list longer by one: of every field, and of some entries
    of those that have many of one kind.
    """

    def walk(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[str, Callable[[Document], None]]]:
        def at(document: Document) -> Any:
            for key in path[:-1]:
                document = document[key]
            return document

        def change(document: Document) -> None:
            at(document)[path[-1]] = other(value)

        def delete(document: Document) -> None:
            del at(document)[path[-1]]

        if path:
            yield f"{'/'.join(map(str, path))} changed", change
            yield f"{'/'.join(map(str, path))} deleted", delete
        if isinstance(value, dict | list):
            items = list(value.items() if isinstance(value, dict) else enumerate(value))
            for place, (key, deeper) in enumerate(items):
                if not path or place % max(1, len(items) // 4) == 0 or key == GRAPH_JSON:
                    yield from walk(deeper, (*path, key))

    yield from walk(raw, ())


def test_untouched(project: Path) -> None:
    assert refused(project) == ""


def test_every_change_of_the_manifest_is_named(project: Path) -> None:
    path = project / "project.json"
    text = path.read_text()
    names = []
    for name, change in changes(json.loads(text)):
        raw = json.loads(text)
        change(raw)
        path.write_text(json.dumps(raw))
        line = refused(project)
        # the one entry that its digest leaves out is compared with the file
        assert ("graph.json (" if name.startswith("files/graph.json ") else "project.json") in line, name
        assert "\n" not in line
        names.append(name)
    path.write_text(text)
    assert refused(project) == ""
    assert len(names) > 200
    fields = {name.split("/")[0].split()[0] for name in names}
    assert fields == set(json.loads(text))


def test_what_follows_from_the_graph_is_found_whatever_the_digests_say(project: Path) -> None:
    before = {name: (project / name).read_bytes() for name in ("project.json", GRAPH_JSON)}
    raw = json.loads(before["project.json"])
    cases = [(name, change) for name, change in changes(raw) if name.split("/")[0].split()[0] in FOLLOWS]
    # writing the code anew takes a while: a field's first change of each kind
    chosen = {
        (name.split("/")[0].split()[0], name.count("/"), name.split()[-1]): (name, change)
        for name, change in cases
    }
    assert {key[0] for key in chosen} == set(FOLLOWS)
    for name, change in chosen.values():
        raw = json.loads(before["project.json"])
        change(raw)
        reseal(project, raw)
        line = refused(project)
        assert "project.json" in line or FOREIGN in line, name  # another folding is other code
    reseal(project, json.loads(before["project.json"]))
    assert refused(project) == ""


def test_every_file_edited_deleted_or_added_is_named(project: Path) -> None:
    listed = list(json.loads((project / "project.json").read_text())["files"])
    content = {name: (project / name).read_bytes() for name in listed}
    for turn in (0, 1):  # each file is edited in one turn and gone in the other
        for at, (name, text) in enumerate(content.items()):
            (project / name).write_bytes(text + b"\n")
            if at % 2 == turn:
                (project / name).unlink()
        words = {edit.path: edit.what for edit in read_manifest(project).edits()}
        words.pop("project.json", None)  # where no graph.json states its digest
        assert words == {name: ("edited", "missing")[at % 2 == turn] for at, name in enumerate(content)}
        assert "files missing" in refused(project)
    for name, text in content.items():
        (project / name).write_bytes(text)
    for name in ("x.h", "x.inc", "vector", ".hidden", "hwq_mac.h.gch", "deep/er/x"):
        for below in ("firmware", "firmware/ops", "hls", "sim"):
            path = project / below / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
            assert f"{below}/{name} (added)" in refused(project)
            path.unlink()
    assert refused(project) == ""


def test_code_that_hwq_did_not_write_is_found_whatever_the_digests_say(project: Path) -> None:
    before = {name: (project / name).read_bytes() for name in ("project.json", GRAPH_JSON)}
    names = [
        *json.loads(before["project.json"])["sources"],
        "firmware/project.h",
        "hls/hwq_mac.h",
        "sim/build.mk",
    ]
    names += ["firmware/ops/stem_conv.h"] if (project / "firmware/ops/stem_conv.h").exists() else []
    for name in names:
        content = (project / name).read_bytes()
        (project / name).write_bytes(content + b"// a remark\n")
        reseal(project, json.loads(before["project.json"]))
        assert f"{name} ({FOREIGN}" in refused(project)
        (project / name).write_bytes(content)
    raw = json.loads(before["project.json"])
    raw["files"]["firmware/vector"] = ""
    (project / "firmware/vector").write_text("// in the way of a standard header\n")
    reseal(project, raw)
    assert f"firmware/vector ({FOREIGN}" in refused(project)
    (project / "firmware/vector").unlink()


def test_another_graph_with_its_digests_is_other_code(project: Path) -> None:
    before = {name: (project / name).read_bytes() for name in ("project.json", GRAPH_JSON)}
    graph = json.loads(before[GRAPH_JSON])
    graph["ops"][0]["name"] = graph["ops"][1]["inputs"][0] = "x; touch pwned"
    (project / GRAPH_JSON).write_text(json.dumps(graph))
    reseal(project, json.loads(before["project.json"]))
    assert "project.json" in refused(project)


def test_the_command_is_one_line_and_writes_nothing(project: Path) -> None:
    raw = json.loads((project / "project.json").read_text())
    raw["accuracy"]["float"] = 99.9
    (project / "project.json").write_text(json.dumps(raw))
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    done = hwq("simulate", str(project), "--build", "native")
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"error: {project}: changed since export, nothing of it was compiled: project.json (edited)"
    )
    assert line.endswith("export again, or run it as it is with --accept-edits")
    assert before == {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}


def test_inspect_says_what_was_edited(project: Path) -> None:
    assert hwq("inspect", str(project)).stderr == ""
    path = project / GRAPH_JSON
    graph = json.loads(path.read_text())
    graph["ops"][0]["out"]["scale"] = 0.125
    path.write_text(json.dumps(graph))
    done = hwq("inspect", str(project), "--json")
    assert done.stderr == "changed since export: graph.json (edited)\n"
    assert json.loads(done.stdout)["edits"] == ["graph.json (edited)"]
    (project / "project.json").unlink()
    assert hwq("inspect", str(project)).stderr.splitlines() == [
        "changed since export: graph.json or graph.safetensors (edited)",
        "changed since export: project.json (missing)",
    ]


def test_code_of_a_stranger_runs_only_where_it_is_accepted(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its library would write a file as soon as it is loaded; every digest is right."""
    mark = tmp_path / "loaded"
    bridge = project / "sim" / "bridge.cpp"
    greet = f'__attribute__((constructor)) static void greet() {{ fclose(fopen("{mark}", "w")); }}'
    bridge.write_text(f"{bridge.read_text()}\n#include <stdio.h>\n{greet}\n")
    reseal(project, json.loads((project / "project.json").read_text()))
    arguments = ("simulate", str(project), "--build", "native", "--images", "1")
    done = hwq(*arguments)
    assert done.returncode == 1
    assert f"sim/bridge.cpp ({FOREIGN})" in done.stderr
    assert not mark.exists()
    monkeypatch.undo()
    done = hwq(*arguments, "--accept-edits")
    assert done.returncode == 0, done.stderr
    assert f"accepted: sim/bridge.cpp ({FOREIGN})" in done.stderr
    assert mark.exists()
