"""One accuracy, whoever states it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from hwq.simulate import accuracy


def test_accuracy_is_the_nearest_float_to_the_share() -> None:
    """A mean times 100 is not: of 10,000 it gives 58.040000000000006 for 5,804."""
    labels = np.ones(10_000, dtype=np.int64)
    for right in range(0, 10_001, 4):
        predicted = (np.arange(10_000) < right).astype(np.int64)
        assert accuracy(predicted, labels) == float(Fraction(100 * right, 10_000))
    assert accuracy([1, 0, 1], labels[:3]) == float(Fraction(200, 3))
