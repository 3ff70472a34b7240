"""Results that consist of many files take the place of earlier ones: all of them, whatever happens.

They are made in a folder beside their places. Then a note of what is to be moved is written there, and from
then on the installation is finished by whoever comes next: this process, or after a kill the next one
(`recover`). A disk that refuses in between has everything moved back.

    .NAME.hwq-XXXXXXXX/new/...     the results
                       old/...     what they replace
                       moves.json  the note; there only while things move
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from hwq.errors import InputError
from hwq.files.leftovers import JOURNAL, adopted, dead_folders
from hwq.files.parsing import read_json
from hwq.files.writing import write_atomically

NEW, OLD = "new", "old"


def install(staging: Path, into: Path, *, old: Sequence[str]) -> None:
    """Move all of `staging`/new into the folder `into`, and its entries `old` out. Raises OSError.

    staging: a `fresh_folder` on the same file system. Ctrl-C and SIGTERM wait until it is done.
    """
    new = sorted(entry.name for entry in os.scandir(staging / NEW))
    (staging / OLD).mkdir(exist_ok=True)
    with _undisturbed():
        write_atomically(staging / JOURNAL, json.dumps({"new": new, "old": sorted(old)}))
        try:
            _forward(staging, into, new, sorted(old))
        except OSError:
            _back(staging, into, new, sorted(old))
            raise


def recover(into: Path, name: str) -> None:
    """Finish what a killed process began to install from its folders of `fresh_folder(.., name)`.

    Never raises: what cannot be finished stays for the next time.
    """
    for staging in dead_folders(into, name):
        if not (staging / JOURNAL).exists():
            continue
        with suppress(OSError, InputError), adopted(staging), _undisturbed():
            moves = read_json(staging / JOURNAL, dict)
            new, old = (_names(moves.get(key)) for key in (NEW, OLD))
            _forward(staging, into, new, old)


def _names(listed: object) -> list[str]:
    names = listed if isinstance(listed, list) else []
    return [n for n in names if isinstance(n, str) and Path(n).name == n and n != ".."]


def _forward(staging: Path, into: Path, new: Sequence[str], old: Sequence[str]) -> None:
    """All moves that have not been made yet. Each leaves a trace, so that none is made twice."""
    for name in old:
        moved = _there(staging / OLD / name) or (name in new and not _there(staging / NEW / name))
        if not moved and _there(into / name):
            (into / name).rename(staging / OLD / name)
    for name in new:
        if _there(staging / NEW / name):
            (staging / NEW / name).rename(into / name)
    (staging / JOURNAL).unlink()


def _back(staging: Path, into: Path, new: Sequence[str], old: Sequence[str]) -> None:
    """All moves undone; where the disk refuses that, too, `recover` goes on with what is left."""
    with suppress(OSError):
        for name in new:
            if not _there(staging / NEW / name) and _there(into / name):
                (into / name).rename(staging / NEW / name)
        for name in old:
            if _there(staging / OLD / name):
                (staging / OLD / name).rename(into / name)
        (staging / JOURNAL).unlink()


def _there(path: Path) -> bool:
    return os.path.lexists(path)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals that end a process are delivered at the end. Moving takes milliseconds."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
