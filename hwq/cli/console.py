"""Where tables go: the terminal at its width, a pipe or a file without folding columns."""

from __future__ import annotations

from rich.console import Console

_PIPE_WIDTH = 160


def output() -> Console:
    """Standard output."""
    console = Console()
    return console if console.is_terminal else Console(width=_PIPE_WIDTH)
