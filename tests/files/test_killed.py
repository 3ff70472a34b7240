"""Killed at every file operation: nothing earlier is lost, the next one starts, nothing stays behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hwq.emit.project import Project, recover_project
from hwq.files import contents, dead_folders, fresh_folder, install, recover, run_lock, write_atomically
from hwq.files.leftovers import _seen, temporary_name
from hwq.files.locks import InUse, ours
from tests.files.killing import at_every_operation, operations


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    _seen.clear()  # as a process that is new


def names(folder: Path) -> list[str]:
    """Hidden ones, too."""
    return [path.name for path in folder.iterdir()]


def tree(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_harness_kills_where_it_says(place: Path) -> None:
    def work() -> None:
        for name in "abc":
            (place / name).write_text(name)

    assert operations(work, place) == 3
    emptied(place)
    assert operations(work, place, kill_at=2) is None
    assert sorted(tree(place)) == ["a", "b"]
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        operations(lambda: 1 / 0, place)


def test_one_file(place: Path) -> None:
    def prepare() -> None:
        emptied(place)
        (place / "x").write_text("old")

    def check() -> None:
        _seen.clear()
        assert (place / "x").read_text() in ("old", "new")
        write_atomically(place / "x", "again")
        assert tree(place) == {"x": "again"}

    assert at_every_operation(lambda: write_atomically(place / "x", "new"), place, prepare, check) >= 5


def project(version: str) -> Project:
    return Project(
        {"project.json": f'{{"hwq": "{version}", "files": {{}}}}'.encode(), "src/a.cpp": version.encode()}
    )


@pytest.mark.parametrize("link", [False, True])
def test_a_project(link: bool, place: Path) -> None:
    folder = place / ("link" if link else "hls")

    def prepare() -> None:
        emptied(place)
        if link:
            folder.symlink_to("hls")
            (place / "hls").mkdir()
        project("1").write(folder)

    def check() -> None:
        before = tree(place)
        recover_project(folder)  # as `hwq simulate` and a new `hwq export` begin
        found = {name: text for name, text in tree(place).items() if name.startswith("hls/")}
        assert found["hls/src/a.cpp"] in ("1", "2"), before
        assert found == {f"hls/{n}": c.decode() for n, c in project(found["hls/src/a.cpp"]).files.items()}
        project("3").write(folder)
        assert sorted(tree(place)) == ["hls/project.json", "hls/src/a.cpp"]
        assert set(tree(place / "hls").values()) == {c.decode() for c in project("3").files.values()}
        assert {p.name for p in place.iterdir()} == {"hls", folder.name}

    assert at_every_operation(lambda: project("2").write(folder), place, prepare, check) > 15


def _installed(into: Path, version: str, names: str, old: str) -> None:
    with run_lock(into):
        recover(into, "demo")
        with fresh_folder(into, "demo") as staging:
            for name in names:
                (staging / "new" / name).mkdir(parents=True)
                (staging / "new" / name / "file").write_text(version)
            install(staging, into, old=list(old))


def test_many_results_together(place: Path) -> None:
    """Some new, some gone, some replaced, and what is not the installer's."""

    def prepare() -> None:
        emptied(place)
        (place / "mine").write_text("mine")
        _installed(place, "1", "abc", "")

    def check() -> None:
        with run_lock(place):
            recover(place, "demo")
        found = tree(place)
        assert found.pop("mine") == "mine"
        found = {name: text for name, text in found.items() if not ours(name.split("/")[0])}
        assert found in (
            {f"{name}/file": "1" for name in "abc"},
            {f"{name}/file": "2" for name in "bcd"},
        )
        _installed(place, "3", "ae", "".join(name[0] for name in found))
        assert tree(place) == {"a/file": "3", "e/file": "3", "mine": "mine"}
        assert contents(place) == names(place)

    assert at_every_operation(lambda: _installed(place, "2", "bcd", "abc"), place, prepare, check) > 20


def test_a_disk_that_refuses_in_between_has_all_moved_back(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = Path.rename, [0]

    def rename(self: Path, target: Path) -> Path:
        if left[0] == 0:
            left[0] = -1
            raise OSError(5, "Input/output error")
        left[0] -= 1
        return real(self, target)

    for moves in range(4):
        emptied(place)
        _installed(place, "1", "ab", "")
        monkeypatch.setattr(Path, "rename", rename)
        left[0] = moves
        with pytest.raises(OSError, match="Input/output error"):
            _installed(place, "2", "ab", "ab")
        monkeypatch.setattr(Path, "rename", real)
        assert tree(place) == {"a/file": "1", "b/file": "1"}, moves
        assert contents(place) == names(place)


def test_what_is_to_be_finished_is_not_removed(place: Path) -> None:
    dead = place / temporary_name("demo")
    (dead / "old").mkdir(parents=True)
    (dead / "moves.json").write_text('{"new": [], "old": ["x"]}')
    with fresh_folder(place, "demo"):  # removes what dead ones left
        assert dead.exists()
    (dead / "moves.json").unlink()
    with fresh_folder(place, "demo"):
        assert not dead.exists()


def test_a_living_process_keeps_its_folder(place: Path) -> None:
    with fresh_folder(place, "demo") as staging:
        (staging / "moves.json").write_text('{"new": ["x"], "old": []}')
        with fresh_folder(place, "demo") as other:
            recover(place, "demo")
            assert sorted(dead_folders(place, "demo")) == sorted([staging, other])
        (staging / "moves.json").unlink()
    assert contents(place) == names(place) == []


# -- locks


def _while_another_holds(folder: Path, then: Callable[[], None], *, shared: bool = False) -> None:
    """`then`, while a fork holds the lock; the fork is killed afterwards."""
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        import sys

        sys.argv = ["/usr/bin/hwq", "train", "--out", "a folder"]
        with run_lock(folder, shared=shared):
            os.write(tell, b"x")
            os.read(os.open("/dev/zero", os.O_RDONLY), 1)
            import time

            time.sleep(60)
        os._exit(0)
    try:
        assert os.read(ready, 1) == b"x"
        then()
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(tell)


def test_the_second_writer_is_told_who_the_first_is(place: Path) -> None:
    def second() -> None:
        assert contents(place) == []
        for shared in (False, True):
            with pytest.raises(InUse) as caught, run_lock(place, shared=shared):
                pass
            line = str(caught.value)
            assert line.startswith(f"{place}: in use by `hwq train --out 'a folder'` (process ")
            assert ", since 20" in line

    _while_another_holds(place, second)
    with run_lock(place):  # a dead one holds nothing
        pass
    assert names(place) == []


def test_sharing(place: Path) -> None:
    def second() -> None:
        with run_lock(place, shared=True), pytest.raises(InUse), run_lock(place):
            pass
        assert len(names(place)) == 1  # the lock that the other still holds

    _while_another_holds(place, second, shared=True)


def test_a_folder_made_for_a_lock_goes_with_it(place: Path) -> None:
    with run_lock(place / "a" / "b"):
        assert contents(place / "a" / "b") == []
    assert names(place) == []
    with run_lock(place / "a" / "b"):
        (place / "a" / "b" / "x").touch()
    assert names(place / "a" / "b") == ["x"]
