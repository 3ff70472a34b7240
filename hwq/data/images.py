"""A split whole in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwq.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Images:
    """pixels: uint8 (N, H, W, C); labels: int64 (N,), indices into `classes`.

    left_out: files that could not be read, where the data set says to go on without them.
    """

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    left_out: tuple[str, ...] = ()

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
        index = spread(len(self), count)
        return Images(
            pixels=self.pixels[index],
            labels=self.labels[index],
            classes=self.classes,
            left_out=self.left_out,
        )

    def batches(
        self, size: int, first: int = 0, step: int = 1
    ) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]:
        """(pixels, labels) in order, `size` at a time: every `step`-th batch from number `first` on."""
        for i in range(first * size, len(self), step * size):
            yield self.pixels[i : i + size], self.labels[i : i + size]


def spread(total: int, count: int) -> npt.NDArray[np.int64]:
    """`count` indices spread evenly over 0 .. total - 1. Raises InputError for a count below 1."""
    if count < 1:
        raise InputError(f"a sample has at least 1 image, not {count}")
    return np.arange(count) * total // count
