"""What `hwq demo` does, step by step, on top of the other modules."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from hwq.cli.console import output, warn
from hwq.cli.export import ExportOptions, export_run
from hwq.cli.reporting import assemble, read_metrics
from hwq.cli.simulate import SimulateOptions, simulate_project
from hwq.compiler import find_compiler
from hwq.cosim.toolchain import find_headers
from hwq.cosim.verdict import Report as Comparison
from hwq.cosim.verdict import write_json
from hwq.data import DataSpec, load_split
from hwq.errors import InputError
from hwq.files import (
    SMALL,
    contents,
    dead_folders,
    digest,
    fresh_folder,
    install,
    read_json,
    recover,
    run_lock,
)
from hwq.ir import Graph
from hwq.lower import ConstantIssue, lower
from hwq.quant import Policy
from hwq.report import Report, Stage, write_report
from hwq.serde import load
from hwq.simulate import Simulator
from hwq.terminal import argument
from hwq.train import Interrupted, default_recipe, restore, train

FIXED, EDGE = "32,10", "32,16"
MARKER = "demo.json"
_FLOAT = "float"
_STAGING = "demo"
_ALL = 1_000_000  # more images than there are


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Accuracies in percent on the test split, and where the runs lie."""

    run: Path
    floating: float
    quantised: float


def demo(out: Path, bits: int, threads: int) -> int:
    """Run the demo into `out`; 0, or 1 when the C++ and Python differ. Raises HwqError.

    Works in a hidden folder in `out` and moves the results into their places at the end, so that neither a
    failure nor Ctrl-C nor a kill harms an earlier demo.
    """
    torch.set_num_threads(1)  # batches this small lose time to a second thread
    if not dead_folders(out, _STAGING):  # of a demo that was killed: `recover` comes first
        _owned(out)
    find_compiler()
    find_headers()
    started = time.perf_counter()
    with run_lock(out):
        recover(out, _STAGING)
        _owned(out)  # now that nobody else writes there
        passed = _demo(out, bits, threads, started)
    return 0 if passed else 1


def _demo(out: Path, bits: int, threads: int, started: float) -> bool:
    with fresh_folder(out, _STAGING) as staging:
        run = staging / "new"
        try:
            trained = _train(run, bits)
        except Interrupted:
            raise KeyboardInterrupt from None  # its advice names a folder that is about to go
        with _step(f"export with ap_fixed<{FIXED}> constants"):
            exported = export_run(run, ExportOptions(fixed=FIXED, edge_fixed=EDGE))
        click.echo(f"  {exported.ops} ops, {exported.macs:,} multiply-accumulates an image")
        comparisons = _compare(run, out, threads)
        report = _page(out, bits, trained, comparisons)
        write_report(run, report)
        _install(staging, out)
    passed = all(comparison.passed for comparison in comparisons)
    _summary(report, out, passed, time.perf_counter() - started)
    return passed


# -- the steps -----------------------------------------------------------------------------------


def _train(run: Path, bits: int) -> Trained:
    """Float parameters first, then quantisation-aware training from them."""
    base = default_recipe(DataSpec(name="digits"))
    with tempfile.TemporaryDirectory(dir=run.parent) as temporary:
        first = Path(temporary) / _FLOAT
        with _step("float training"):
            floating = train(replace(base, policy=Policy.floating()), first)
        click.echo(f"  {floating.accuracy:.2f}% of the test images")
        with _step(f"quantisation-aware training, W{bits}A{bits} (DoReFa, mPACT)"):
            policy = Policy(weight_bits=bits, act_bits=bits)
            recipe = replace(base, policy=policy, init_from=str(first))
            quantised = train(recipe, run)
        click.echo(f"  {quantised.accuracy:.2f}% of the test images, fake-quantised")
        first.rename(run / _FLOAT)
    # paths of a recipe count from its folder
    text = replace(recipe, init_from=_FLOAT).to_toml()
    (run / "recipe.toml").write_text(text, encoding="utf-8")
    return Trained(run=run, floating=floating.accuracy, quantised=quantised.accuracy)


def _compare(run: Path, out: Path, threads: int) -> list[Comparison]:
    """Both builds on the whole test split; one table for both."""
    comparisons = []
    for build in ("ap", "native"):
        with _step(f"C++ against Python, {build} build: compile, run, compare every op"):
            options = SimulateOptions(build=build, images=_ALL, threads=threads, agreement=_ALL)
            comparison = simulate_project(run / "hls", options, page=False)
        comparison = replace(comparison, project=str(out / "hls"))
        write_json(run / "hls" / f"verdict-{build}.json", comparison.to_json())
        comparisons.append(comparison)
    _table(load(run / "hls"), comparisons)
    return comparisons


