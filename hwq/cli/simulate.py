"""`hwq simulate`: compile an exported project, run it, compare every op with Python."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hwq.cli.options import HELP, NewFile, code_options, trusted
from hwq.errors import InputError
from hwq.terminal import argument, console

if TYPE_CHECKING:
    from hwq.agreement import Agreement
    from hwq.cosim.manifest import Manifest
    from hwq.cosim.project import Batch
    from hwq.cosim.verdict import Report
    from hwq.engine import Preference
    from hwq.ir import Graph

PAGE = "report.html"
_AP_IMAGES = 200
_AP_WORK = 16_000_000_000
"""Multiply-accumulates that the ap build does unasked: some minutes."""
_PAGE_IMAGES = 32
_SIDES = {"torch": "Python", "native": "the native engine"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateOptions:
    """The command's options. images: None for the default, see `default_images`."""

    images: int | None = None
    build: str = "ap"
    trace: Path | None = None
    data: str | None = None
    threads: int = 1
    timeout: float = 1800.0
    accept: bool = False
    engine: Preference = "torch"
    agreement: int = 250
    model: str | None = None
    trust: bool = False


@click.command(context_settings=HELP)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--images", type=click.IntRange(min=1), help=f"Default: all; at most {_AP_IMAGES} for --build ap."
)
@click.option(
    "--build",
    "build",
    type=click.Choice(["ap", "native"]),
    default="ap",
    show_default=True,
    help="ap: AMD's types. native: the same source on built-in integers, much faster.",
)
@click.option("--trace", type=NewFile(), help="Every op's codes, as .npz.")
@click.option("--data", help="digits, cifar10[:ROOT] or folder:ROOT. Default: the data of training.")
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="CPU threads.")
@click.option(
    "--timeout", type=click.FloatRange(min=1), default=1800, show_default=True, help="Seconds a batch."
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "native", "torch"]),
    default="torch",
    show_default=True,
    help="The Python side: torch shares no code with any C++; native is faster; auto: native if it runs.",
)
@click.option(
    "--agreement",
    type=click.IntRange(min=0),
    default=250,
    show_default=True,
    metavar="IMAGES",
    help="Images on which answers and codes are compared with those of the trained network.",
)
@click.option(
    "--accept-edits",
    is_flag=True,
    help="Run a project that was changed since export; the changes are listed.",
)
@code_options
@click.option("--json", "json_path", type=NewFile(), help="Copy of the verdict.")
def command(
    run: Path,
    images: int | None,
    build: str,
    trace: Path | None,
    data: str | None,
    threads: int,
    timeout: float,
    engine: Preference,
    agreement: int,
    accept_edits: bool,
    model: str | None,
    trust: bool,
    json_path: Path | None,
) -> int:
    """Compile RUN's C++ and compare every op's output with the Python simulator, bit for bit.

    RUN: a run folder or an exported project. Exit code 1 on any mismatch, and where anything of the project
    is not as hwq wrote it: then nothing of it is compiled, unless accepted. The verdict is also in
    PROJECT/verdict-BUILD.json, and as a page in PROJECT/report.html.
    """
    from hwq.cosim.project import find_project

    options = SimulateOptions(
        images=images,
        build=build,
        trace=trace,
        data=data,
        threads=threads,
        timeout=timeout,
        accept=accept_edits,
        engine=engine,
        agreement=agreement,
        model=model,
        trust=trust,
    )
    report = simulate_project(find_project(run), options, json_path)
    print_report(report)
    click.echo(f"report: {Path(report.project) / PAGE}")
    return 0 if report.passed else 1


