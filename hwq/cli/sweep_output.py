"""What `hwq sweep` prints: its table, the smallest formats within a loss, and the commands that use them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hwq.cli.console import output, warn
from hwq.terminal import argument, console

if TYPE_CHECKING:
    from hwq.cli.networks import Networks
    from hwq.sweep import Point, Row

_EDGE = "32,16"


class Shown:
    """Progress on a terminal, notes anywhere; both on standard error."""

    def __init__(self, points: Sequence[Point], images: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        hidden = not self._console.is_terminal
        self._bar = Progress(*columns, console=self._console, transient=True, disable=hidden)
        self._images, self._done = images, dict.fromkeys(points, 0)
        self._task = self._bar.add_task("lowering", total=images * len(self._done))

    def __enter__(self) -> Shown:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def images(self, point: Point, done: int) -> None:
        """So many of the point's images are done; points of a search come on top of the grid's."""
        self._done[point] = done
        total, completed = self._images * len(self._done), sum(self._done.values())
        self._bar.update(self._task, description=str(point), total=total, completed=completed)

    def step(self, what: str, total: int) -> Callable[[int], None]:
        """A bar of its own; call it with what is done."""
        task = self._bar.add_task(what, total=total)
        return lambda done: self._bar.update(task, completed=done)

    def note(self, text: str) -> None:
        self._console.print(f"note: {text}", soft_wrap=True, markup=False, highlight=False)


def print_table(rows: Sequence[Row], wrong_above: float) -> None:
    """One row a measurement; wrong_above in percent."""
    from rich.table import Table
    from rich.text import Text

    from hwq.sweep import clipping_warning, pareto, point_of

    first, console = rows[0], output()
    front = [id(row) for row in pareto(rows)]
    checked = any(row["checked"] for row in rows)
    clipped = any(row["clipped"] for row in rows)
    table = Table(title=f"{first['images']:,} images, edge {first['edge']}")
    table.add_column("constants", no_wrap=True)
    for name in ("accuracy", "code errors", "worst layer", "logits, dB", "memory, bits"):
        table.add_column(name, justify="right")
    for name in ("saturated", "vanished", "harmful"):
        table.add_column(name, justify="right")
    table.add_column("first wrong", overflow="fold")
    if clipped:
        table.add_column("images clipped", justify="right", style="bold red")
    if checked:
        table.add_column("C++", overflow="fold")
    for row in rows:
        worst = max(row["layers"].values(), default=0.0)
        ratio = "" if row["logits_snr"] is None else f"{row['logits_snr']:.1f}"
        mark = " *" if id(row) in front else ""
        table.add_row(
            Text(f"{point_of(row)}{mark}"),
            f"{row['accuracy']:.2f}%",
            f"{100 * row['local']:.3f}%",
            f"{100 * worst:.2f}%",
            ratio,
            f"{row['memory']:,}",
            *(str(row[name] or "") for name in ("saturated", "vanished", "harmful")),
            Text(row["first_wrong"]),
            *([f"{100 * row['clipped_images'] / row['images']:.2f}%"] if clipped else []),
            *([Text(row["checked"])] if checked else []),
        )
    console.print(table)
    for line in (
        "* no other format is as accurate with fewer bits (Pareto front)",
        "code errors: output codes that differ from real-valued constants on identical inputs, mean over "
        f"layers (input and logits apart), of {first['error_images']:,} images",
        "logits, dB: signal to noise against the logits with real-valued constants",
        f"first wrong: the first layer with over {wrong_above:g}% wrong codes or with harmful constants",
    ):
        console.print(line, soft_wrap=True, highlight=False)
    warn(*filter(None, [clipping_warning(rows)]))


def print_smallest(rows: Sequence[Row], loss: float, networks: Networks, data: str | None) -> None:
    """The smallest width within the loss, rule by rule, and how to export what takes the fewest bits."""
    from hwq.sweep import point_of, smallest, within

    console = output()
    good = within(rows, loss)
    for bits in dict.fromkeys(row["bits"] for row in rows):
        best, least = smallest([row for row in good if row["bits"] == bits])
        what = f"within {loss:g} points of real-valued constants" + (
            f", w{bits.replace('/', 'a')}" * bool(bits)
        )
        if least is None:
            console.print(f"{what}: none of these formats", soft_wrap=True, highlight=False)
            continue
        console.print(f"{what}:", soft_wrap=True, highlight=False)
        for rule, row in best.items():
            width = row["format"].split(",")[0]
            text = f"  {rule}: {width} bits ({row['accuracy']:.2f}%, {row['memory']:,} bits of constants)"
            console.print(text, soft_wrap=True, highlight=False)
        text = f"  fewest bits: {point_of(least)} ({least['accuracy']:.2f}%, {least['memory']:,} bits)"
        console.print(text, soft_wrap=True, highlight=False)
        line = export_line(least, networks.folder(bits), data)
        console.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)


def print_mixed(found: Mapping[Point, Row | None], loss: float, networks: Networks, data: str | None) -> None:
    """What --mixed found for each network, and the command that uses it."""
    console = output()
    for reference, row in found.items():
        if row is None:
            text = f"mixed: none of the formats is within {loss:g} points of {reference}"
            console.print(text, soft_wrap=True, highlight=False)
            continue
        text = f"mixed, within {loss:g} points of {reference}: {row['accuracy']:.2f}%, {row['memory']:,} bits"
        console.print(text, soft_wrap=True, highlight=False)
        line = export_line(row, networks.folder(reference.bits), data)
        console.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)


def export_line(row: Row, run: Path, data: str | None) -> str:
    """The `hwq export` that makes this row's project."""
    words = ["--fixed", row["format"]]
    for text in row["assigned"]:
        words += ["--layer", text]
    if row["round"] != "rnd":
        words += ["--round", row["round"]]
    if row["edge"] != _EDGE:
        words += ["--edge-fixed", row["edge"]]
    if row["off_bits"] is not None:
        words += ["--off-bits", str(row["off_bits"])]
    if data is not None:
        words += ["--data", data]
    if row["harmful"]:
        words.append("--allow-lossy")
    return f"hwq export {argument(run)} {shlex.join(words)}"
