"""Data sets as uint8 pixels: digits (built in), CIFAR-10/100, ImageNet and any folder of images."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from hwq.data.builtin import load_cifar, load_digits
from hwq.data.decode import RandomView
from hwq.data.files import Files, Loader
from hwq.data.folder import load_folder
from hwq.data.images import Images
from hwq.data.spec import FOLDERS, NAMES, DataSpec
from hwq.errors import InputError

__all__ = [
    "FOLDERS",
    "NAMES",
    "DataSpec",
    "Files",
    "Images",
    "Loader",
    "RandomView",
    "Split",
    "known",
    "load_split",
    "measure",
    "normalisation",
]

Split: TypeAlias = Images | Files
"""A split in memory, or one that is decoded while it is used: `head`, `batches`, `shape`, `labels`."""
Channels = tuple[float, ...]
"""One float a channel, on the 0..1 scale."""

_KNOWN: dict[str, tuple[Channels, Channels]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
_MEASURED = 2000


def load_split(spec: DataSpec, split: str, *, files: bool = False, workers: int | None = None) -> Split:
    """All images of 'train' or 'test'. Raises InputError for what is missing or unreadable.

    Folders that do not fit in `spec.memory`, and with `files` any folder, are decoded while they are used,
    by `workers` processes (None: one a CPU, at most 8).
    """
    if split not in ("train", "test"):
        raise InputError(f"a split is train or test, not '{split}'")
    if spec.name in FOLDERS:
        return load_folder(spec, split, files=files, workers=workers)
    return load_digits(split) if spec.name == "digits" else load_cifar(spec, split)


def measure(images: Split) -> tuple[Channels, Channels]:
    """(mean, standard deviation) per channel on the 0..1 scale, from exact counts; six decimals.

    Of images that are not in memory, 2,000 spread evenly over the split stand for all.
    """
    if isinstance(images, Files):
        images = images.head(_MEASURED)
    means, deviations = [], []
    values = np.arange(256, dtype=np.float64)
    for channel in range(images.shape[2]):
        counts = np.bincount(images.pixels[..., channel].ravel(), minlength=256)
        mean = float((counts * values).sum() / counts.sum())
        variance = float((counts * (values - mean) ** 2).sum() / counts.sum())
        means.append(round(mean / 255, 6))
        deviations.append(round(max(variance**0.5, 1.0) / 255, 6))
    return tuple(means), tuple(deviations)


def known(spec: DataSpec) -> tuple[Channels, Channels] | None:
    """The (mean, std) that the networks of a data set are usually trained with; None where none are usual."""
    return _KNOWN.get(spec.name)


def normalisation(spec: DataSpec) -> tuple[Channels, Channels]:
    """(mean, std) per channel, 0..1 scale: the usual ones where there are, else those of the train split."""
    return known(spec) or measure(load_split(spec, "train"))
