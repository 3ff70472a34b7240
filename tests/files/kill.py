"""`make kill`: whole commands killed at every one of their file operations.

    python -m tests.files.kill [--every N] [train resume calibrate export sweep demo]

After each kill: what stood there before is whole, the next one starts and ends as one that was never
killed, and nothing of the killed one stays. Networks are tiny; all processes are forks of this one, which
itself trains nothing (torch's backward pass does not survive a fork).
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from hwq.cli import route
from hwq.cli.export import ExportOptions, export_run
from hwq.cli.sweep import SweepOptions, sweep_run
from hwq.cosim.manifest import read_manifest
from hwq.cosim.project import find_project
from hwq.cosim.verdict import write_json
from hwq.files.leftovers import is_temporary
from hwq.sweep import Store
from hwq.train import Silent, load, train
from hwq.train.flags import calibration_recipe
from hwq.train.posttraining import Calibration, calibrate_run
from tests.files.killing import operations
from tests.train.runs import FLOAT, W4, assert_same, recipe, sample

Work = Callable[[], object]


class Place:
    """Folders of one part: what is there before, what a run without a kill leaves."""

    def __init__(self, root: Path, part: str) -> None:
        self.root, self.at, self.before, self.whole = (
            root,
            root / part,
            root / f"{part}.0",
            root / f"{part}.1",
        )

    def made(self, work: Work) -> None:
        """Run in a fork, for itself alone."""
        assert operations(work, self.root) is not None

    def kill(self, work: Work, again: Work, check: Work, every: int) -> int:
        """Kill `work` before every so-manyth operation; `check`, then `again`, then `check`."""
        count = operations(work, self.at)
        assert count is not None
        for number in range(0, count, every):
            shutil.rmtree(self.at, ignore_errors=True)
            if self.before.exists():
                shutil.copytree(self.before, self.at)
            assert operations(work, self.at, kill_at=number) is None
            try:
                self.made(check)
                self.made(again)
                self.made(check)
                left = [path for path in self.at.rglob(".*") if is_temporary(path.name)]
                assert not left, left  # a lock's file may stay: nobody holds it
            except BaseException as error:
                error.add_note(f"{self.at.name}: killed before operation {number} of {count}")
                raise
        return len(range(0, count, every))


def _train(out: Path, *, resume: bool = False) -> None:
    train(recipe(policy=W4, epochs=2), out, resume=resume, reporter=Silent(), test_images=sample())


def _train_or_resume(out: Path) -> None:
    _train(out, resume=(out / "checkpoint.safetensors").exists())


def fresh(root: Path, every: int) -> int:
    place = Place(root, "train")
    place.made(lambda: _train(place.whole))
    return _same_in_the_end(place, lambda: _train(place.at), every)


def resumed(root: Path, every: int) -> int:
    place = Place(root, "resume")
    place.made(lambda: _train(place.whole))
    place.made(lambda: _stopped(place.before))
    shutil.copytree(place.before, place.at)
    return _same_in_the_end(place, lambda: _train(place.at, resume=True), every)


def _stopped(out: Path) -> None:
    from hwq.train import Interrupted
    from tests.train.runs import run

    try:
        run(recipe(policy=W4, epochs=2), out, at=7)
    except Interrupted:
        return
    raise AssertionError("was not interrupted")


def _same_in_the_end(place: Place, work: Work, every: int) -> int:
    def check() -> None:
        stored = place.at / "checkpoint.safetensors"
        if stored.exists():
            load(stored)

    def again() -> None:
        _train_or_resume(place.at)
        assert_same(place.at, place.whole)

    return place.kill(work, again, check, every)


def calibrated(root: Path, every: int) -> int:
    place, source = Place(root, "calibrate"), root / "float"
    place.made(lambda: train(recipe(policy=FLOAT, epochs=1), source, test_images=sample()))

    def work() -> None:
        chosen = calibration_recipe(source, None, {"weight_bits": 4})
        calibrate_run(chosen, source, place.at, Calibration(images=64, test_images=50))

    def check() -> None:
        if (place.at / "checkpoint.safetensors").exists():
            load(place.at)

    def again() -> None:
        if not (place.at / "checkpoint.safetensors").exists():
            work()

    return place.kill(work, again, check, every)


def exported(root: Path, every: int) -> int:
    """Over an earlier export of another format."""
    place = Place(root, "export")
    formats = ("32,10", "24,8")

    def export(out: Path, form: str) -> None:
        export_run(out, ExportOptions(fixed=form, allow_lossy=True))

    place.made(lambda: _train(place.before))
    place.made(lambda: export(place.before, formats[0]))
    shutil.copytree(place.before, place.at)

    def check() -> None:
        manifest = read_manifest(find_project(place.at))
        assert manifest.raw["fixed"] in formats
        assert manifest.edits() == []

    def again() -> None:
        export(place.at, formats[1])
        assert read_manifest(place.at / "hls").raw["fixed"] == formats[1]

    return place.kill(lambda: export(place.at, formats[1]), again, check, every)


def swept(root: Path, every: int) -> int:
    """On top of an earlier sweep, whose rows must not be lost."""
    place = Place(root, "sweep")

    def sweep(out: Path, *formats: str) -> None:
        options = SweepOptions(
            fixed=formats,
            widths=None,
            integers=None,
            roundings="rnd",
            bits=None,
            edge_fixed="32,16",
            images=20,
            error_images=10,
            wrong_above=1.0,
            data=None,
            off_bits=None,
            threads=1,
            engine="torch",
            backend=None,
            jobs=None,
            address=None,
            within=None,
            mixed=None,
            check=0,
            check_ap=0,
            picture=True,
            out=None,
        )
        sweep_run(out, options)

    place.made(lambda: _train(place.before))
    place.made(lambda: sweep(place.before, "16,auto"))
    rows = {row["format"] for row in Store.open(place.before / "sweep.csv").rows}
    shutil.copytree(place.before, place.at)

    def check() -> None:
        assert {row["format"] for row in Store.open(place.at / "sweep.csv").rows} >= rows

    def again() -> None:
        sweep(place.at, "12,auto", "8,auto")
        found = {row["format"] for row in Store.open(place.at / "sweep.csv").rows}
        assert found == rows | {"12,auto", "8,auto"}

    return place.kill(lambda: sweep(place.at, "12,auto", "8,auto"), again, check, every)


def demonstrated(root: Path, every: int) -> int:
    """The demo's own files; its steps, which are tried above, are replaced by copies of their results."""
    place, run = Place(root, "demo"), root / "run"
    place.made(lambda: _train(run))
    place.made(lambda: export_run(run, ExportOptions(allow_lossy=True)))

    def demo(out: Path, version: str) -> None:
        def trained(where: Path, bits: int) -> object:
            shutil.copytree(run, where)
            return None

        route._train = trained  # type: ignore[assignment]
        route.export_run = lambda where, options: type("E", (), {"ops": 1, "macs": 1})()  # type: ignore[assignment]
        route._compare = lambda where, out, threads: []
        route._page = lambda *_: None  # type: ignore[assignment, return-value]
        route.write_report = lambda where, page: write_json(where / "report.html", {"version": version})  # type: ignore[assignment]
        route._summary = lambda *_: None
        route.demo(out, 4, 1)

    place.made(lambda: demo(place.before, "1"))
    (place.before / "mine.txt").write_text("mine")
    shutil.copytree(place.before, place.at)
    names = sorted(p.name for p in place.at.iterdir())

    def check() -> None:
        from hwq.files import contents, recover, run_lock

        with run_lock(place.at):
            recover(place.at, "demo")  # as the next demo begins
        assert sorted(contents(place.at)) == names
        assert (place.at / "mine.txt").read_text() == "mine"
        assert read_manifest(place.at / "hls").edits() == []
        assert load(place.at).meta.epoch == 2

    return place.kill(lambda: demo(place.at, "2"), lambda: demo(place.at, "3"), check, every)


PARTS = {
    "train": fresh,
    "resume": resumed,
    "calibrate": calibrated,
    "export": exported,
    "sweep": swept,
    "demo": demonstrated,
}


def kill(parts: Sequence[str], every: int = 1) -> dict[str, int]:
    """The kills of each part. AssertionError at the first that loses something."""
    torch.set_num_threads(1)
    found = {}
    for part in parts:
        with tempfile.TemporaryDirectory(prefix="hwq-kill-") as folder:
            found[part] = PARTS[part](Path(folder), every)
        print(f"{part}: {found[part]} kills, nothing lost", flush=True)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    parser.add_argument("--every", type=int, default=1, help="Only every so-manyth operation.")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    kill(given.parts, given.every)
