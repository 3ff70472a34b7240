"""Small inline SVG drawings; colours come from the page's CSS classes, so they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from hwq.report.content import Curve, Histogram

_BARS = (132, 26)
_PLOT = (520, 230)
_MARGIN = (46, 14, 12, 34)  # left, top, right, bottom


def histogram(h: Histogram) -> Markup:
    """Bars over the whole range of the type; heights go by the square root, so that tails are seen."""
    width, height = _BARS
    top = math.sqrt(max(h.counts, default=0)) or 1.0
    step = width / max(1, len(h.counts))
    bars = []
    for i, count in enumerate(h.counts):
        if count:
            size = max(1.0, height * math.sqrt(count) / top)
            bars.append(
                f'<rect x="{i * step:.2f}" y="{height - size:.2f}" '
                f'width="{max(0.6, step - 0.6):.2f}" height="{size:.2f}"/>'
            )
    label = f"codes {h.seen[0]} to {h.seen[1]} of {h.lo} to {h.hi}, {h.at_limits:.2%} at the limits"
    return _svg(
        width, height, "bars", label, f'<line x1="0" x2="{width}" y1="{height}" y2="{height}"/>', *bars
    )


def curve(plot: Curve) -> Markup:
    """Lines over a common axis, with round ticks and a legend below the title."""
    width, height = _PLOT
    left, top, right, bottom = _MARGIN
    points = [p for s in plot.series for p in s.points]
    x_low, x_high = _span([p[0] for p in points])
    ticks = nice_ticks(min(p[1] for p in points), max(p[1] for p in points))
    y_low, y_high = ticks[0], ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low)
        up = (y - y_low) / (y_high - y_low)
        return left + across * (width - left - right), height - bottom - up * (height - top - bottom)

    parts: list[str] = []
    for tick in ticks:
        _, y = place(x_low, tick)
        text = f"{tick:g}%" if plot.percent else f"{tick:g}"
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for tick in _whole_ticks(x_low, x_high):
        x, _ = place(tick, y_low)
        parts.append(f'<text x="{x:.1f}" y="{height - bottom + 16}" text-anchor="middle">{tick:g}</text>')
    middle = (left + width - right) / 2
    parts.append(f'<text x="{middle}" y="{height - 3}" text-anchor="middle">{escape(plot.x_label)}</text>')
    for number, series in enumerate(plot.series):
        placed = [place(*p) for p in series.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline class="line c{number % 6}" points="{path}"/>')
        x, y = placed[-1]
        parts.append(f'<circle class="dot c{number % 6}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
    return _svg(width, height, "plot", plot.title, *parts)


def _svg(width: int, height: int, kind: str, label: str, *parts: str) -> Markup:
    safe = escape(label)
    return Markup(
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{safe}">'
        f"<title>{safe}</title>{''.join(parts)}</svg>"
    )


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Three or more round numbers that cover low..high in steps of 1, 2 or 5 times a power of ten."""
    low, high = _span((low, high))
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * i, 12) for i in range(first, last + 1)]


def _whole_ticks(low: float, high: float) -> list[float]:
    step = max(1.0, nice_ticks(low, high)[1] - nice_ticks(low, high)[0])
    first = math.ceil(low / step)
    return [step * i for i in range(first, math.floor(high / step) + 1)]
