"""Writes every op's codes to an .npz file."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq.cosim.taps import TapPlan
from hwq.errors import InputError
from hwq.files import replacing

MAX_BYTES = 2 << 30


class TraceFile:
    """A sink for `cosimulate` that keeps the C++'s taps; `write` makes one (N, *shape) array an op.

    Raises InputError when the trace would pass 2 GiB.
    """

    def __init__(self, path: Path, plan: TapPlan, count: int) -> None:
        size = plan.image_bytes * count
        if size > MAX_BYTES:
            fitting = MAX_BYTES // plan.image_bytes
            raise InputError(
                f"a trace of {count} images takes {size >> 20} MiB; --images {fitting} would fit"
            )
        if not path.parent.is_dir():
            raise InputError(f"{path.parent}: no such folder for the trace")
        self.path = path
        self._arrays = {tap.op: np.empty((count, *tap.shape), tap.dtype) for tap in plan.taps}

    def __call__(self, first_image: int, taps: Mapping[str, npt.NDArray[Any]]) -> None:
        for op, codes in taps.items():
            self._arrays[op][first_image : first_image + len(codes)] = codes

    def write(self) -> None:
        """One member an op, in one step. np.savez is not used: it takes no op called 'file'."""
        with (
            replacing(self.path) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        ):
            for op, codes in self._arrays.items():
                with archive.open(f"{op}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, codes, allow_pickle=False)
