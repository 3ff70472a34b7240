"""What a training run tells its user while it runs."""

from __future__ import annotations

from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Reporter(Protocol):
    """Receives the events of a run."""

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

    def note(self, text: str) -> None: ...
    def begin(self, steps: int, done: int) -> None: ...
    def step(self, loss: float, speed: float) -> None: ...
    def end(self) -> None: ...


class Rich:
    """A progress bar on a terminal, lines elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._bar: Progress | None = None

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
