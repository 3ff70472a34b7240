"""`hwq train`: quantisation-aware (or float) training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("recipe", required=False, type=click.Path(dir_okay=False))
@click.option("--out", required=True, type=click.Path(), help="Run folder to make, or to go on with.")
@click.option("--model", help="digits, mlp, toynet, resnet20, ... or module.py:factory.")
@click.option("--data", help="digits, cifar10, cifar100, folder:/path.")
@click.option("--download", is_flag=True, default=None, help="Fetch cifar10/cifar100 when missing.")
@click.option("--float", "floating", is_flag=True, help="No quantisation at all.")
@click.option("--weights", "weight_method", help="Weight method: dorefa, uniform.")
@click.option("--acts", "act_method", help="Activation method: mpact, pact, uniform.")
@click.option("-w", "weight_bits", type=int, help="Weight bits, 1..16, 32 = off.")
@click.option("-a", "act_bits", type=int, help="Activation bits, 1..16, 32 = off.")
@click.option("--first-bits", type=int, help="Weight bits of the first layer.")
@click.option("--last-bits", type=int, help="Weight bits of the last layer.")
@click.option("--epochs", type=int, help="Passes over the training images.")
@click.option("--lr", type=float, help="Peak learning rate.")
@click.option("--batch", type=int, help="Images a step.")
@click.option("--init-from", type=click.Path(), help="Checkpoint whose float parameters are the start.")
@click.option("--mean", help="Per channel on the 0..1 scale, as in .485,.456,.406.")
@click.option("--std", help="Per channel on the 0..1 scale.")
@click.option("--seed", type=int, help="Seed of everything random.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out, exactly where it stopped.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or auto.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.")
def command(
    recipe: str | None, out: str, resume: bool, device: str, threads: int | None, **flags: Any
) -> None:
    """Train a network, quantisation-aware, into the run folder --out.

    RECIPE is a TOML file; flags override it. Without either, digits are trained at W8A8.

    \b
    hwq train --data digits --out runs/digits
    hwq train examples/resnet20-w8a8.toml --data folder:/data/cifar10 --out runs/resnet20
    hwq train --resume --out runs/resnet20
    """
    import torch

    from hwq.errors import InputError
    from hwq.train import Rich, resume_recipe, train

    if threads is not None:
        torch.set_num_threads(threads)
    given = {k: v for k, v in flags.items() if v is not None and v is not False}
    if resume:
        if recipe is not None or given:
            raise InputError("--resume takes the run's own recipe: give only --out, --device and --threads")
        chosen = resume_recipe(Path(out))
    else:
        from hwq.train.flags import recipe_from_flags

        chosen = recipe_from_flags(recipe, given)
    result = train(chosen, Path(out), resume=resume, device=device, reporter=Rich())
    click.echo(f"{result.out}: test accuracy {result.accuracy:.2f}% (best epoch {result.best:.2f}%)")
