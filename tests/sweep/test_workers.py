"""Worker processes: the same rows as without, a killed worker, clusters that are not there."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hwq.errors import InputError, ToolError
from hwq.sweep import BACKENDS, Backend, Candidate, Point, Store, Sweep, Workers, WorkersLost, each, workers
from hwq.sweep import run as run_module
from tests.sweep.networks import lower_three, network

POINTS = [Point.parse(name) for name in ("real", "8,4", "4,2", "16,auto")]


class Notes:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def images(self, point: Point, done: int) -> None: ...

    def note(self, text: str) -> None:
        self.texts.append(text)


def sequential(folder: Path) -> list[dict[str, Any]]:
    return Sweep(network(), Store.open(folder / "alone.csv")).rows(POINTS)


def _arrive(folder: str, deadly: bool, fields: dict[str, Any]) -> Candidate:
    """In a worker: leaves its id; the first to meet a deadly candidate is killed."""
    Path(folder, str(os.getpid())).touch()
    if deadly:
        try:
            Path(folder, "died").touch(exist_ok=False)
        except FileExistsError:
            return Traced(**fields)
        os.kill(os.getpid(), signal.SIGKILL)
    return Traced(**fields)


class Traced(Candidate):
    """Tells where it was unpickled."""

    folder = ""
    deadly = False

    def __reduce__(self) -> Any:
        fields = {name: getattr(self, name) for name in ("graph", "real", "saturated", "vanished", "harmful")}
        return _arrive, (self.folder, self.deadly, fields)


class Deadly(Traced):
    deadly = True


def lower_traced(point: Point) -> Candidate:
    made = lower_three(point)
    kind = Deadly if point.name == "4,2" else Traced
    fields = ("graph", "real", "saturated", "vanished", "harmful")
    return kind(**{name: getattr(made, name) for name in fields})


def test_a_killed_worker_loses_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 in mid-sweep: rows done are kept, the others tried again, and all are as without workers."""
    monkeypatch.setattr(Traced, "folder", str(tmp_path))
    notes = Notes()
    store = Store.open(tmp_path / "s.csv")
    sweep = Sweep(network(lower_traced), store, workers=Workers(jobs=2), watcher=notes)
    rows = sweep.rows(POINTS)
    assert (tmp_path / "died").exists()
    assert len(notes.texts) == 1
    assert "a worker died" in notes.texts[0]
    assert rows == sequential(tmp_path)
    assert sorted(row["format"] for row in Store.open(tmp_path / "s.csv").rows) == sorted(
        p.name for p in POINTS
    )


def _lost(times: int) -> Callable[..., Iterator[Any]]:
    """`each` that loses its pool so many times, after one result each time; no processes."""
    left = [times]

    def fake(_: Workers, work: Callable[..., Any], calls: Any) -> Iterator[Any]:
        for number, (key, arguments) in enumerate(calls):
            if number == 1 and left[0]:
                left[0] -= 1
                raise WorkersLost("TerminatedWorkerError: killed")
            yield key, work(*arguments)

    return fake


def test_workers_that_die_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clear line; the rows done are kept, and the next sweep does only the others."""
    monkeypatch.setattr(run_module, "each", _lost(2))
    store = Store.open(tmp_path / "s.csv")
    with pytest.raises(ToolError, match=r"3 rows are in .*s.json: run the same command again"):
        Sweep(network(), store, workers=Workers(jobs=1)).rows(POINTS)
    assert [row["format"] for row in Store.open(tmp_path / "s.csv").rows] == ["real", "8,4", "4,2"]
    assert Sweep(network(), store).rows(POINTS) == sequential(tmp_path)


def test_workers_that_die_once_more_than_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "each", _lost(1))
    sweep = Sweep(network(), Store.open(tmp_path / "s.csv"), workers=Workers(jobs=1))
    assert sweep.rows(POINTS) == sequential(tmp_path)


@pytest.mark.parametrize(("backend", "module", "jobs"), [("dask", "distributed", 2), ("ray", "ray", 2)])
def test_a_local_cluster(
    tmp_path: Path, backend: Backend, module: str, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers: with one, joblib does the work here."""
    pytest.importorskip(module, reason=f"pip install 'hwq[{backend}]' to test it")
    monkeypatch.setattr(Traced, "folder", str(tmp_path))
    monkeypatch.setattr(Deadly, "deadly", False)
    store = Store.open(tmp_path / "s.csv")
    sweep = Sweep(network(lower_traced), store, workers=Workers(backend=backend, jobs=jobs))
    rows = sweep.rows(POINTS)
    processes = {int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()}
    assert processes - {os.getpid()}  # dask's client unpickles what it sends, and pickles it again
    assert rows == sequential(tmp_path)


@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_a_missing_extra(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed" if backend == "dask" else "ray", None)
    with pytest.raises(InputError, match=rf"pip install 'hwq\[{backend}\]'"):
        next(each(Workers(backend=backend), print, []))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize("backend", ["dask", "ray"])
@pytest.mark.parametrize(
    ("address", "kind", "words"),
    [
        ("127.0.0.1:{closed}", ToolError, "no cluster answers at 127.0.0.1:.*refused"),
        ("127.0.0.1:{mute}", ToolError, "no cluster answers at 127.0.0.1:.*check --address"),
        ("no.such.host.invalid:99", ToolError, "no cluster answers at no.such.host"),
        ("tcp://:x", InputError, "write HOST:PORT"),
        ("host:99999999", InputError, "write HOST:PORT"),
    ],
)
def test_an_unreachable_cluster(
    backend: Backend, address: str, kind: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line and a time limit, also where something listens that never answers."""
    pytest.importorskip("distributed" if backend == "dask" else "ray", reason="an optional extra")
    monkeypatch.setattr(workers, "CONNECT_SECONDS", 0.3)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        where = address.format(closed=_free_port(), mute=mute.getsockname()[1])
        with pytest.raises(kind, match=words) as caught:
            next(each(Workers(backend=backend, address=where), print, []))
    assert "\n" not in str(caught.value)


def test_an_address_for_workers_that_run_here() -> None:
    with pytest.raises(InputError, match="goes with --backend dask or ray"):
        Workers(address="host:1")


def test_every_backend_has_its_extra() -> None:
    """The names that messages and pyproject give."""
    project = importlib.import_module("tomllib").loads(
        (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    )
    assert set(BACKENDS) - {"loky"} <= set(project["project"]["optional-dependencies"])
