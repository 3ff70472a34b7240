"""Two networks' answers on the same images, and when they differ by more than chance lets them.

The accuracies of two networks on the same images differ by (b - c) / N, with b images that only the first
gets right and c that only the second does. Were both equally good, b would be the heads of b + c coin tosses,
and b - c would have a standard error of sqrt(b + c) (McNemar 1947, Psychometrika 12, 153-157).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

ERRORS = 2
"""Standard errors that chance is given."""
EXPECTED = 90
"""Percent of answers that agree in any network worth its name, 2 bits included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Counts of images: all; same answer; right in the trained network, right in integers, right in only one.

    labelled: whether right and wrong are known; the counts of right ones are 0 where not.
    """

    images: int
    same: int
    labelled: bool = False
    trained: int = 0
    integers: int = 0
    only_trained: int = 0
    only_integers: int = 0

    @property
    def agreement(self) -> float:
        """Percent of answers that agree."""
        return 100 * self.same / self.images

    @property
    def accuracies(self) -> tuple[float, float]:
        """Percent right: (trained network, integers)."""
        return 100 * self.trained / self.images, 100 * self.integers / self.images

    @property
    def standard_error(self) -> float:
        """Of the difference of both accuracies, in points: 100 sqrt(b + c) / N."""
        return 100 * sqrt(self.only_trained + self.only_integers) / self.images

    @property
    def differs(self) -> bool:
        """|b - c| > 2 sqrt(b + c): accuracies further apart than chance has it."""
        difference, discordant = (
            self.only_trained - self.only_integers,
            self.only_trained + self.only_integers,
        )
        return difference**2 > ERRORS**2 * discordant

    @property
    def disagrees(self) -> bool:
        """Fewer same answers than 90%, by over two standard errors of such a share."""
        short = EXPECTED * self.images - 100 * self.same
        return short > 0 and short**2 > ERRORS**2 * EXPECTED * (100 - EXPECTED) * self.images

    def to_json(self) -> dict[str, Any]:
        """Counts and percentages; those of right answers None where nothing is labelled."""
        trained, integers = self.accuracies if self.labelled else (None, None)
        return {
            "images": self.images,
            "same": self.same,
            "agreement": self.agreement,
            "trained": trained,
            "integers": integers,
            "only_trained_right": self.only_trained if self.labelled else None,
            "only_integers_right": self.only_integers if self.labelled else None,
            "standard_error": self.standard_error if self.labelled else None,
            "beyond_chance": self.differs or self.disagrees,
        }


def compare_answers(
    trained: npt.NDArray[np.int64], integers: npt.NDArray[np.int64], labels: npt.NDArray[np.int64] | None
) -> Answers:
    """Of the classes (N,) that both give, N >= 1, and the right ones where they are known."""
    same = int(np.count_nonzero(trained == integers))
    if labels is None:
        return Answers(images=len(trained), same=same)
    first, second = trained == labels, integers == labels
    return Answers(
        images=len(trained),
        same=same,
        labelled=True,
        trained=int(first.sum()),
        integers=int(second.sum()),
        only_trained=int((first & ~second).sum()),
        only_integers=int((second & ~first).sum()),
    )


def beyond_chance(first: float, second: float, images: int) -> bool:
    """Whether two accuracies, percent of `images` each, are over two standard errors apart.

    For accuracies alone, whose images in common are not known: the error is that of independent ones,
    sqrt((p (1 - p) + q (1 - q)) / N), which is larger than that of networks much alike.
    """
    p, q = first / 100, second / 100
    return (p - q) ** 2 * images > ERRORS**2 * (p * (1 - p) + q * (1 - q)) and p != q
