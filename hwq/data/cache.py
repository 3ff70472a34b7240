"""Decoded folders on the disk: a second run need not decode them again."""

from __future__ import annotations

import zipfile
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq.errors import InputError
from hwq.files import cache_folder, open_regular, replacing

Arrays = dict[str, npt.NDArray[Any]]


def read_cache(key: str) -> Arrays | None:
    """What `write_cache` stored under the key; None when it is not there or damaged."""
    try:
        with open_regular(cache_folder() / f"{key}.npz") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}  # checks the zip's checksums
    except (InputError, OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def write_cache(key: str, arrays: Arrays) -> None:
    """Best effort: a full or read-only disk only costs the work next time. Outdated entries are removed."""
    folder = cache_folder()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / f"{key}.npz") as temporary:
            with temporary.open("wb") as stream:
                np.savez(stream, **dict[str, Any](arrays))
            for old in folder.glob(f"{key.split('-')[0]}-*.npz"):
                old.unlink(missing_ok=True)