def _table(graph: Graph, comparisons: Sequence[Comparison]) -> None:
    """One row an op: values compared, and how many differ, in each build."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("op (values compared)", "kind", "codes"):
        table.add_column(heading, overflow="fold")
    for comparison in comparisons:
        table.add_column(comparison.build, justify="right")
        table.add_column("differ", justify="right")
    for number, op in enumerate(graph):
        rows = [comparison.verdict.rows[number] for comparison in comparisons]
        cells = [f"{count:,}" for row in rows for count in (row.values, row.mismatches)]
        bad = any(row.mismatches for row in rows)
        names = (Text(op.name), type(op).__name__, str(op.out.type))
        table.add_row(*names, *cells, style="red" if bad else None)
    output().print(table)


def _issues(run: Path) -> Sequence[ConstantIssue]:
    """Constants that their format cannot show, harmless ones too."""
    model, meta = restore(run)
    height, width, channels = meta.image_shape
    formats = ExportOptions(fixed=FIXED, edge_fixed=EDGE).formats()
    shape = (channels, height, width)
    return lower(model, shape=shape, mean=meta.mean, std=meta.std, formats=formats).report.issues


def _page(out: Path, bits: int, trained: Trained, comparisons: list[Comparison]) -> Report:
    graph = load(trained.run / "hls")
    pixels = load_split(DataSpec(name="digits"), "test").pixels
    images = len(pixels)
    trace = Simulator(graph).run(pixels, keep="all")
    stages = [
        Stage(name="float", accuracy=trained.floating, images=images, note="PyTorch, float32"),
        Stage(name="fake-quantised", accuracy=trained.quantised, images=images, note="as training sees it"),
    ]
    first = comparisons[0]
    stages.append(
        Stage(name="integer, Python", accuracy=first.accuracy["integer"], images=images, note="the reference")
    )
    stages += [
        Stage(name=f"C++, {c.build}", accuracy=c.accuracy["C++"], images=c.verdict.samples)
        for c in comparisons
    ]
    return assemble(
        graph,
        comparisons,
        title=f"Residual CNN on handwritten digits, W{bits}A{bits}",
        subtitle=f"DoReFa weights, mPACT activations, constants ap_fixed<{FIXED}>, {images} test images",
        stages=stages,
        codes=trace.outputs,
        issues=_issues(trained.run),
        phases={
            "float": read_metrics(trained.run / _FLOAT / "metrics.jsonl"),
            f"W{bits}A{bits}": read_metrics(trained.run / "metrics.jsonl"),
        },
        commands=(
            f"hwq demo --bits {bits} --out {argument(out)}",
            *(f"hwq simulate {argument(out)} --build {c.build} --images {images}" for c in comparisons),
        ),
        facts=[
            ("project.json, sha256", digest(trained.run / "hls" / "project.json")),
            ("logits of all test images, sha256", hashlib.sha256(trace.logits.tobytes()).hexdigest()),
        ],
    )


def _summary(report: Report, out: Path, passed: bool, seconds: float) -> None:
    click.echo()
    for stage in report.stages:
        click.echo(f"{stage.name:<16} {stage.accuracy:6.2f}%")
    values = sum(build.values for build in report.builds)
    mismatches = sum(build.mismatches for build in report.builds)
    verdict = "PROVEN bit-exact" if passed else "MISMATCH"
    click.echo("\n".join(report.meaning))
    click.echo(f"{verdict}: {values:,} values compared, {mismatches:,} mismatches ({seconds:.0f} s)")
    click.echo(f"report: {out / 'report.html'}   HLS project: {out / 'hls'}")
    warn(*report.warnings)


@contextmanager
def _step(text: str) -> Iterator[None]:
    started = time.perf_counter()
    click.echo(f"{text} ...")
    yield
    click.echo(f"  {time.perf_counter() - started:.1f} s")


# -- the run folder ------------------------------------------------------------------------------


def _owned(out: Path) -> tuple[str, ...]:
    """What an earlier demo left in `out`. Raises InputError where `out` is something else."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; --out takes a folder")
    if not contents(out):
        return ()
    try:
        names = read_json(out / MARKER, dict, limit=SMALL)["files"]
        plain = [name for name in names if isinstance(name, str) and Path(name).name == name]
    except (InputError, KeyError, TypeError):
        raise InputError(f"{out}: holds something else than an earlier demo; choose another --out") from None
    return tuple(name for name in plain if name not in ("..", MARKER))


def _install(staging: Path, out: Path) -> None:
    """Put the results in the place of the earlier demo's; files of others stay."""
    old = (*_owned(out), MARKER)
    names = [path.name for path in (staging / "new").iterdir()]
    foreign = [name for name in names if (out / name).exists() and name not in old]
    if foreign:
        raise InputError(f"{out / foreign[0]}: is not of an earlier demo; choose another --out")
    write_json(staging / "new" / MARKER, {"files": sorted(names)})
    install(staging, out, old=old)
