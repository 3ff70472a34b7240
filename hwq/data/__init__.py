"""Data sets, whole in memory as uint8: digits (built in), CIFAR-10/100, any image folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hwq.data.builtin import load_cifar, load_digits
from hwq.data.folder import load_folder
from hwq.data.spec import NAMES, DataSpec, Images
from hwq.errors import InputError

__all__ = ["NAMES", "DataSpec", "Images", "load_split", "measure", "normalisation"]

Channels = tuple[float, ...]
"""One float a channel, on the 0..1 scale."""

_KNOWN: dict[str, tuple[Channels, Channels]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


def load_split(spec: DataSpec, split: str) -> Images:
    """All images of 'train' or 'test'. Raises InputError for what is missing or unreadable."""
    if split not in ("train", "test"):
        raise InputError(f"a split is train or test, not '{split}'")
    match spec.name:
        case "digits":
            return load_digits(split)
        case "folder":
            return load_folder(Path(spec.root or ""), split)
        case _:
            return load_cifar(spec, split)


def measure(images: Images) -> tuple[Channels, Channels]:
    """(mean, standard deviation) per channel on the 0..1 scale, from exact counts; six decimals."""
    means, deviations = [], []
    values = np.arange(256, dtype=np.float64)
    for channel in range(images.shape[2]):
        counts = np.bincount(images.pixels[..., channel].ravel(), minlength=256)
        mean = float((counts * values).sum() / counts.sum())
        variance = float((counts * (values - mean) ** 2).sum() / counts.sum())
        means.append(round(mean / 255, 6))
        deviations.append(round(max(variance**0.5, 1.0) / 255, 6))
    return tuple(means), tuple(deviations)


def normalisation(spec: DataSpec) -> tuple[Channels, Channels]:
    """(mean, std) per channel, 0..1 scale: the usual ones for CIFAR, else measured on the train split."""
    if spec.name in _KNOWN:
        return _KNOWN[spec.name]
    return measure(load_split(spec, "train"))
