"""The sweep as a picture: accuracy over width, and over the bits that the constants take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hwq.files import replacing
from hwq.sweep.points import REAL
from hwq.sweep.rows import cost, pareto, rule_of, width_and_rule
from hwq.sweep.store import Row

_SIZE = (12.5, 5.2)
_MARKS = "osD^vP*X<>hp"
_GREY = "#777777"
_SMALL: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8, "annotation_clip": True}
_NEAR = 3.0
"""Points below the baseline that the right-hand side shows."""


def draw(rows: Sequence[Row], paths: Sequence[Path], *, title: str, loss: float | None = None) -> None:
    """Write the picture to each path, in the format of its suffix (.svg, .png).

    loss: points below the real-valued constants up to which a band is drawn. Rows of one data set; needs
    matplotlib, and no display.
    """
    import matplotlib
    from matplotlib.figure import Figure

    # the same rows give the same file
    with matplotlib.rc_context({"svg.hashsalt": "hwq", "font.size": 10, "axes.axisbelow": True}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        over_width, over_bits = figure.subplots(1, 2)
        figure.suptitle(title)
        styles = _styles(rows)
        _baselines((over_width, over_bits), rows, loss)
        _width(over_width, rows, styles)
        _bits(over_bits, rows, styles)
        _near(over_bits, rows, loss)
        handles = [*over_bits.get_legend_handles_labels()[0]]
        figure.legend(handles=handles, loc="outside right upper", frameon=False)
        for path in paths:
            with replacing(path) as temporary:
                kind = path.suffix.removeprefix(".")
                metadata = {"Date": None} if kind == "svg" else {}
                figure.savefig(temporary, format=kind, dpi=130, metadata=metadata)


def _styles(rows: Sequence[Row]) -> Mapping[str, dict[str, Any]]:
    """By rule, in the order of the rows: one colour and marker, hollow and broken with truncation."""
    names = list(dict.fromkeys(rule_of(row) for row in rows if row["format"] != REAL))
    plain = list(dict.fromkeys(name.removesuffix(" trn") for name in names))
    styles = {}
    for name in names:
        place = plain.index(name.removesuffix(" trn"))
        style = {"color": f"C{place % 10}", "marker": _MARKS[place % len(_MARKS)], "markersize": 5}
        trn = {"linestyle": "--", "markerfacecolor": "white"} if name.endswith(" trn") else {}
        styles[name] = {**style, **trn}
    return styles


def _baselines(both: Sequence[Any], rows: Sequence[Row], loss: float | None) -> None:
    for row in rows:
        if row["format"] != REAL:
            continue
        name = rule_of(row)
        for axes in both:
            style = ":" if name.endswith(" trn") else "-"
            axes.axhline(row["accuracy"], label=name, color=_GREY, linewidth=1, linestyle=style)
            if loss is not None:
                axes.axhspan(row["accuracy"] - loss, row["accuracy"], color=_GREY, alpha=0.12, linewidth=0)


def _width(axes: Any, rows: Sequence[Row], styles: Mapping[str, dict[str, Any]]) -> None:
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        found = width_and_rule(row)
        if found is not None:
            lines.setdefault(rule_of(row), []).append((found[0], row["accuracy"]))
    for name, points in lines.items():
        x, y = zip(*sorted(points), strict=True)
        axes.plot(x, y, **styles[name])
    widths = sorted({x for points in lines.values() for x, _ in points})
    if widths and len(widths) <= 20:
        axes.set_xticks(widths)
    axes.set(xlabel="width W of multipliers and biases, bits", ylabel="accuracy, %")
    axes.grid(alpha=0.3)


def _bits(axes: Any, rows: Sequence[Row], styles: Mapping[str, dict[str, Any]]) -> None:
    stored = sorted((row for row in rows if row["format"] != REAL), key=cost)
    for name, style in styles.items():
        own = [row for row in stored if rule_of(row) == name]
        x, y = [row["memory"] / 1000 for row in own], [row["accuracy"] for row in own]
        axes.plot(x, y, label=name, **{**style, "linestyle": "none"})
    front = pareto(rows)
    for bits in dict.fromkeys(row["bits"] for row in front):
        own = [row for row in front if row["bits"] == bits]
        x, y = [row["memory"] / 1000 for row in own], [row["accuracy"] for row in own]
        axes.step(x, y, where="post", color="black", linewidth=1, zorder=0)
        label = None if bits != front[0]["bits"] else "Pareto front"
        axes.plot(x, y, "o", markersize=11, markerfacecolor="none", color="black", label=label)
        for row, at in zip(own, x, strict=True):
            text = "mixed" if row["assigned"] else row["format"]
            axes.annotate(
                text, (at, row["accuracy"]), xytext=(4, -13), textcoords="offset points", fontsize=8
            )
    axes.set(xlabel="memory of all multipliers and biases, thousand bits")
    axes.grid(alpha=0.3)


def _near(axes: Any, rows: Sequence[Row], loss: float | None) -> None:
    """Look at the last points alone, where formats differ by little; say how many rows lie below."""
    accuracies = [row["accuracy"] for row in rows]
    bottom = min(r["accuracy"] for r in rows if r["format"] == REAL) - max(_NEAR, 2 * (loss or 0))
    below = sum(accuracy < bottom for accuracy in accuracies)
    if below:
        top = max(accuracies)
        axes.set_ylim(bottom, top + (top - bottom) / 12)
        text = f"{below} of {len(rows)} rows lie below"
        axes.annotate(text, (0.99, 0.01), xycoords="axes fraction", ha="right", fontsize=8, color=_GREY)
