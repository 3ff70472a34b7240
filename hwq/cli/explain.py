"""`hwq explain`: why a format of the constants breaks a network, and what would repair it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hwq.cli.export import ExportOptions
from hwq.cli.options import HELP, NewFile, code_options, format_options
from hwq.errors import InputError
from hwq.terminal import argument, console

if TYPE_CHECKING:
    from hwq.data import Split
    from hwq.explain import Explanation, LayerFacts
    from hwq.train.checkpoint import Meta


@click.command(context_settings=HELP)
@click.argument("run", type=click.Path(path_type=Path))
@format_options
@click.option(
    "--images", type=click.IntRange(min=1), default=256, show_default=True, help="Test images looked at."
)
@click.option(
    "--worst", type=click.IntRange(min=1), default=5, show_default=True, help="Layers explained in words."
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 100, max_open=True),
    default=1.0,
    show_default=True,
    help="Percent of a layer's codes that may change.",
)
@code_options
@click.option("--off-bits", type=click.IntRange(1, 16), help="Codes for tensors that training left off.")
@click.option("--data", help="digits, cifar10[:ROOT] or folder:ROOT. Default: the data of training.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.")
@click.option("--json", "json_path", type=NewFile(), help="All of it, every layer.")
def command(
    run: Path,
    images: int,
    worst: int,
    threshold: float,
    threads: int | None,
    json_path: Path | None,
    **options: Any,
) -> None:
    """Say why --fixed breaks RUN (a run folder or a checkpoint), layer by layer, and what repairs it.

    Every layer is measured by itself, on the inputs that it gets where all other constants are as good as
    real: range of its multipliers and biases, the bits they need, what saturated or vanished, the share of
    output codes that changed, and the cheapest formats that keep it below the threshold. At the end the
    cheapest format for the whole network, and the command line for the bad layers alone.
    """
    export = ExportOptions(**options, allow_lossy=True)
    found = _explain(run, export, images, threshold / 100, threads)
    commands = _commands(run, export, found)
    if json_path is not None:
        _write(json_path, export, found, commands)
    _print(export, found, worst)
    for line in commands.values():
        click.echo(f"  {line}")
    if json_path is not None:
        click.echo(str(json_path))


def _explain(
    run: Path, options: ExportOptions, images: int, threshold: float, threads: int | None
) -> Explanation:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from hwq.cli.export import lower_run
    from hwq.explain import explain
    from hwq.train.restore import restore

    if (run / "graph.json").exists() or (run / "project.json").exists():
        raise InputError(
            f"{run}: an exported project holds integers alone; explain reads the run folder or checkpoint it "
            "was exported from"
        )
    formats = options.formats()
    model, meta = restore(run, options.code())
    sample = _test_images(meta, options.data).head(images)
    columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    screen = console(stderr=True)
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("lowering", total=None)
        return explain(
            lambda wanted: lower_run(model, meta, wanted, options),
            formats,
            sample.pixels,
            sample.labels,
            threshold=threshold,
            threads=threads,
            progress=lambda what, done, total: bar.update(
                task, description=what, completed=done, total=total
            ),
            note=lambda text: screen.print(f"note: {text}", soft_wrap=True, markup=False),
        )


def _test_images(meta: Meta, data: str | None) -> Split:
    from hwq.data import DataSpec, load_split

    split = load_split(DataSpec.parse(data, like=meta.data) if data else meta.data, "test")
    if split.shape != meta.image_shape:
        sizes = ("x".join(map(str, size)) for size in (meta.image_shape, split.shape))
        raise InputError("the network takes images of {}, the data holds {}".format(*sizes))
    return split


# -- what to do about it


def _commands(run: Path, options: ExportOptions, found: Explanation) -> dict[str, str]:
    """Command lines by name, as in `Explanation.accuracy`."""
    usual = ExportOptions()
    given = []
    edge = found.edge.cheapest if "edge" in found.accuracy else options.edge_fixed
    if edge is not None and edge != usual.edge_fixed:
        given += ["--edge-fixed", edge]
    if options.rounding != usual.rounding:
        given += ["--round", options.rounding]
    if options.off_bits is not None:
        given += ["--off-bits", str(options.off_bits)]
    lines = {}
    if "edge" in found.accuracy and not any(not layer.edge for layer in found.bad):
        layers = [word for layer in options.layers for word in ("--layer", layer)]
        lines["edge"] = ["--fixed", options.fixed, *given, *layers]
    if found.uniform:
        lines["uniform"] = ["--fixed", found.uniform[0].format, *given]
    if found.mixed:
        layers = [f"{pattern}={form}" for pattern, form in found.mixed.layers]
        words = [word for layer in layers for word in ("--layer", layer)]
        lines["mixed"] = ["--fixed", found.mixed.body, *given, *words]
    return {name: f"hwq export {argument(run)} {shlex.join(words)}" for name, words in lines.items()}


def _write(path: Path, options: ExportOptions, found: Explanation, commands: dict[str, str]) -> None:
    from hwq.files import write_atomically

    given = {"fixed": options.fixed, "edge_fixed": options.edge_fixed, "round": options.rounding}
    document = {**given, "layers_given": list(options.layers), **asdict(found), "commands": commands}
    write_atomically(path, json.dumps(document, indent=1) + "\n")


# -- the terminal


def _print(options: ExportOptions, found: Explanation, worst: int) -> None:
    from hwq.cli.console import output, warn
    from hwq.explain import sentences, summary

    screen = output()
    bad = found.bad
    if bad:
        screen.print(_table(bad[:worst], len(bad), options.fixed))
    for layer in bad[:worst]:
        screen.print(_title(layer), style="bold", markup=False, highlight=False, soft_wrap=True)
        for line in sentences(layer):
            screen.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    if len(bad) > worst:
        names = ", ".join(layer.op for layer in bad[worst:])
        screen.print(f"Also bad: {names}", markup=False, highlight=False, soft_wrap=True)
    for line in summary(found):
        if line.startswith("WARNING"):
            warn(line)
        else:
            screen.print(line, markup=False, highlight=False, soft_wrap=True)


def _title(layer: LayerFacts) -> str:
    """'layer1_0_relu2_quant (layer1.0.add, layer1.0.relu2, layer1.0.conv2)'."""
    others = ", ".join(layer.names[1:])
    return f"{layer.op} ({others})" if others else layer.op


def _table(layers: Sequence[LayerFacts], count: int, fixed: str) -> Any:
    from rich.table import Table
    from rich.text import Text

    from hwq.explain.words import percent, power

    table = Table(title=Text(f"--fixed {fixed}: the worst {len(layers)} of {count} bad layers"))
    table.add_column("layer", overflow="fold")
    table.add_column("codes changed", justify="right")
    table.add_column("constants of", overflow="fold")
    headings = ("smallest", "largest", "needs I", "needs F", "has I", "has F", "vanished", "saturated")
    for heading in headings:
        table.add_column(heading, justify="right")
    table.add_column("repair", no_wrap=True)
    for layer in layers:
        first = (Text(layer.op), percent(layer.share))
        for i, v in enumerate(layer.vectors):
            table.add_row(
                *(first if i == 0 else ("", "")),
                Text(v.source or "bias"),
                power(v.smallest),
                power(v.largest),
                *(str(n) if v.matter else "" for n in (v.needs_integer, v.needs_fraction)),
                _range(v.integer),
                _range(v.fraction),
                str(v.vanished or ""),
                str(v.saturated or ""),
                layer.repairs[0].format if i == 0 and layer.repairs else "",
            )
    return table


def _range(ends: tuple[int, int]) -> str:
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]}..{ends[1]}"