def simulate_project(
    folder: Path, options: SimulateOptions, json_path: Path | None = None, *, page: bool = True
) -> Report:
    """Everything `hwq simulate` does but the printing of its table.

    Writes PROJECT/verdict-BUILD.json and, with `page`, PROJECT/report.html.
    Raises InputError (project, data), MismatchError (a project that is not as hwq wrote it: before anything
    of it is compiled), ToolError (compiler, crash).
    """
    from hwq.cosim.build import Build
    from hwq.cosim.examine import examine
    from hwq.cosim.manifest import listed, read_manifest
    from hwq.cosim.project import verify_project
    from hwq.cosim.taps import TapPlan
    from hwq.cosim.trace import TraceFile
    from hwq.cosim.verdict import write_json
    from hwq.files import check_writable

    manifest = read_manifest(folder)
    check_writable(folder)
    graph, edits = examine(manifest, accept=options.accept)
    for line in listed(edits):
        click.echo(f"accepted: {line}", err=True)
    batch = _batch(manifest, options, graph)
    if batch.note:
        click.echo(f"note: {batch.note}", err=True)
    sink = None
    if options.trace is not None:
        sink = TraceFile(options.trace, TapPlan.of(graph), len(batch.pixels))
    with _Progress(len(batch.pixels), f"{options.build} build") as progress:
        report = verify_project(
            manifest,
            Build(options.build),
            batch,
            graph=graph,
            edits=edits,
            accepted=options.accept,
            threads=options.threads,
            timeout=options.timeout,
            engine=options.engine,
            note=lambda text: click.echo(f"note: {text}", err=True),
            progress=progress.update,
            sink=sink,
        )
    if sink is not None:
        sink.write()
    report = replace(report, agreement=_agreement(manifest, options, graph, batch, report))
    content = report.to_json()
    for path in (folder / f"verdict-{options.build}.json", json_path):
        if path is not None:
            write_json(path, content)
    if page:
        _write_page(folder, graph, batch, report, manifest)
    return report


def _agreement(
    manifest: Manifest, options: SimulateOptions, graph: Graph, batch: Batch, report: Report
) -> Agreement | str:
    """With the trained network whose checkpoint is beside the project, or why there is none."""
    from hwq.agreement.measure import of_project
    from hwq.cli.export import ExportOptions, lower_run
    from hwq.engine import simulator

    if not options.agreement:
        return "not compared with the trained network: --agreement 0"
    assert report.predictions is not None
    fixed, edge, rounding = (manifest.raw.get(key) for key in ("fixed", "edge_fixed", "round"))
    layers, off_bits = manifest.raw.get("layers"), manifest.raw.get("off_bits")
    texts = [fixed, edge, rounding, *(layers if isinstance(layers, list) else [None])]
    if (
        not all(isinstance(text, str) for text in texts)
        or rounding not in ("rnd", "trn")
        or not isinstance(off_bits, int | None)
    ):
        return "not compared with the trained network: project.json does not say in which formats it was made"
    export = ExportOptions(
        fixed=str(fixed),
        edge_fixed=str(edge),
        rounding=str(rounding),
        layers=[str(layer) for layer in layers or ()],
        off_bits=off_bits,
        allow_lossy=True,
    )
    return of_project(
        manifest.folder,
        graph,
        lambda model, meta: lower_run(model, meta, export.formats(), export),
        lambda lowered: simulator(lowered, options.threads, options.engine),
        batch.pixels,
        report.predictions,
        batch.labels,
        images=options.agreement,
        trust=trusted(options.model, options.trust),
    )


def _write_page(folder: Path, graph: Graph, batch: Batch, report: Report, manifest: Manifest) -> None:
    """PROJECT/report.html: verdict, accuracies, ops, constants, and histograms over a few images."""
    from hwq.cli.issues import read_issues
    from hwq.cli.reporting import assemble
    from hwq.cosim.verdict import MEASURED
    from hwq.report import Stage, write_report
    from hwq.simulate import Simulator

    names = {
        "float": "float",
        "fake_quant": "fake-quantised",
        "fixed": "trained for its constants",
        "integer": "integer, Python",
    }
    images = report.verdict.samples
    fixed, listed = manifest.raw.get("fixed"), manifest.raw.get("layers")
    layers = [str(layer) for layer in listed] if isinstance(listed, list) else []
    write_report(
        folder / PAGE,
        assemble(
            graph,
            [report],
            title=f"{graph.name}: C++ against {_SIDES[report.reference]}",
            subtitle=f"constants {fixed}, {report.images}",
            stages=[
                Stage(name=names.get(key, key), accuracy=value, images=images)
                if report.whole or key in MEASURED
                else Stage(name=names.get(key, key), accuracy=value, note="all test images, in training")
                for key, value in report.accuracy.items()
            ],
            codes=Simulator(graph).run(batch.pixels[:_PAGE_IMAGES], keep="all").outputs,
            issues=read_issues(folder) or (),
            phases={},
            commands=(f"hwq simulate {argument(folder)} --build {report.build} --images {images}",),
            facts=[
                *(("layer with other constants", layer) for layer in layers),
                *(("files changed since export", str(edit)) for edit in report.edits),
            ],
        ),
    )


