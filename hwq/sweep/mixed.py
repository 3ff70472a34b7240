"""A format for each layer: the fewest bits of constants within a loss of accuracy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from hwq.errors import InputError
from hwq.ir import Requantize
from hwq.sweep.local import body_layers
from hwq.sweep.memory import layer_bits
from hwq.sweep.points import Point
from hwq.sweep.rows import cost
from hwq.sweep.run import Network, Sweep
from hwq.sweep.store import Row

_PROBE_NOISE = 10**-1.5
"""Relative noise, 15 dB, below which a layer's effect on the logits still grows with its noise."""

Assignment = tuple[int, ...]
"""Of each layer, the place of its format in its list of `_Choice`."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """A format of one layer: bits of its constants, and noise power relative to its codes."""

    form: str
    bits: int
    noise: float


def search(
    sweep: Sweep,
    probe: Sweep,
    reference: Point,
    formats: Sequence[str],
    loss: float,
    note: Callable[[str], None] = lambda text: None,
) -> Row | None:
    """The row of the fewest bits found that loses at most `loss` points against `reference`; None for none.

    Greedy: local noise of each layer and format, times the layer's measured effect on the logits (by
    `probe`, on few images), orders steps by noise a saved bit; the accuracy of all images then says how far
    to go (bisection), and which single steps fit beyond. Every assignment measured is a stored row.
    """
    points = [Point.parse(form, reference.rounding, reference.bits) for form in formats]
    points = list(dict.fromkeys(points))
    if len(points) < 2:
        raise InputError("--mixed chooses among formats: give two or more, with --widths or --fixed")
    if sweep.network.error_images == 0:
        raise InputError("--mixed needs the layers' noise: leave --error-images above 0")
    real, *uniform = sweep.rows([reference, *points])
    layers = _choices(sweep.network, points, uniform)
    effects = _effects(probe, reference, layers)
    path = _path(layers, effects)
    tried: dict[Assignment, Row] = {}

    def fits(assignment: Assignment) -> bool:
        if assignment not in tried:
            (tried[assignment],) = sweep.rows([_point(reference, layers, assignment)])
            row = tried[assignment]
            note(f"mixed: {row['memory']:,} bits, {row['accuracy']:.2f}%")
        return bool(real["accuracy"] - tried[assignment]["accuracy"] <= loss + 1e-9)

    low, high = -1, len(path)  # path[low] fits, path[high] does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(path[middle]) else (low, middle)
    if low >= 0:
        _beyond(path[low], layers, effects, fits)
    good = [tried[a] for a in tried if fits(a)]
    return min(good, key=cost, default=None)


def _choices(network: Network, points: Sequence[Point], rows: Sequence[Row]) -> dict[str, list[_Choice]]:
    """By layer, in the graph's order: formats of falling bits and rising noise, none beaten in both."""
    bits: dict[str, dict[str, int]] = {}
    names: tuple[str, ...] = ()
    for point in points:
        graph = network.lower(point).graph
        names = body_layers(graph)
        bits[point.name] = {op.name: layer_bits(op) for op in graph if isinstance(op, Requantize)}
    found: dict[str, list[_Choice]] = {}
    for name in names:
        listed = [_Choice(row["format"], bits[row["format"]][name], _power(row["snr"][name])) for row in rows]
        kept: list[_Choice] = []
        for choice in sorted(listed, key=lambda c: (c.bits, c.noise)):
            if not kept or choice.noise < kept[-1].noise:
                kept.append(choice)
        found[name] = kept[::-1]
    return found


def _power(ratio: float | None) -> float:
    return 0.0 if ratio is None else float(10 ** (-ratio / 10))


def _effects(probe: Sweep, reference: Point, layers: Mapping[str, list[_Choice]]) -> dict[str, float]:
    """By layer: relative noise of the logits for one of the layer's own, others at their best."""
    best = tuple(0 for _ in layers)
    points, used = [_point(reference, layers, best)], {}
    for place, (name, choices) in enumerate(layers.items()):
        coarse = [i for i, c in enumerate(choices) if i and c.noise <= _PROBE_NOISE]
        at = coarse[-1] if coarse else min(1, len(choices) - 1)
        if at:
            used[name] = (len(points), choices[at].noise - choices[0].noise)
            points.append(_point(reference, layers, _moved(best, place, at)))
    rows = dict(zip(dict.fromkeys(points), probe.rows(points), strict=True))
    start = _power(rows[points[0]]["logits_snr"])
    return {
        name: max(0.0, _power(rows[points[at]]["logits_snr"]) - start) / own
        for name, (at, own) in used.items()
    }


def _path(layers: Mapping[str, list[_Choice]], effects: Mapping[str, float]) -> list[Assignment]:
    """From all at their best to all at their narrowest, the step of least noise a saved bit first."""
    now: Assignment = tuple(0 for _ in layers)
    path = [now]
    while steps := _steps(now, layers, effects):
        now = steps[0][1]
        path.append(now)
    return path


def _steps(
    now: Assignment, layers: Mapping[str, list[_Choice]], effects: Mapping[str, float]
) -> list[tuple[float, Assignment]]:
    """(predicted noise of the logits a saved bit, assignment): one layer one format narrower, best first."""
    found = []
    for place, (name, choices) in enumerate(layers.items()):
        if now[place] + 1 < len(choices):
            old, new = choices[now[place]], choices[now[place] + 1]
            price = effects[name] * (new.noise - old.noise) / (old.bits - new.bits)
            found.append((price, _moved(now, place, now[place] + 1)))
    return sorted(found)


def _beyond(
    now: Assignment,
    layers: Mapping[str, list[_Choice]],
    effects: Mapping[str, float],
    fits: Callable[[Assignment], bool],
) -> None:
    """Single further steps while they fit; a layer whose step does not is not tried again."""
    closed: set[int] = set()
    while True:
        open_ = [
            (place, moved)
            for _, moved in _steps(now, layers, effects)
            if (place := next(i for i, (a, b) in enumerate(zip(now, moved, strict=True)) if a != b))
            not in closed
        ]
        if not open_:
            return
        place, moved = open_[0]
        if fits(moved):
            now = moved
        else:
            closed.add(place)


def _moved(assignment: Assignment, place: int, to: int) -> Assignment:
    return (*assignment[:place], to, *assignment[place + 1 :])


def _point(reference: Point, layers: Mapping[str, list[_Choice]], assignment: Assignment) -> Point:
    """The body in the commonest format, the other layers by name; so equal assignments are equal points."""
    forms = {name: choices[at].form for (name, choices), at in zip(layers.items(), assignment, strict=True)}
    counts = Counter(forms.values())
    body = max(sorted(counts), key=counts.__getitem__)
    others = tuple((name, form) for name, form in forms.items() if form != body)
    return replace(reference, name=body, layers=others)
