"""Options that several commands share: which network on which data, and how it is quantised."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hwq.errors import InputError
from hwq.files import check_file

if TYPE_CHECKING:
    from hwq.train.trust import Trust

HELP = {"help_option_names": ["-h", "--help"]}
"""Of every command's context."""

F = TypeVar("F", bound=Callable[..., Any])


class NewFile(click.Path):
    """A file to write, refused before any work where that would fail. Raises InputError, OSError.

    Its folder must be there: a mistyped one is not made.
    """

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        name = param.opts[0] if param is not None else "file"
        if path.is_dir():  # "" is this folder
            raise InputError(f"{name} '{value}': is a folder")
        if not path.parent.is_dir():
            raise InputError(f"{name} {path}: no folder {path.parent}")
        check_file(path)
        return path


_DATA = (
    click.option("--model", help="digits, resnet20, resnet18, torchvision:NAME, module.py:factory, ..."),
    click.option("--data", help="digits, cifar10, cifar100, imagenet:/path, folder:/path."),
    click.option("--size", type=int, help="Folders: scale the images to squares of so many pixels."),
    click.option("--resize", type=int, help="Pixels of the shorter side before the centre is cut out."),
    click.option(
        "--skip-bad", is_flag=True, default=None, help="Folders: leave out files that cannot be read."
    ),
    click.option("--download", is_flag=True, default=None, help="Fetch cifar10/cifar100 when missing."),
    click.option("--mean", help="Per channel on the 0..1 scale, as in .485,.456,.406."),
    click.option("--std", help="Per channel on the 0..1 scale."),
)

_QUANT = (
    click.option(
        "--weights", "weight_method", help="Weight method: dorefa, dsq, lsq, mse, percentile, uniform."
    ),
    click.option(
        "--acts",
        "act_method",
        help="Activation method: dorefa, dsq, lsq, lsq+, mpact, pact, pact-fixed, uniform.",
    ),
    click.option("-w", "weight_bits", type=int, help="Weight bits, 1..16, 32 = off."),
    click.option("-a", "act_bits", type=int, help="Activation bits, 1..16, 32 = off."),
    click.option(
        "--first", metavar="WORD", help="First layer/image: weights (8 bits/as -a), 8/8, same, off."
    ),
    click.option("--last", metavar="WORD", help="Last layer/what it reads: the same words."),
    click.option("--first-bits", type=int, help="Weight bits of the first layer."),
    click.option("--last-bits", type=int, help="Weight bits of the last layer."),
    click.option(
        "--layer",
        metavar="PATTERN=WHAT",
        multiple=True,
        help="For the layers and activations of that name (* fits anything), as in 'blocks.*.expand=w6a6'. "
        "WHAT: w6a6, w6, a6, weights:METHOD, acts:METHOD, per-channel, per-tensor, joined by commas. "
        "Repeatable, later ones win.",
    ),
    click.option(
        "--per-channel/--per-tensor", default=None, help="Scales of weights: one a channel, or one."
    ),
    click.option(
        "--residual-bits",
        type=int,
        help="Bits of what additions and average pools read [as -a]; layers read -a.",
    ),
    click.option("--branch/--no-branch", default=None, help="Quantise residual branches before the add."),
    click.option(
        "--quantize-input/--no-quantize-input",
        default=None,
        help="Codes for the image, or floats: then export with --off-bits.",
    ),
)


_CODE = (
    click.option(
        "--model",
        metavar="FILE.py:FACTORY",
        help="The network's code, where it is another file than the one that trained it.",
    ),
    click.option(
        "--trust", is_flag=True, help="Run the model file that the checkpoint names, whatever it is by now."
    ),
)


_FORMATS = (
    click.option(
        "--fixed", default="32,10", show_default=True, help="Constants: W,I  W,auto  W,channel  shift."
    ),
    click.option("--edge-fixed", default="32,16", show_default=True, help="Input constants and logits: W,I."),
    click.option(
        "--round",
        "rounding",
        type=click.Choice(["rnd", "trn"]),
        default="rnd",
        show_default=True,
        help="Rounding of every requantisation: half up, or floor.",
    ),
    click.option(
        "--layer",
        "layers",
        metavar="PATTERN=FORMAT",
        multiple=True,
        help="Another format for the layers of that name (* fits anything), as in 'layer1.*=16,auto'. "
        "Repeatable, later ones win.",
    ),
)


def format_options(command: F) -> F:
    """How one network's constants are stored: fixed, edge_fixed, rounding, layers of `ExportOptions`."""
    return _all(_FORMATS, command)


def code_options(command: F) -> F:
    """Whether a checkpoint's model file may be run: model, trust. See `trusted`."""
    return _all(_CODE, command)


trust_option = _CODE[1]
"""Alone, for commands whose --model names the network anyway."""


def trusted(model: str | None, trust: bool | None) -> Trust:
    """What the options of `code_options` say."""
    from hwq.train.trust import Trust

    return Trust(model=model, everything=bool(trust))


def data_options(command: F) -> F:
    """The flags of `hwq.train.flags` that name network and data."""
    return _all(_DATA, command)


def quant_options(command: F) -> F:
    """The flags of `hwq.train.flags` that make a policy."""
    return _all(_QUANT, command)


def _all(options: tuple[Callable[[F], F], ...], command: F) -> F:
    for option in reversed(options):  # the last decorator applied is the first in --help
        command = option(command)
    return command
