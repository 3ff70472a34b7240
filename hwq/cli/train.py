"""`hwq train`: quantisation-aware (or float) training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from hwq.cli.options import HELP, data_options, quant_options, trust_option, trusted


@click.command(context_settings=HELP)
@click.argument("recipe", required=False, type=click.Path(dir_okay=False))
@click.option("--out", required=True, type=click.Path(), help="Run folder to make, or to go on with.")
@data_options
@click.option("--float", "floating", is_flag=True, default=None, help="No quantisation at all.")
@quant_options
@click.option("--epochs", type=int, help="Passes over the training images.")
@click.option("--lr", type=float, help="Peak learning rate.")
@click.option("--batch", type=int, help="Images a step.")
@click.option("--augment", metavar="HOW", help="crop-flip, crop, none, or resized-crop (with --size).")
@click.option("--init-from", type=click.Path(), help="Checkpoint whose float parameters are the start.")
@click.option("--pretrained", type=click.Path(), help="The same; of other classes, all but the last layer.")
@click.option(
    "--finetune", metavar="RUN", type=click.Path(), help="Go on from a trained or calibrated run, its recipe."
)
@click.option(
    "--fixed", metavar="FORMAT", help="End with constants in fixed point: W,I  W,auto  W,channel  shift."
)
@click.option("--edge-fixed", metavar="W,I", help="With --fixed: input constants and logits [32,16].")
@click.option(
    "--round",
    "rounding",
    type=click.Choice(["rnd", "trn"]),
    help="With --fixed: rounding of every requantisation [rnd].",
)
@click.option(
    "--teacher", type=click.Path(), help="Distil from this network: a run, or a state dict of --model."
)
@click.option("--seed", type=int, help="Seed of everything random.")
@click.option(
    "--set",
    metavar="SECTION.KEY=VALUE",
    multiple=True,
    help="Any other key of a recipe, as in train.weight_decay=1e-4. Repeatable.",
)
@click.option("--tensorboard", is_flag=True, default=None, help="Also write TensorBoard's event files.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out, exactly where it stopped.")
@click.option("--evaluate", is_flag=True, help="No training: the test accuracy of the run in --out.")
@trust_option
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or auto.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.")
@click.option("--workers", type=click.IntRange(min=0), help="Processes that decode images [one a CPU].")
def command(
    recipe: str | None,
    out: str,
    resume: bool,
    evaluate: bool,
    device: str,
    threads: int | None,
    workers: int | None,
    trust: bool,
    **flags: Any,
) -> None:
    """Train a network, quantisation-aware, into the run folder --out.

    RECIPE is a TOML file; flags override it. Without either, digits are trained at W8A8.

    \b
    hwq train --data digits --out runs/digits
    hwq train examples/resnet20-w8a8.toml --data folder:/data/cifar10 --out runs/resnet20
    hwq train --resume --out runs/resnet20
    hwq train --finetune runs/resnet20 --fixed 16,8 --out runs/resnet20-16
    torchrun --nproc-per-node 4 -m hwq train RECIPE.toml --out runs/four --device cuda
    """
    import torch

    from hwq.errors import InputError
    from hwq.train import Rich, Silent, joined, resume_recipe, train
    from hwq.train.flags import recipe_from_flags

    if threads is not None:
        torch.set_num_threads(threads)
    given = {k: v for k, v in flags.items() if v is not None and v != ()}
    code = trusted(given.get("model"), trust)
    if evaluate:
        if recipe is not None or given or resume:
            raise InputError("--evaluate takes the run's own recipe: leave out RECIPE and all flags of it")
        from hwq.cli.evaluate import command as evaluation

        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and int(os.environ.get("RANK", "0")):
            return  # of torchrun's processes the first speaks, and it needs no others for this
        click.get_current_context().invoke(evaluation, run=out, device=device, threads=threads, trust=trust)
        return
    own = resume and recipe is None
    if own and set(given) - {"model"}:
        raise InputError("--resume takes the run's own recipe: leave out the flags that change it")
    with joined(device) as world:
        chosen = resume_recipe(Path(out), code) if own else recipe_from_flags(recipe, given, trust=code)
        reporter = Rich() if world.main else Silent()
        result = train(
            chosen,
            Path(out),
            resume=resume,
            device=device,
            reporter=reporter,
            world=world,
            workers=workers,
            trust=code,
        )
        if world.main:
            click.echo(f"{result.out}: test accuracy {result.accuracy:.2f}% (best epoch {result.best:.2f}%)")
