"""What a data set is to the rest of hwq: a name, and two splits of uint8 images in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hwq.errors import InputError

NAMES = ("digits", "cifar10", "cifar100", "folder")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """name: one of `NAMES`; root: the folder (folder, cifar*); download: fetch cifar* when missing."""

    name: str
    root: str | None = None
    download: bool = False

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise InputError(f"unknown data set '{self.name}'; known: {', '.join(NAMES)} (folder:/path)")
        if self.name == "folder" and not self.root:
            raise InputError("a folder data set needs its path: folder:/path")

    @staticmethod
    def parse(text: str, *, download: bool = False) -> DataSpec:
        """'digits', 'cifar10', 'cifar10:/root' or 'folder:/root'; the path becomes absolute."""
        name, _, root = text.partition(":")
        path = str(Path(root).expanduser().resolve()) if root else None
        return DataSpec(name=name, root=path, download=download)

    def __str__(self) -> str:
        return f"{self.name}:{self.root}" if self.root else self.name


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Images:
    """pixels: uint8 (N, H, W, C); labels: int64 (N,), indices into `classes`."""

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.dtype != np.uint8:
            raise InputError(
                f"images must be uint8 (N, H, W, C), not {self.pixels.dtype} {self.pixels.shape}"
            )
        if len(self.pixels) != len(self.labels) or len(self.labels) == 0:
            raise InputError(f"{len(self.pixels)} images and {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one image."""
        h, w, c = self.pixels.shape[1:]
        return h, w, c

    def head(self, count: int) -> Images:
        """A sample of `count` images spread evenly over the split (all, if it has fewer)."""
        if count >= len(self):
            return self
        if count < 1:
            raise InputError(f"a sample has at least 1 image, not {count}")
        index = np.arange(count) * len(self) // count
        return Images(pixels=self.pixels[index], labels=self.labels[index], classes=self.classes)
