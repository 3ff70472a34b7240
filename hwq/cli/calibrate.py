"""`hwq calibrate`: a float network quantised without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hwq.cli.options import HELP, data_options, quant_options, trust_option, trusted
from hwq.terminal import console

if TYPE_CHECKING:
    from rich.console import Console

    from hwq.train.posttraining import Stage


@click.command(context_settings=HELP)
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Run folder to make.")
@click.option("--recipe", type=click.Path(dir_okay=False), help="TOML file: network, data, [quant].")
@data_options
@quant_options
@click.option(
    "--ranges",
    type=click.Choice(["max", "percentile", "mse"]),
    default="mse",
    show_default=True,
    help="Activation ranges: the peak, a percentile, or the least squared error.",
)
@click.option("--percentile", type=float, help="With --ranges percentile.  [default: 99.9]")
@click.option("--images", default=1024, show_default=True, help="Training images to calibrate on.")
@click.option(
    "--bn-estimate/--no-bn-estimate",
    default=None,
    help="Batch-norm statistics of the quantised network.  [default: with dorefa weights only]",
)
@click.option(
    "--bias-correction/--no-bias-correction",
    default=True,
    show_default=True,
    help="Give every channel the mean it had as a float.",
)
@click.option("--test-images", type=int, help="Accuracies on a sample of so many test images.")
@trust_option
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or auto.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.")
def command(
    source: Path,
    out: Path,
    recipe: str | None,
    ranges: str,
    percentile: float | None,
    images: int,
    bn_estimate: bool | None,
    bias_correction: bool,
    test_images: int | None,
    device: str,
    threads: int | None,
    trust: bool,
    **flags: Any,
) -> None:
    """Quantise the float network in SOURCE without training, into the run folder --out.

    SOURCE is a float run of hwq, or a state dict (.pt, .pth, .safetensors) of --model. What it writes is
    exported, simulated and trained on like any run: `hwq train RUN/recipe.toml --init-from RUN` keeps
    its ranges.

    \b
    hwq calibrate runs/float --out runs/w8a8
    hwq calibrate resnet20.pt --model resnet20 --data folder:/data/cifar10 -w 4 -a 4 --out runs/w4a4
    """
    import torch

    from hwq.errors import InputError
    from hwq.quant import Ranges
    from hwq.train.flags import calibration_recipe
    from hwq.train.posttraining import Calibration, calibrate_run

    if threads is not None:
        torch.set_num_threads(threads)
    if percentile is not None and ranges != "percentile":
        raise InputError("--percentile goes with --ranges percentile")
    options = Calibration(
        ranges=Ranges(method=ranges, percentile=99.9 if percentile is None else percentile),
        images=images,
        bn_estimate=bn_estimate,
        bias_correction=bias_correction,
        test_images=test_images,
    )
    given = {k: v for k, v in flags.items() if v is not None and v != ()}
    chosen = calibration_recipe(source, recipe, given, trusted(given.get("model"), trust))
    with _Shown() as watcher:
        done = calibrate_run(chosen, source, out, options, device=device, watcher=watcher)
    for line in done.notes:
        click.echo(line)
    if done.bias_images and done.bias_images < images:
        click.echo(f"bias correction used {done.bias_images} images: no more fit in memory at once")
    if done.uncorrected:
        listed = ", ".join(done.uncorrected[:5]) + (" ..." if len(done.uncorrected) > 5 else "")
        click.echo(f"without bias correction, having neither bias nor batch norm: {listed}")
    last = done.stages[-1]
    click.echo(f"{out}: test accuracy {last.accuracy:.2f}% of {done.test_images} images")


class _Shown:
    """A line for each accuracy; on a terminal a bar for what goes on."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.console: Console = console()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        hidden = not self.console.is_terminal
        self.bar = Progress(*columns, console=self.console, transient=True, disable=hidden)

    def __enter__(self) -> _Shown:
        self.bar.start()
        self.task = self.bar.add_task("", total=None)
        self.what = ""
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def step(self, what: str, done: int, total: int) -> None:
        if what != self.what:
            self.what = what
            self.bar.reset(self.task)
        self.bar.update(self.task, description=what, completed=done, total=total)

    def stage(self, stage: Stage) -> None:
        self.console.print(f"{stage.name:<22} {stage.accuracy:6.2f}%", highlight=False, markup=False)
