"""What a training run tells its user while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from hwq.quant import Row, table
from hwq.quant.placing.describe import COLUMNS, cells
from hwq.terminal import console as screen


class Reporter(Protocol):
    """Receives the events of a run."""

    def opening(self, line: str, rows: Sequence[Row]) -> None:
        """What is about to be trained, and what each of its tensors got; no rows for float training."""

    def note(self, text: str) -> None:
        """A line of news."""

    def begin(self, steps: int, done: int) -> None:
        """`steps` iterations in all, of which `done` are done already."""

    def step(self, loss: float, speed: float) -> None:
        """One iteration: mean loss of the epoch so far, images a second."""

    def end(self) -> None:
        """No more iterations."""


class Silent:
    """Tells nothing."""

    def opening(self, line: str, rows: Sequence[Row]) -> None: ...
    def note(self, text: str) -> None: ...
    def begin(self, steps: int, done: int) -> None: ...
    def step(self, loss: float, speed: float) -> None: ...
    def end(self) -> None: ...


class Rich:
    """A progress bar on a terminal, lines elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or screen()
        self._bar: Progress | None = None

    def opening(self, line: str, rows: Sequence[Row]) -> None:
        # soft_wrap: lines of a pipe or a file stay whole
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        if rows and self.console.is_terminal:
            self.console.print(_bits(rows))
        elif rows:
            self.console.print(table(rows), highlight=False, markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    def begin(self, steps: int, done: int) -> None:
        if not self.console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]:.0f} images/s  left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self._bar.start()
        self._bar.add_task("", total=steps, completed=done, loss=0.0, speed=0.0)

    def step(self, loss: float, speed: float) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], advance=1, loss=loss, speed=speed)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _bits(rows: Sequence[Row]) -> Table:
    """What every tensor got, for a terminal."""
    shown = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in COLUMNS:
        shown.add_column(heading, overflow="fold")
    for row in rows:
        shown.add_row(*map(Text, cells(row)), style="" if row.kind == "weight" else "dim")
    return shown
