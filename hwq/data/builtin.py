"""Data sets with a name of their own: scikit-learn's digits, torchvision's CIFAR-10 and CIFAR-100."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hwq.data.images import Images
from hwq.data.spec import DataSpec
from hwq.errors import InputError
from hwq.files import cache_folder


def load_digits(split: str) -> Images:
    """1,797 handwritten digits, 8x8x1. Every fifth of each class is the test split.

    The stored values 0..16 become pixels floor(v * 255/16 + 1/2).
    """
    from sklearn.datasets import load_digits as load

    stored = load()
    pixels = np.floor(stored.images * 255 / 16 + 0.5).astype(np.uint8)[..., None]
    labels = stored.target.astype(np.int64)
    test = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        test[np.flatnonzero(labels == digit)[4::5]] = True
    chosen = test if split == "test" else ~test
    classes = tuple(str(d) for d in range(10))
    return Images(pixels=pixels[chosen], labels=labels[chosen], classes=classes)


def load_cifar(spec: DataSpec, split: str) -> Images:
    """torchvision's CIFAR-10 or CIFAR-100, 32x32x3. Raises InputError when it is not there."""
    from torchvision import datasets

    root = Path(spec.root) if spec.root else cache_folder() / "datasets"
    kind = datasets.CIFAR10 if spec.name == "cifar10" else datasets.CIFAR100
    try:
        stored = kind(str(root), train=split == "train", download=spec.download)
    except Exception as error:  # torchvision: RuntimeError, URLError, tarfile errors, ...
        if spec.download:
            raise InputError(f"{spec.name}: download to {root} failed: {error}") from error
        raise InputError(
            f"{spec.name}: not found in {root}; add --download, or point --data {spec.name}:/path at it"
        ) from error
    labels = np.array(stored.targets, dtype=np.int64)
    return Images(
        pixels=np.asarray(stored.data, dtype=np.uint8), labels=labels, classes=tuple(stored.classes)
    )
