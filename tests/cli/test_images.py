"""How many images a simulation takes unasked."""

from __future__ import annotations

import pytest

from hwq.cli.simulate import default_images


@pytest.mark.parametrize(
    ("macs", "build", "total", "count"),
    [
        (40_550_000, "ap", 10_000, 200),  # ResNet-20
        (40_550_000, "ap", 150, 150),
        (1_813_563_392, "ap", 50_000, 8),  # ResNet-18 at 224 pixels
        (1_813_563_392, "native", 50_000, 50_000),
        (99_000_000_000, "ap", 50_000, 1),
        (0, "ap", 355, 200),
    ],
)
def test_default_images(macs: int, build: str, total: int, count: int) -> None:
    assert default_images(macs, build, total) == count
