"""The command line: a few lines a command; heavy modules load only when a command runs."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TextIO

import click

from hwq import __version__
from hwq.cli.options import HELP
from hwq.errors import HwqError, HwqNote
from hwq.terminal import shown_safely

COMMANDS = (
    "demo",
    "train",
    "calibrate",
    "evaluate",
    "export",
    "simulate",
    "sweep",
    "explain",
    "inspect",
    "doctor",
)


class _LazyGroup(click.Group):
    """Finds command NAME in `hwq.cli.NAME` as the function `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"hwq.cli.{cmd_name}").command
        return command


@click.group(cls=_LazyGroup, context_settings={**HELP, "max_content_width": 100})
@click.version_option(__version__, prog_name="hwq")
def group() -> None:
    """Take a PyTorch network to bit-exact fixed-point HLS C++, and prove it.

    \b
    hwq demo                              the whole route on real digits, in a minute or two
    hwq train RECIPE.toml --out RUN       quantisation-aware training
    hwq export RUN --fixed 32,10          an HLS project in RUN/hls
    hwq simulate RUN                      compile the C++ and compare every op, bit for bit
    hwq sweep RUN --fixed 32,10 --fixed 16,8
    hwq explain RUN --fixed 16,8          why that breaks, and the cheapest repair
    """


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, which end a command as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = signal.Signals(number)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Signals that would end the process at once raise `Terminated`: what was begun is cleared away."""

    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a worker that was forked off with this handler
            os._exit(128 + number)
        raise Terminated(number)

    changed = []
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # not under nohup
            try:
                signal.signal(number, stop)
            except ValueError:  # not the main thread: signals go elsewhere
                break
            changed.append(number)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


def main() -> None:
    """Run the command line; every expected failure is one line and a non-zero exit code."""
    warnings.filterwarnings("once", category=HwqNote)
    # torch, about its own speed
    warnings.filterwarnings("ignore", message="Using padding='same' with even kernel lengths")
    warnings.showwarning = _show
    with shown_safely():
        _main()


def _main() -> None:
    try:
        with _ended_by_signals():
            code = group(standalone_mode=False)
    except HwqError as error:
        _fail(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        told = f" ({context.command_path} --help tells more)" if context is not None else ""
        _fail(f"{error.format_message().rstrip('.')}{told}", error.exit_code)
    except (click.Abort, KeyboardInterrupt) as stop:
        by = stop if isinstance(stop, Terminated) else stop.__cause__
        if isinstance(by, Terminated):
            _fail(f"ended by {by.signal.name}", 128 + by.signal)
        _fail("interrupted", 130)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", 4)
    sys.exit(code if isinstance(code, int) else 0)


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A note is a line for the user; other warnings are Python's affair."""
    if issubclass(category, HwqNote):
        click.echo(f"note: {' '.join(str(message).split())}", err=True)
    else:
        click.echo(warnings.formatwarning(message, category, filename, lineno, line), err=True, nl=False)


def _fail(message: str, code: int) -> None:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(code)
