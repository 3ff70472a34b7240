"""What a data set is to the rest of hwq: a name, and how its images are seen."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hwq.data.decode import View
from hwq.errors import InputError

NAMES = ("digits", "cifar10", "cifar100", "folder", "imagenet")
FOLDERS = ("folder", "imagenet")
_IMAGENET = 224


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """name: one of `NAMES`; root: the folder (all but digits); download: fetch cifar* when missing.

    For folders of images: size: side of the square images; None: as the files are, which must then be of
    one size (imagenet: 224). resize: shorter side before the centre is cut out for testing; None:
    size * 8/7. channels: 1 or 3; None: as the files are. memory: GiB that a split may take; a larger one
    is decoded while it is used (0: every one is). skip_bad: leave out files that cannot be read, instead
    of stopping.
    """

    name: str
    root: str | None = None
    download: bool = False
    size: int | None = None
    resize: int | None = None
    channels: int | None = None
    memory: float = 4.0
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise InputError(f"unknown data set '{self.name}'; known: {', '.join(NAMES)} (folder:/path)")
        if self.name == "digits" and (self.root or self.download):
            raise InputError("the digits come with scikit-learn: they take neither a path nor download")
        if self.name not in FOLDERS:
            if self.size is not None or self.resize is not None or self.channels is not None:
                raise InputError(f"size, resize and channels are for folders of images, not for {self.name}")
            return
        if self.name == "folder" and not self.root:
            raise InputError("a folder data set needs its path: folder:/path")
        view = self.view
        if view.resize is not None and view.size is None:
            raise InputError("resize needs size, the side of the images")
        if view.size is not None and not 1 <= view.size <= (view.resize or 0):
            raise InputError(
                f"size must be at least 1 and resize at least size, not {view.size}, {view.resize}"
            )
        if self.channels not in (None, 1, 3):
            raise InputError(f"channels must be 1 or 3, not {self.channels}")
        if not 0 <= self.memory < float("inf"):
            raise InputError(f"memory must be a number of GiB, at least 0, not {self.memory}")

    @property
    def view(self) -> View:
        """How a file is seen in testing; with a size, in colour unless `channels` says otherwise."""
        size = _IMAGENET if self.size is None and self.name == "imagenet" else self.size
        if size is None:
            return View(resize=self.resize, channels=self.channels)
        return View(size=size, resize=self.resize or (size * 8 + 6) // 7, channels=self.channels or 3)

    @staticmethod
    def parse(text: str, *, download: bool = False, like: DataSpec | None = None) -> DataSpec:
        """'digits', 'cifar10', 'cifar10:/root' or 'folder:/root'; the path becomes absolute.

        like: another folder is seen as this one is.
        """
        name, _, root = text.partition(":")
        path = str(Path(root).expanduser().resolve()) if root else None
        if like is not None and name in FOLDERS and like.name in FOLDERS:
            view = like.view
            return DataSpec(
                name=name,
                root=path,
                size=view.size,
                resize=view.resize,
                channels=view.channels,
                memory=like.memory,
                skip_bad=like.skip_bad,
            )
        return DataSpec(name=name, root=path, download=download)

    @staticmethod
    def recorded(facts: dict[str, Any]) -> DataSpec:
        """From the fields that a project wrote down; others are passed over. Raises InputError."""
        known = {f.name for f in fields(DataSpec)}
        try:
            return DataSpec(**{key: value for key, value in used(facts).items() if key in known})
        except TypeError as error:
            raise InputError(f"the description of the data set is damaged ({error})") from error

    def __str__(self) -> str:
        return f"{self.name}:{self.root}" if self.root else self.name


def used(facts: dict[str, Any]) -> dict[str, Any]:
    """Recorded fields without those that digits passed over before they were refused."""
    unused = ("root", "download") if facts.get("name") == "digits" else ()
    return {key: value for key, value in facts.items() if key not in unused}
