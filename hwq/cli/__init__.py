"""The command line: a few lines a command; heavy modules load only when a command runs."""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import TextIO

import click

from hwq import __version__
from hwq.errors import HwqError, HwqNote

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
        # click keeps the first context's names of --help, and that may be another's than this group's
        command.context_settings.setdefault("help_option_names", ["-h", "--help"])
        return command


@click.group(
    cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
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


def main() -> None:
    """Run the command line; every expected failure is one line and a non-zero exit code."""
    warnings.filterwarnings("once", category=HwqNote)
    warnings.showwarning = _show
    try:
        code = group(standalone_mode=False)
    except HwqError as error:
        _fail(str(error), error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
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