def default_images(macs: int, build: str, total: int) -> int:
    """How many of `total` images run unasked, for a network of so many multiply-accumulates an image."""
    if build == "native":
        return total
    return min(total, _AP_IMAGES, max(1, _AP_WORK // max(macs, 1)))


def _batch(manifest: Manifest, options: SimulateOptions, graph: Graph) -> Batch:
    """The images to run: of --data, else of training's data, else the project's golden ones."""
    from hwq.cosim.project import Batch, golden_batch
    from hwq.data import DataSpec, load_split
    from hwq.ir import Conv2d, Linear

    recorded = manifest.raw.get("data")
    note = "the project records no data set"
    spec = None
    if isinstance(recorded, dict) and recorded.get("name"):
        spec = replace(DataSpec.recorded(recorded), download=False)  # a project's word writes nothing
    if options.data:
        spec = DataSpec.parse(options.data, like=spec)
    if spec is not None:
        try:
            found = load_split(spec, "test")
        except InputError as error:
            if options.data:
                raise
            note = str(error)
        else:
            total, macs = len(found), sum(op.macs for op in graph if isinstance(op, Conv2d | Linear))
            usual = default_images(macs, options.build, total)
            note = ""
            if options.images is None and usual < min(total, _AP_IMAGES):
                note = f"a large network: {usual} images in the ap build (--images asks for more)"
            found = found.head(options.images or usual)
            what = f"{len(found)} of {total} test images of {spec}"
            whole = not options.data and len(found) == total
            return Batch(pixels=found.pixels, labels=found.labels, what=what, note=note, whole=whole)
    note += "; running the project's golden vectors instead (or give --data)"
    return golden_batch(manifest, graph.input.out.shape, note)


class _Progress:
    """A progress bar on a terminal; nothing in a pipe."""

    def __init__(self, total: int, what: str) -> None:
        from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
        screen = console(stderr=True)
        self._bar = Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal)
        self._task = self._bar.add_task(f"{what}: compiling", total=total)
        self._what = what

    def update(self, done: int) -> None:
        self._bar.update(self._task, completed=done, description=f"{self._what}: images")

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def print_report(report: Report) -> None:
    """The table of ops, the accuracies, and one line of verdict."""
    from rich.table import Table
    from rich.text import Text

    from hwq.cli.console import output, warn

    verdict = report.verdict
    table = Table()
    table.add_column("op", overflow="fold")
    table.add_column("kind")
    for heading in ("values", "mismatches", "first mismatch", "expected", "got"):
        table.add_column(heading, justify="right")
    for row in verdict.rows:
        first = row.first
        cells = ("", "", "") if first is None else (str(first.index), str(first.expected), str(first.got))
        style = "red" if row.mismatches else None
        numbers = (f"{row.values:,}", f"{row.mismatches:,}")
        table.add_row(Text(row.op), row.kind, *numbers, *cells, style=style)
    screen = output()
    # not the table's title: that breaks long paths in two
    side = _SIDES[report.reference]
    title = Text(f"{report.project}: C++ ({report.build}) against {side}, {report.images}")
    screen.print(title, soft_wrap=True)
    screen.print(table)
    if any(value is not None for value in report.accuracy.values()):
        screen.print(_accuracies(report), soft_wrap=True)
    for line in report.meaning:
        screen.print(line, soft_wrap=True, markup=False, highlight=False)
    for message in verdict.messages[:3]:
        screen.print(Text(f"the C++ said: {message}"))
    click.echo(_summary(report))
    warn(*report.warnings)


def _accuracies(report: Report) -> str:
    """In one line, and of how many images each is: those of a sample say nothing beside the whole split's."""
    from hwq.cosim.verdict import MEASURED

    here: list[str] = []
    training: list[str] = []
    for name, value in report.accuracy.items():
        if value is not None:
            listed = here if report.whole or name in MEASURED else training
            listed.append(f"{name} {value:.2f}%")
    parts = [f"of {report.verdict.samples:,} images: {', '.join(here)}"] if here else []
    if training:
        parts.append(f"of all test images, in training: {', '.join(training)}")
    return f"accuracy {'; '.join(parts)}"


def _summary(report: Report) -> str:
    verdict, parts = report.verdict, []
    if verdict.mismatches:
        first = verdict.first_mismatch
        assert first is not None
        parts.append(
            f"FAIL: {verdict.mismatches:,} of {verdict.values:,} values differ, {len(verdict.bad_ops)} ops, "
            f"first in op '{first.op}' at {first.index}: expected {first.expected}, got {first.got}"
        )
    if not parts:
        parts.append(f"PASS: {verdict.values:,} values of {len(verdict.rows)} ops equal, 0 mismatches")
    return "\n".join(parts)
