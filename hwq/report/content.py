"""What a report says, as plain frozen records; `page` lays them out, `rows` makes them from a graph."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Accuracy of one form of the network. accuracy: percent, None where it was not measured."""

    name: str
    accuracy: float | None
    images: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """One comparison of the C++ with the Python simulator.

    values: codes compared, over all ops and images. `first` describes the first mismatch. seconds:
    wall time of the run, C++ and Python together, 0 where unknown.
    """

    name: str
    note: str
    images: int
    values: int
    mismatches: int
    first: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How often codes occur over the whole range lo..hi of their type, in equal bins.

    seen: smallest and largest code met. at_limits: share (0..1) of codes equal to lo or hi, with code 0
    of unsigned types left out (ReLU puts many codes there and loses nothing).
    """

    counts: tuple[int, ...]
    lo: int
    hi: int
    seen: tuple[int, int]
    at_limits: float

    @property
    def use(self) -> float:
        """Largest magnitude met over the largest that the type holds, 0..1."""
        return max(abs(self.seen[0]), abs(self.seen[1])) / max(1, abs(self.lo), abs(self.hi))


@dataclass(frozen=True, slots=True, kw_only=True)
class OpRow:
    """One op: `exact_bits` is the width of its widest exact sum, None where it sums nothing.

    values and mismatches are totals over the builds of the report.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    codes: str
    weights: str = ""
    exact_bits: int | None = None
    parameters: int = 0
    macs: int = 0
    values: int = 0
    mismatches: int = 0
    histogram: Histogram | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantRow:
    """Multipliers or biases of one requantisation: how they are stored and what that cost.

    integers: smallest and largest I. span: smallest non-zero and largest magnitude. harmful: how many of
    the saturated and vanished could have moved an output.
    """

    op: str
    role: str
    format: str
    count: int
    integers: tuple[int, int]
    span: tuple[float, float]
    saturated: int = 0
    vanished: int = 0
    harmful: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CodesRow:
    """Codes of one layer on inputs equal to the integers'. differing: from the integers, of `values`."""

    op: str
    values: int
    differing: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line of a curve; points are (x, y) in the order drawn."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A line plot: `percent`: y is in percent."""

    title: str
    x_label: str
    series: tuple[Series, ...]
    percent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything on the page. `facts` are label and value; `commands` are shell lines.

    warnings: loud lines under the verdict. meaning: how the trained network and the integers agree, in
    sentences; layer_codes: the same layer by layer.
    """

    title: str
    subtitle: str = ""
    warnings: tuple[str, ...] = ()
    builds: tuple[Build, ...] = ()
    meaning: tuple[str, ...] = ()
    layer_codes: tuple[CodesRow, ...] = ()
    stages: tuple[Stage, ...] = ()
    ops: tuple[OpRow, ...] = ()
    constants: tuple[ConstantRow, ...] = ()
    curves: tuple[Curve, ...] = ()
    commands: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    histogram_images: int = 0

    @property
    def verdict(self) -> str:
        """`proven`, `mismatch`, or `open` when nothing was compared."""
        if any(b.mismatches for b in self.builds):
            return "mismatch"
        return "proven" if any(b.values for b in self.builds) else "open"
