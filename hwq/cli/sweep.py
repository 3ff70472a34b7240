"""`hwq sweep`: accuracy and code-error rate over a grid of constant formats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from hwq.engine import Preference
    from hwq.sweep import Grid, GridPoint, Store

DEFAULT = ("32,10", "24,10", "16,8", "16,6", "16,auto", "12,channel", "8,auto")
_CALIBRATION_IMAGES = 256


@click.command
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--fixed", multiple=True, metavar="FORMAT", help=f"May be repeated. [{' '.join(DEFAULT)}]")
@click.option("--edge-fixed", default="32,16", show_default=True, help="Input constants and logits: W,I.")
@click.option(
    "--round",
    "rounding",
    type=click.Choice(["rnd", "trn"]),
    default="rnd",
    show_default=True,
    help="Rounding of every requantisation: half up, or floor.",
)
@click.option("--images", type=click.IntRange(min=1), help="A sample of this many test images. Default: all.")
@click.option("--data", help="Other data than the run's own: digits, cifar10[:ROOT] or folder:ROOT.")
@click.option("--off-bits", type=click.IntRange(1, 16), help="Codes for tensors that training left off.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "native", "torch"]),
    default="auto",
    show_default=True,
    help="Which exact simulator: compiled C++, torch, or the first that runs here. All give the same.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Default: RUN/sweep.csv.")
def command(
    run: Path,
    fixed: Sequence[str],
    edge_fixed: str,
    rounding: str,
    images: int | None,
    data: str | None,
    off_bits: int | None,
    threads: int | None,
    engine: Preference,
    out: Path | None,
) -> None:
    """Measure RUN (a run folder or a checkpoint) at several formats of its constants.

    Each row: test accuracy, and the share of output codes that differ from real-valued constants on
    identical inputs, mean over layers. Lossy constants are counted, not refused. Rows go to a CSV and a
    JSON as they are done; a second call computes only what is missing.
    """
    from hwq.files import check_writable
    from hwq.sweep import GridPoint, Store

    points = [GridPoint.parse(text) for text in ("real", *(fixed or DEFAULT))]
    store = Store.open(out or (run if run.is_dir() else run.parent) / "sweep.csv")
    check_writable(store.csv_path.parent)
    grid = _grid(run, edge_fixed, rounding, images, data, off_bits)
    rows = _run(grid, points, store, threads, engine)
    _print(rows, store)


def _grid(
    run: Path, edge_fixed: str, rounding: str, images: int | None, data: str | None, off_bits: int | None
) -> Grid:
    import hashlib

    from hwq.data import DataSpec, load_split
    from hwq.errors import InputError
    from hwq.fixed import ConstantFormat, Rounding, parse_edge
    from hwq.lower import Formats, lower
    from hwq.quant import off_tensors
    from hwq.sweep import Candidate, Grid
    from hwq.train.checkpoint import find
    from hwq.train.restore import restore

    edge = parse_edge(edge_fixed)
    path = find(run)
    model, meta = restore(path)
    spec = DataSpec.parse(data, like=meta.data) if data else meta.data
    split = load_split(spec, "test")
    if split.shape != meta.image_shape:
        sizes = ("x".join(map(str, size)) for size in (meta.image_shape, split.shape))
        raise InputError("the network takes images of {}, the data holds {}".format(*sizes))
    sample = split.head(images) if images else split
    batches = _calibration(spec, meta) if off_bits is not None and off_tensors(model) else []
    height, width, channels = meta.image_shape

    def lower_with(form: ConstantFormat) -> Candidate:
        done = lower(
            model,
            shape=(channels, height, width),
            mean=meta.mean,
            std=meta.std,
            formats=Formats(body=form, edge=edge, rounding=Rounding(rounding.upper())),
            off_bits=off_bits,
            batches=batches,
            allow_lossy=True,
        )
        report = done.report
        return Candidate(
            graph=done.graph,
            real=report.real,
            saturated=len(report.saturated),
            vanished=len(report.vanished),
            harmful=len(report.harmful),
        )

    return Grid(
        checkpoint=hashlib.sha256(path.read_bytes()).hexdigest(),
        data=str(spec),
        lower=lower_with,
        pixels=sample.pixels,
        labels=sample.labels,
        round=rounding,
        edge=str(edge),
        off_bits=off_bits,
    )


def _calibration(spec: Any, meta: Any) -> list[Any]:
    """A batch of normalised training images, for ranges of tensors that were off."""
    import torch

    from hwq.data import load_split
    from hwq.train.restore import Normalise

    sample = load_split(spec, "train").head(_CALIBRATION_IMAGES)
    return [Normalise(meta.mean, meta.std, "cpu")(torch.from_numpy(sample.pixels))]


def _run(
    grid: Grid, points: Sequence[GridPoint], store: Store, threads: int | None, engine: Preference
) -> list[dict[str, Any]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from hwq.sweep import run_grid

    columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        names = dict.fromkeys(point.name for point in points)
        tasks = {name: bar.add_task(name, total=len(grid.pixels), start=False) for name in names}

        def progress(name: str, images: int) -> None:
            bar.start_task(tasks[name])
            bar.update(tasks[name], completed=images)

        def note(text: str) -> None:
            console.print(f"note: {text}", soft_wrap=True, markup=False)

        return run_grid(grid, points, store, threads=threads, engine=engine, progress=progress, note=note)


def _print(rows: Sequence[dict[str, Any]], store: Store) -> None:
    from rich.table import Table

    from hwq.cli.console import output

    first = rows[0]
    table = Table(title=f"{first['images']} images, --round {first['round']}, edge {first['edge']}")
    table.add_column("constants", no_wrap=True)
    for name in ("accuracy", "code errors", "worst layer", "saturated", "vanished", "harmful"):
        table.add_column(name, justify="right")
    for row in rows:
        worst = max(row["layers"].values(), default=0.0)
        shares = (f"{row['accuracy']:.2f}%", f"{100 * row['local']:.3f}%", f"{100 * worst:.2f}%")
        table.add_row(row["format"], *shares, *(str(row[n]) for n in ("saturated", "vanished", "harmful")))
    console = output()
    console.print(table)
    console.print(
        "code errors: output codes that differ from real-valued constants on identical inputs, mean over "
        "layers (input and logits apart)",
        soft_wrap=True,
    )
    console.print(f"{store.csv_path} and {store.json_path}", soft_wrap=True)
