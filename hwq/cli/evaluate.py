"""`hwq evaluate`: accuracy of a trained network as training computes it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from hwq.cli.options import HELP, NewFile, code_options, format_options, trusted

if TYPE_CHECKING:
    from torch import fx

    from hwq.data import Split
    from hwq.train.checkpoint import Meta


@click.command(context_settings=HELP)
@click.argument("run", type=click.Path())
@click.option("--data", help="Other data than the run's own: digits, cifar10, folder:/path.")
@click.option("--images", type=click.IntRange(min=1), help="A sample of this many test images.")
@code_options
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.")
@click.option("--integer", is_flag=True, help="Its integers, too: both accuracies, and where they differ.")
@format_options
@click.option("--off-bits", type=click.IntRange(1, 16), help="With --integer: codes for tensors left off.")
@click.option("--json", "json_path", type=NewFile(), help="With --integer: what was found.")
def command(
    run: str,
    data: str | None,
    images: int | None,
    device: str,
    threads: int | None,
    integer: bool,
    json_path: Path | None,
    model: str | None,
    trust: bool,
    **options: Any,
) -> None:
    """Test accuracy of RUN (a run folder or a checkpoint file), fake-quantised as in training.

    With --integer also that of the integers that `hwq export` makes of it in these formats, run by the
    native engine, and how many answers and codes agree.
    """
    import torch

    from hwq.data import DataSpec, load_split
    from hwq.errors import InputError
    from hwq.train import evaluate, restore

    if threads is not None:
        torch.set_num_threads(threads)
    network, meta = restore(Path(run), trusted(model, trust))
    split = load_split(DataSpec.parse(data, like=meta.data) if data else meta.data, "test")
    if split.shape != meta.image_shape:
        raise InputError(f"the images are {split.shape}, the network takes {meta.image_shape}")
    if len(split.classes) != len(meta.classes):
        raise InputError(f"the data has {len(split.classes)} classes, the network {len(meta.classes)}")
    sample = split.head(images) if images else split
    if integer:
        _integers(Path(run), network, meta, sample, options, threads, json_path)
        return
    given = click.get_current_context().get_parameter_source
    formats = ("fixed", "edge_fixed", "rounding", "layers", "off_bits", "json_path")
    if any(given(name) is ParameterSource.COMMANDLINE for name in formats):
        raise InputError("formats of constants, --off-bits and --json go with --integer")
    accuracy = evaluate(network.to(device), sample, meta.mean, meta.std)
    click.echo(f"{run}: {accuracy:.2f}% of {len(sample)} test images (epoch {meta.epoch})")


def _integers(
    run: Path,
    model: fx.GraphModule,
    meta: Meta,
    images: Split,
    options: dict[str, Any],
    threads: int | None,
    json_path: Path | None,
) -> None:
    from dataclasses import asdict

    from hwq.agreement.evaluate import evaluate_integers
    from hwq.cli.console import warn
    from hwq.cli.export import ExportOptions, lower_run
    from hwq.cosim.verdict import write_json
    from hwq.engine import simulator

    export = ExportOptions(**options, allow_lossy=True)
    lowered = lower_run(model, meta, export.formats(), export)
    runner = simulator(lowered.graph, threads, note=lambda text: click.echo(f"note: {text}", err=True))
    found = evaluate_integers(model, meta, lowered, runner, images)
    trained, integers = found.agreement.answers.accuracies
    text = f"{run}: {found.agreement.trained} {trained:.2f}%, integers {integers:.2f}%"
    click.echo("\n".join([f"{text} of {len(images)} test images (epoch {meta.epoch})", *found.lines()]))
    if json_path is not None:
        content = {
            "run": str(run),
            **{k: options[k] for k in ("fixed", "edge_fixed", "rounding", "layers", "off_bits")},
            "logits": asdict(found.logits),
            **found.agreement.to_json(),
            "warnings": found.warnings(),
        }
        write_json(json_path, content)
    warn(*found.warnings())
