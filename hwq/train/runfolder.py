"""The files of a run folder, and which folders may become one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hwq.errors import InputError
from hwq.files import DOCUMENT, check_writable, contents, read_bytes, remove_dead, run_lock, write_atomically
from hwq.train.checkpoint import LAST, find

METRICS, RECIPE, BOARD = "metrics.jsonl", "recipe.toml", "tensorboard"
SUMMARY = "calibration.json"


def check_out(out: Path, resume: bool) -> None:
    """Raise InputError or OSError, before any work is done, for a folder that cannot be the run's."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; --out takes a folder")
    check_writable(out)
    begun = {METRICS, RECIPE, BOARD, SUMMARY}  # a kill before the first checkpoint leaves no more
    there = set(contents(out))
    if resume:
        if there and there <= begun:
            raise InputError(f"{out}: ended before anything was saved; begin it again, without --resume")
        find(out)
        return
    if (out / LAST).exists():
        raise InputError(f"{out}: holds a run already; --resume goes on with it, or choose another --out")
    if not there <= begun:
        raise InputError(f"{out}: is not empty and not a run of `hwq train`; choose another --out")


@contextmanager
def writing_run(out: Path, *, resume: bool) -> Iterator[None]:
    """Hold the folder as its only writer. Raises as `check_out` does, and InUse."""
    if out.is_dir():
        check_writable(out)  # in its own words
    else:
        check_out(out, resume)
    with run_lock(out):
        check_out(out, resume)  # now that no other process writes there
        yield


def add_metrics(out: Path, row: dict[str, Any]) -> None:
    """One more line of metrics.jsonl; written before the epoch's checkpoint, so that a kill loses none."""
    with (out / METRICS).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def tidy(out: Path, epochs: int) -> None:
    """Going on after `epochs` epochs: without later lines of metrics, and what a kill left half-written."""
    path = out / METRICS
    if path.exists():
        lines = read_bytes(path, limit=DOCUMENT).split(b"\n")[:epochs]
        write_atomically(path, b"".join(line + b"\n" for line in lines if line))
    remove_dead(out, again=True)
