"""The files of one split: root/train/<class>/* and root/test (or val)/<class>/*."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hwq.errors import InputError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".gif", ".tif", ".tiff"})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Listing:
    """names: bytes, 'class/file' below `folder`, sorted. An array: a million of them cost little, and
    worker processes share it. labels: int64, indices into `classes`, the sorted names of the folders.
    """

    folder: Path
    names: npt.NDArray[np.bytes_]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> str:
        """Of one file."""
        return os.path.join(self.folder, os.fsdecode(self.names[index]))  # noqa: PTH118 (per image)

    def without(self, bad: npt.NDArray[np.int64]) -> Listing:
        """The others."""
        if not len(bad):
            return self
        keep = np.ones(len(self), dtype=bool)
        keep[bad] = False
        return Listing(
            folder=self.folder, names=self.names[keep], labels=self.labels[keep], classes=self.classes
        )

    def key(self, how: str) -> str:
        """<hash of the folder and `how`>-<hash of every name, size and time>.

        The first part finds entries of a cache that are out of date.
        """
        where = hashlib.sha256(f"{self.folder.resolve()}\0{how}".encode(errors="surrogateescape"))
        digest = hashlib.sha256(str(len(self)).encode())
        for index in range(len(self)):
            path = self.path(index)
            try:
                stat = os.stat(path)  # noqa: PTH116
                state = f"\0{stat.st_size}\0{stat.st_mtime_ns}\0"
            except OSError:  # gone, or a link to nowhere: the decoding will name it
                state = "\0gone\0"
            digest.update(os.fsencode(path) + state.encode())
        return f"{where.hexdigest()[:16]}-{digest.hexdigest()[:32]}"


def list_split(root: Path, split: str) -> Listing:
    """Classes are the sorted folder names of `train`. Raises InputError naming what is not as it should."""
    folder = _split_folder(root, split)
    classes = _classes(folder)
    if split != "train" and (root / "train").is_dir():
        expected = _classes(root / "train")
        if classes != expected:
            odd = sorted(set(classes) ^ set(expected))
            raise InputError(f"{folder}: its classes differ from those of train ('{odd[0]}')")
    names: list[bytes] = []
    counts: list[int] = []
    for name in classes:
        found = [e.name for e in os.scandir(folder / name) if os.path.splitext(e.name)[1].lower() in SUFFIXES]  # noqa: PTH122
        if not found:
            raise InputError(f"{folder / name}: has no images ({', '.join(sorted(SUFFIXES)[:4])}, ...)")
        names += [os.fsencode(f"{name}/{file}") for file in sorted(found)]
        counts.append(len(found))
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), counts)
    return Listing(folder=folder, names=np.array(names), labels=labels, classes=tuple(classes))


def _split_folder(root: Path, split: str) -> Path:
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    names = ("train",) if split == "train" else ("test", "val")
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise InputError(f"{root}: has no folder '{names[0]}' (expected {names[0]}/<class>/*.jpg)")


def _classes(folder: Path) -> list[str]:
    names = sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
    if not names:
        raise InputError(f"{folder}: has no class folders (expected {folder.name}/<class>/*.jpg)")
    return names
