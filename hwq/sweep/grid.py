"""A grid of formats over one checkpoint: lowers, evaluates, stores row by row, skips what is stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq.engine import Preference, simulator
from hwq.fixed import ChannelFormat, ConstantFormat, parse_format
from hwq.simulate import Runner
from hwq.sweep.evaluate import Candidate, evaluate_format
from hwq.sweep.store import Store

REAL = "real"
"""The baseline row: constants so precise (54-bit mantissas, own I) that they stand for real numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridPoint:
    """A format as the user wrote it, and what it means."""

    name: str
    format: ConstantFormat

    @staticmethod
    def parse(text: str) -> GridPoint:
        """`real`, or what `--fixed` takes. Raises InputError."""
        if text.strip() == REAL:
            return GridPoint(name=REAL, format=ChannelFormat(54))
        made = parse_format(text)
        return GridPoint(name=str(made), format=made)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grid:
    """What a sweep measures. checkpoint: its sha256. data: where the images come from, in words.

    lower: lowers the network with a body format, never failing on lossy constants. round, edge,
    off_bits: as given to `lower`, for the record.
    """

    checkpoint: str
    data: str
    lower: Callable[[ConstantFormat], Candidate]
    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    round: str = "rnd"
    edge: str = "32,16"
    off_bits: int | None = None

    def key(self, point: GridPoint) -> dict[str, Any]:
        """Identifies the measurement of a point."""
        return {
            "checkpoint": self.checkpoint,
            "data": self.data,
            "format": point.name,
            "round": self.round,
            "edge": self.edge,
            "images": len(self.pixels),
            "off_bits": self.off_bits,
        }


def _silent(text: str) -> None:
    """A note that was heard before."""


def run_grid(
    grid: Grid,
    points: Sequence[GridPoint],
    store: Store,
    *,
    threads: int | None = None,
    engine: Preference = "auto",
    progress: Callable[[str, int], None] = lambda name, images: None,
    note: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """The rows of all points, in order, each once; new ones are written to `store` as they are done.

    engine: which one computes them (`hwq.engine.simulator`; `note` hears of a fall-back). progress is told
    the point's name and the images done of it.
    """
    rows = []
    runner: Runner | None = None
    for point in {p.name: p for p in points}.values():
        key = grid.key(point)
        row = store.find(key)
        if row is None:
            candidate = grid.lower(point.format)
            told = note if runner is None else _silent
            runner = simulator(candidate.graph, threads, engine, earlier=runner, note=told)
            result = evaluate_format(
                candidate,
                grid.pixels,
                grid.labels,
                runner=runner,
                progress=lambda done, name=point.name: progress(name, done),  # type: ignore[misc]
            )
            row = {**key, **asdict(result)}
            store.add(row)
        progress(point.name, len(grid.pixels))
        rows.append(row)
    return rows
