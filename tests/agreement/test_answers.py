"""The rule of chance, exactly, and what is counted."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from hwq.agreement import Agreement, Answers, LayerCodes, beyond_chance, compare_answers, recorded_warnings


def answers(images: int, only_trained: int, only_integers: int, same: int | None = None) -> Answers:
    """Of `images`, half right in both; discordant ones besides."""
    both = images // 2
    return Answers(
        images=images,
        same=images - only_trained - only_integers if same is None else same,
        labelled=True,
        trained=both + only_trained,
        integers=both + only_integers,
        only_trained=only_trained,
        only_integers=only_integers,
    )


@pytest.mark.parametrize(
    ("only_trained", "only_integers", "differs"),
    [
        (0, 0, False),
        (4, 0, False),  # 4 is 2 sqrt(4), not more
        (5, 0, True),  # 5 > 2 sqrt(5) = 4.47
        (0, 5, True),  # either way
        (7, 1, True),  # 6 > 2 sqrt(8) = 5.66
        (6, 1, False),  # 5 < 2 sqrt(7) = 5.29
        (58, 42, False),  # 16 < 20
        (60, 40, False),  # 20 = 20
        (61, 40, True),  # 21 > 20.1
        (284, 214, True),  # 70 of 10,000 images > 44.6
        (81, 67, False),  # 14 of 2,000: 78.1% and 77.4%
    ],
)
def test_accuracies_beyond_two_standard_errors(only_trained: int, only_integers: int, differs: bool) -> None:
    found = answers(10_000, only_trained, only_integers)
    assert found.differs is differs
    assert found.standard_error == 100 * sqrt(only_trained + only_integers) / 10_000
    warned = Agreement(trained="float", answers=found).warnings()
    assert len(warned) == differs
    assert all(f"{only_trained} images only it gets right, {only_integers} only" in line for line in warned)


@pytest.mark.parametrize(
    ("images", "same", "disagrees"),
    [
        (4, 4, False),
        (4, 3, False),
        (4, 2, True),  # 3.6 - 2 > 2 sqrt(0.36) = 1.2
        (100, 84, False),  # 6 = 2 sqrt(9)
        (100, 83, True),
        (250, 216, False),  # 225 - 216 < 2 sqrt(22.5) = 9.49
        (250, 215, True),
        (2000, 1840, False),  # 92%
    ],
)
def test_answers_far_from_those_of_training(images: int, same: int, disagrees: bool) -> None:
    found = Answers(images=images, same=same)
    assert (found.disagrees, found.differs) == (disagrees, False)
    warned = Agreement(trained="float", answers=found).warnings()
    assert [f"of {images:,} answers only" in line for line in warned] == [True] * disagrees
    assert found.to_json()["beyond_chance"] is disagrees


def test_counts() -> None:
    trained, integers = np.array([1, 1, 2, 3, 0, 0]), np.array([1, 2, 2, 1, 0, 1])
    labels = np.array([1, 1, 0, 1, 0, 0])
    found = compare_answers(trained, integers, labels)
    assert (found.images, found.same, found.trained, found.integers) == (6, 3, 4, 3)
    assert (found.only_trained, found.only_integers) == (2, 1)
    assert found.accuracies == (100 * 4 / 6, 100 * 3 / 6)
    assert compare_answers(trained, integers, None) == Answers(images=6, same=3)


@pytest.mark.parametrize(
    ("first", "second", "images", "beyond"),
    [
        (94.65, 9.86, 10_000, True),
        (88.36, 88.32, 10_000, False),
        (90.0, 90.0, 100, False),
        (100.0, 100.0, 100, False),
        (100.0, 99.0, 100, False),  # 1 < 2 sqrt(0.99)
        (100.0, 99.99, 10_000, False),
        (78.1, 77.4, 2_000, False),
        (50.0, 51.0, 10_000, False),  # 1 < 1.41
        (50.0, 51.5, 10_000, True),
    ],
)
def test_accuracies_alone(first: float, second: float, images: int, beyond: bool) -> None:
    assert beyond_chance(first, second, images) is beyond
    for stages in ({"fake_quant": first}, {"float": 99.9, "fake_quant": first}, {"float": first}):
        assert len(recorded_warnings({**stages, "integer": second}, images)) == beyond
    assert recorded_warnings({"fake_quant": first, "integer": None}, images) == []


def test_shares_of_layers() -> None:
    layers = (LayerCodes(op="a", values=1000, differing=1), LayerCodes(op="b", values=100, differing=5))
    found = Agreement(trained="fake-quantised", answers=answers(100, 0, 0), layers=layers, code_images=10)
    assert found.share == (0.001 + 0.05) / 2
    assert found.worst == layers[1]
    assert (
        "codes that differ on equal inputs: 2.6%, mean over 2 layers, of 10 images; most in b: 5%"
        in (found.lines()[1])
    )
    assert found.to_json()["codes"]["layers"][1] == {"op": "b", "values": 100, "differing": 5, "share": 0.05}
