"""Decoded folders on the disk: a second run need not decode them again."""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq.files import cache_folder

Arrays = dict[str, npt.NDArray[Any]]


def read_cache(key: str) -> Arrays | None:
    """What `write_cache` stored under the key; None when it is not there or damaged."""
    try:
        with np.load(cache_folder() / f"{key}.npz", allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}  # checks the zip's checksums
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def write_cache(key: str, arrays: Arrays) -> None:
    """Best effort: a full or read-only disk only costs the work next time. Outdated entries are removed."""
    folder = cache_folder()
    temporary = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, suffix=".part")
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, **dict[str, Any](arrays))
        for old in folder.glob(f"{key.split('-')[0]}-*.npz"):
            old.unlink(missing_ok=True)
        Path(temporary).replace(folder / f"{key}.npz")
    except OSError:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
