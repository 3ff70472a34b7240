"""`hwq export`: a checkpoint to an HLS project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hwq.cli.issues import ISSUES, encode
from hwq.cli.options import HELP, code_options, format_options, trusted
from hwq.errors import InputError
from hwq.terminal import argument

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from hwq.data import DataSpec, Split
    from hwq.emit.folding import Folding
    from hwq.explain import EdgeFacts
    from hwq.ir import Graph
    from hwq.lower import Formats, FormatUse, Lowered
    from hwq.train.checkpoint import Meta
    from hwq.train.trust import Trust

GOLDEN_IMAGES = 4
_CALIBRATION_IMAGES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """The command's options, as text where the user wrote text."""

    fixed: str = "32,10"
    edge_fixed: str = "32,16"
    rounding: str = "rnd"
    layers: Sequence[str] = ()
    fold: Sequence[str] = ()
    folding: Path | None = None
    off_bits: int | None = None
    allow_lossy: bool = False
    out: Path | None = None
    data: str | None = None
    model: str | None = None
    trust: bool = False

    def code(self) -> Trust:
        """Whether the checkpoint's model file may be run."""
        return trusted(self.model, self.trust)

    def formats(self) -> Formats:
        """Raises InputError for an unknown format or one out of range."""
        from hwq.fixed import Rounding, parse_edge, parse_format
        from hwq.lower import Formats, parse_override

        return Formats(
            body=parse_format(self.fixed),
            edge=parse_edge(self.edge_fixed),
            rounding=Rounding(self.rounding.upper()),
            overrides=tuple(parse_override(text) for text in self.layers),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export wrote.

    issues: constants that saturated or vanished where it could matter, in words. uses: every format's.
    edge: the logits against their type, on training images.
    """

    folder: Path
    ops: int
    macs: int
    issues: Sequence[str]
    uses: Sequence[FormatUse] = ()
    notes: Sequence[str] = ()
    edge: EdgeFacts | None = None


@click.command(context_settings=HELP)
@click.argument("run", type=click.Path(path_type=Path))
@format_options
@click.option("--fold", multiple=True, metavar="[OP=]PE,SIMD", help="Folding of a layer, or a limit for all.")
@click.option(
    "--folding", type=click.Path(path_type=Path, dir_okay=False), help="TOML or JSON: {op: [PE, SIMD]}."
)
@code_options
@click.option("--off-bits", type=click.IntRange(1, 16), help="Codes for tensors that training left off.")
@click.option("--allow-lossy", is_flag=True, help="Go on when constants saturate or vanish.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Default: RUN/hls.")
@click.option("--data", help="digits, cifar10[:ROOT] or folder:ROOT. Default: the data of training.")
def command(run: Path, **options: Any) -> int:
    """Lower RUN (a run folder or a checkpoint) to integers and write an HLS project.

    The project holds the C++, the weights, scripts for Vitis HLS and Vivado HLS, and a test bench.
    """
    from hwq.cli.console import warn

    done = export_run(run, ExportOptions(**options))
    for note in done.notes:
        click.echo(f"note: {note}")
    _print_uses(done.uses)
    for issue in done.issues[:5]:
        click.echo(f"lossy: {issue}")
    if len(done.issues) > 5:
        click.echo(f"lossy: {len(done.issues) - 5} more constants; `hwq inspect` lists them")
    if done.edge is not None:
        (warn if done.edge.logits.clipped else click.echo)(str(done.edge))
    click.echo(f"{done.folder}: {done.ops} ops, {done.macs:,} multiply-accumulates an image")
    click.echo(f"next: hwq simulate {argument(done.folder)}")
    return 0


def export_run(run: Path, options: ExportOptions) -> Exported:
    """Restore, lower, run the passes, write the project; by default into the run folder, held meanwhile.

    Raises InputError (checkpoint, formats, folding, output folder), UnsupportedError (the network).
    """
    from hwq.emit.project import recover_project
    from hwq.files import run_lock

    options.formats()
    if not run.exists():
        raise InputError(f"{run}: no such file or folder")
    folder = run if run.is_dir() else run.parent
    out = options.out or folder / "hls"
    recover_project(out)  # of an earlier export, even where this one fails
    with run_lock(folder) if options.out is None else nullcontext():
        return _export(run, out, options)


def _export(run: Path, out: Path, options: ExportOptions) -> Exported:
    from hwq.cosim.project import write_project
    from hwq.explain.training import look_at_edges
    from hwq.ir import Conv2d, Linear
    from hwq.lower import format_uses
    from hwq.passes import run_passes
    from hwq.quant import off_tensors
    from hwq.train.restore import restore

    formats = options.formats()
    model, meta = restore(run, options.code())
    images, missing = _images(meta, options.data)
    unused = ""
    if options.off_bits is not None and not off_tensors(model):
        unused = "--off-bits changed nothing: training left no tensor off"
    lowered = lower_run(model, meta, formats, options)
    graph = run_passes(lowered.graph)
    edge, unseen = look_at_edges(lowered, formats.edge, _spec(meta, options.data), meta.image_shape, images)
    golden = _golden(images, meta.image_shape)
    write_project(
        graph,
        out,
        golden=golden,
        folding=_folding(graph, options),
        about={
            "fixed": options.fixed,
            "edge_fixed": options.edge_fixed,
            "round": options.rounding,
            "layers": options.layers,
            "off_bits": options.off_bits,
            "data": _data_facts(meta, options.data),
            # measured in training, so nothing about other images
            "accuracy": meta.accuracy if _spec(meta, options.data) == meta.data else {},
        },
        extra={ISSUES: encode(lowered.report.issues)},
    )
    return Exported(
        folder=out,
        ops=len(graph.ops),
        macs=sum(op.macs for op in graph if isinstance(op, Conv2d | Linear)),
        issues=[str(issue) for issue in lowered.report.harmful],
        uses=format_uses(graph, lowered.report.issues),
        notes=[note for note in (missing, _other_format(meta, formats), unused, unseen) if note],
        edge=edge,
    )


def _print_uses(uses: Sequence[FormatUse]) -> None:
    """A line a format and role: what share of its range it uses, and what that lost."""
    from rich.table import Table
    from rich.text import Text

    from hwq.cli.console import bits, output, percent

    table = Table(title="constants, by format")
    table.add_column("format", no_wrap=True)
    table.add_column("of", overflow="fold")
    for heading in ("I", "constants", "range used", "smallest", "vanished", "saturated"):
        table.add_column(heading, justify="right")
    for held in uses:
        low, high = held.use.integer
        where = held.ops[0] if len(held.ops) == 1 else f"{len(held.ops)} layers"
        table.add_row(
            held.format,
            Text(f"{'biases' if held.bias else 'multipliers'}, {where}"),
            str(low) if low == high else f"{low}..{high}",
            f"{held.use.count:,}",
            percent(held.use.share),
            bits(held.use.smallest_bits) if held.use.smallest_bits else "",
            str(held.vanished or ""),
            str(held.saturated or ""),
        )
    output().print(table)
    click.echo(
        "range used: the largest |constant| over the format's largest; smallest: bits left of the smallest "
        "|constant| that is not 0"
    )


def _other_format(meta: Meta, formats: Formats) -> str:
    """A note where the network was trained for other constants than these."""
    from hwq.fixed import parse_format

    trained = meta.recipe.get("fixed")
    if not trained:
        return ""
    made_for = str(parse_format(trained["format"])), str(trained["round"]).upper()
    if made_for == (str(formats.body), formats.rounding.value):
        return ""
    return f"trained for other constants: --fixed {made_for[0]} --round {made_for[1].lower()}"


def _data_facts(meta: Meta, data: str | None) -> dict[str, Any]:
    return {**asdict(_spec(meta, data)), "mean": list(meta.mean), "std": list(meta.std)}


def _spec(meta: Meta, data: str | None) -> DataSpec:
    from hwq.data import DataSpec

    return DataSpec.parse(data, like=meta.data) if data else meta.data


def _images(meta: Meta, data: str | None) -> tuple[Split | None, str]:
    """The test split, or None and a note when training's data is not here; a wrong --data is an error."""
    from hwq.data import load_split

    try:
        images = load_split(_spec(meta, data), "test")
    except InputError as error:
        if data:
            raise
        return None, f"golden vectors use random pixels: {error}"
    if images.shape != meta.image_shape:
        sizes = ("x".join(map(str, size)) for size in (meta.image_shape, images.shape))
        raise InputError("the network takes images of {}, the data holds {}".format(*sizes))
    return images, ""


def _golden(images: Split | None, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    import numpy as np

    if images is not None:
        return images.head(GOLDEN_IMAGES).pixels
    return np.random.default_rng(0).integers(0, 256, (GOLDEN_IMAGES, *shape), dtype=np.uint8)


def lower_run(model: torch.fx.GraphModule, meta: Meta, formats: Formats, options: ExportOptions) -> Lowered:
    """Lower a restored network; quantisers that are off are calibrated on training images."""
    import torch

    from hwq.data import load_split
    from hwq.lower import lower
    from hwq.quant import off_tensors
    from hwq.train.restore import Normalise

    batches: list[torch.Tensor] = []
    if options.off_bits is not None and off_tensors(model):
        train = load_split(_spec(meta, options.data), "train")
        sample = torch.from_numpy(train.head(_CALIBRATION_IMAGES).pixels)
        batches = [Normalise(meta.mean, meta.std, "cpu")(sample)]
    height, width, channels = meta.image_shape
    return lower(
        model,
        shape=(channels, height, width),
        mean=meta.mean,
        std=meta.std,
        formats=formats,
        off_bits=options.off_bits,
        batches=batches,
        allow_lossy=options.allow_lossy,
        name=Path(meta.model).stem,
    )


def _folding(graph: Graph, options: ExportOptions) -> Mapping[str, Folding]:
    """The file's foldings, then those of --fold; the default for layers that neither names."""
    from hwq.emit.folding import complete, parse_fold, read_folding

    if options.folding is not None and options.fold:
        raise InputError("give --folding or --fold, not both")
    if options.folding is not None:
        return read_folding(graph, options.folding)
    return parse_fold(graph, options.fold) if options.fold else complete(graph)
