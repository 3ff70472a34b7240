"""A sweep: lowers points, measures those that are not stored yet, stores each as it is done."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hwq import __version__
from hwq.engine import Preference, simulator
from hwq.errors import ToolError
from hwq.fixed import LiteralFormat
from hwq.simulate import Runner
from hwq.sweep.evaluate import Candidate, Measured, evaluate, logits_snr, sampled
from hwq.sweep.local import Codes
from hwq.sweep.memory import digest, memory_bits
from hwq.sweep.points import REAL, Point
from hwq.sweep.rows import first_wrong
from hwq.sweep.store import Row, Store
from hwq.sweep.workers import Workers, WorkersLost, each

_SHARED = ("accuracy", "local", "logits_snr", "clipped", "clipped_images", "layers", "edge_layers", "snr")
"""Fields that follow from a graph's integers alone."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Network:
    """What is swept. checkpoint: its sha256. data: where the images come from, in words; content: the SHA-256
    of pixels and labels.

    lower: the network of a point, never failing on lossy constants. pixels: uint8 (N, H, W, C), N >= 1, of
    which the first `error_images` are also compared layer by layer; see `Network.of`.
    """

    checkpoint: str
    data: str
    edge: LiteralFormat
    off_bits: int | None
    lower: Callable[[Point], Candidate]
    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    error_images: int
    content: str

    @staticmethod
    def of(
        checkpoint: str,
        data: str,
        edge: LiteralFormat,
        lower: Callable[[Point], Candidate],
        pixels: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.int64],
        *,
        off_bits: int | None = None,
        error_images: int = 250,
    ) -> Network:
        """With the images in an order in which `error_images` of them, spread over all, come first."""
        few = min(error_images, len(pixels))
        order = sampled(len(pixels), few)
        pixels, labels = pixels[order], labels[order]
        return Network(
            checkpoint=checkpoint,
            data=data,
            edge=edge,
            off_bits=off_bits,
            lower=lower,
            pixels=pixels,
            labels=labels,
            error_images=few,
            content=_content(pixels, labels),
        )

    def first(self, count: int) -> Network:
        """On its first images alone."""
        pixels, labels = self.pixels[:count], self.labels[:count]
        return replace(self, pixels=pixels, labels=labels, content=_content(pixels, labels))

    def key(self, point: Point) -> Row:
        """Identifies the measurement of a point."""
        return {
            "checkpoint": self.checkpoint,
            "data": self.data,
            "format": point.name,
            "round": point.rounding,
            "bits": point.bits,
            "assigned": [f"{op}={form}" for op, form in point.layers],
            "edge": str(self.edge),
            "images": len(self.pixels),
            "error_images": self.error_images,
            "off_bits": self.off_bits,
            "pixels": self.content,
            "hwq": __version__,
        }


