"""Where tables go: the terminal at its width, a pipe or a file without folding columns."""

from __future__ import annotations

from rich.console import Console

from hwq.terminal import console

_PIPE_WIDTH = 160


def output() -> Console:
    """Standard output."""
    shown = console()
    return shown if shown.is_terminal else console(width=_PIPE_WIDTH)


def warn(*lines: str) -> None:
    """Lines nobody can miss, on standard output beside the figures they are about."""
    for line in lines:
        output().print(line, style="bold red", soft_wrap=True, markup=False, highlight=False)


def percent(share: float) -> str:
    """0..1 as '100%', '45.2%', '0.78%', '0.031%': never 0% for what is more than nothing."""
    value = 100 * share
    if value == 0 or value >= 99.95:
        return f"{value:.0f}%"
    return f"{value:.1f}%" if value >= 10 else f"{value:.2g}%"


def bits(count: int) -> str:
    """'1 bit', '12 bits'."""
    return f"{count} bit{'' if count == 1 else 's'}"