def _content(pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> str:
    key = hashlib.sha256(f"{pixels.shape}".encode())
    for array in (pixels, labels.astype("<i8")):
        key.update(np.ascontiguousarray(array).data)
    return key.hexdigest()


class Watcher(Protocol):
    """Receives the events of a sweep."""

    def images(self, point: Point, done: int) -> None:
        """So many of the point's images are done."""

    def note(self, text: str) -> None:
        """Something the user should know."""


class Unwatched:
    """Tells nobody."""

    def images(self, point: Point, done: int) -> None: ...
    def note(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What a lowered point says before it runs."""

    digest: str
    memory: int
    saturated: int
    vanished: int
    harmful: dict[str, int]

    @staticmethod
    def of(candidate: Candidate) -> _Facts:
        return _Facts(
            digest=digest(candidate.graph),
            memory=memory_bits(candidate.graph),
            saturated=candidate.saturated,
            vanished=candidate.vanished,
            harmful=dict(candidate.harmful),
        )


class Sweep:
    """Measures points of a network into a store.

    workers: processes that do it, None for this one with `threads`, which runs the references in any case.
    engine: see `hwq.engine.simulator`.
    wrong_above: the share, 0..1, of wrong codes from which on a layer counts as wrong.
    """

    def __init__(
        self,
        network: Network,
        store: Store,
        *,
        workers: Workers | None = None,
        threads: int | None = None,
        engine: Preference = "auto",
        wrong_above: float = 0.01,
        watcher: Watcher | None = None,
    ) -> None:
        self.network, self.store, self.workers, self.wrong_above = network, store, workers, wrong_above
        self.threads, self.engine, self.watcher = threads, engine, watcher or Unwatched()
        self._runner: Runner | None = None
        self._real: dict[tuple[str, str], Codes] = {}
        self._told: set[str] = set()

    def rows(self, points: Sequence[Point]) -> list[Row]:
        """The rows of all points, in order, each once; missing ones are measured and stored as they are done.

        Raises HwqError; rows done stay stored.
        """
        unique = list(dict.fromkeys(points))
        self.store.refresh()
        missing = [point for point in unique if self._stored(point) is None]
        needed = dict.fromkeys(p.reference for p in missing if p.network not in self._real)
        # one or two evaluations, which the others wait for: not worth starting workers for
        self._measure(list(needed), None)
        self._measure([point for point in missing if point not in needed], self.workers)
        self._judge([row for point in unique if (row := self._stored(point)) is not None])
        rows = [row for point in unique if (row := self._stored(point)) is not None]
        assert len(rows) == len(unique)
        for point in unique:
            self.watcher.images(point, len(self.network.pixels))
        return rows

    def _judge(self, rows: Sequence[Row]) -> None:
        """Rows of an earlier sweep, of another `wrong_above`."""
        judged = [{**row, "first_wrong": first_wrong(row, self.wrong_above)} for row in rows]
        changed = [new for new, old in zip(judged, rows, strict=True) if new != old]
        if changed:
            self.store.put(*changed)

    def _stored(self, point: Point) -> Row | None:
        return self.store.find(self.network.key(point))

    def _measure(self, points: Sequence[Point], workers: Workers | None) -> None:
        left = dict.fromkeys(points)
        for last in (False, True):
            if not left:
                return
            try:
                for point in self._finished(list(left), workers):
                    del left[point]
            except WorkersLost as lost:
                if last:
                    raise ToolError(
                        f"workers died twice ({lost}); {len(self.store.rows)} rows are in "
                        f"{self.store.json_path}: run the same command again, with fewer --jobs where "
                        "memory is short"
                    ) from None
                self.watcher.note(f"a worker died ({lost}); the {len(left)} points left are tried again")

    def _finished(self, points: Sequence[Point], workers: Workers | None) -> Iterator[Point]:
        """The points, as their rows are stored."""
        facts: dict[Point, _Facts] = {}
        waiting: dict[str, list[Point]] = {}

        def calls() -> Iterator[tuple[Point, tuple[Any, ...]]]:
            for point in points:
                candidate = self.network.lower(point)
                facts[point] = mine = _Facts.of(candidate)
                self.store.refresh()
                first = mine.digest not in waiting
                waiting.setdefault(mine.digest, []).append(point)
                known = self._stored(point) or self.store.same_constants(self.network.key(point), mine.digest)
                # the reference runs even where its row is known: the others need its logits
                if first and (known is None or point.name == REAL):
                    yield point, (candidate, self.network.error_images, self.engine)

        for point, measured in self._results(calls, workers):
            if point.name == REAL:
                self._real[point.network] = measured.logits
            for other in waiting.pop(facts[point].digest):
                if self._stored(other) is None:
                    self._store(other, facts[other], self._figures(point, measured))
                yield other
        for mine, others in waiting.items():
            for other in others:
                same = self.store.same_constants(self.network.key(other), mine)
                if self._stored(other) is None:
                    assert same is not None
                    self._store(other, facts[other], {name: same[name] for name in _SHARED})
                yield other

    def _results(
        self, calls: Callable[[], Iterator[tuple[Point, tuple[Any, ...]]]], workers: Workers | None
    ) -> Iterator[tuple[Point, Measured]]:
        pixels, labels = self.network.pixels, self.network.labels
        if workers is not None:
            made = ((point, (*arguments, pixels, labels)) for point, arguments in calls())
            for point, (measured, notes) in each(workers, measure_alone, made):
                for text in notes:
                    self._note(text)
                self.watcher.images(point, len(pixels))
                yield point, measured
            return
        for point, (candidate, errors, engine) in calls():
            self._runner = simulator(
                candidate.graph, self.threads, engine, earlier=self._runner, note=self._note
            )
            yield (
                point,
                evaluate(
                    candidate,
                    pixels,
                    labels,
                    self._runner,
                    errors=errors,
                    progress=lambda done, point=point: self.watcher.images(point, done),  # type: ignore[misc]
                ),
            )

    def _note(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.watcher.note(text)

    def _figures(self, point: Point, measured: Measured) -> Row:
        real = self._real[point.network]
        return {
            "accuracy": measured.accuracy,
            "local": float(np.mean(list(measured.layers.values()))) if measured.layers else 0.0,
            "logits_snr": logits_snr(measured.logits, real),
            "clipped": measured.range.clipped,
            "clipped_images": measured.range.clipped_images,
            "layers": measured.layers,
            "edge_layers": measured.edge_layers,
            "snr": measured.snr,
        }

    def _store(self, point: Point, facts: _Facts, figures: Row) -> None:
        row = {
            **self.network.key(point),
            **figures,
            "memory": facts.memory,
            "saturated": facts.saturated,
            "vanished": facts.vanished,
            "harmful": sum(facts.harmful.values()),
            "harmful_layers": facts.harmful,
            "digest": facts.digest,
            "checked": "",
            "checks": [],
        }
        row["first_wrong"] = first_wrong(row, self.wrong_above)
        self.store.put(row)


_last: Runner | None = None
"""Of a worker process: the engine whose packed weights the next one may use."""


def measure_alone(
    candidate: Candidate,
    errors: int,
    engine: Preference,
    pixels: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
) -> tuple[Measured, list[str]]:
    """`evaluate` in a worker process on one thread, and notes for the user."""
    global _last
    notes: list[str] = []
    _last = simulator(candidate.graph, 1, engine, earlier=_last, note=notes.append)
    return evaluate(candidate, pixels, labels, _last, errors=errors), notes
