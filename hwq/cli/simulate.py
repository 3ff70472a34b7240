"""`hwq simulate`: compile an exported project, run it, compare every op with Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hwq.cosim.manifest import Edit
    from hwq.cosim.verdict import Report

_AP_IMAGES = 200


@click.command
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--images", type=click.IntRange(min=1), help=f"Default: all; {_AP_IMAGES} for --build ap.")
@click.option(
    "--build",
    "build",
    type=click.Choice(["ap", "native"]),
    default="ap",
    show_default=True,
    help="ap: AMD's types. native: the same source on built-in integers, much faster.",
)
@click.option("--trace", type=click.Path(path_type=Path, dir_okay=False), help="Every op's codes, as .npz.")
@click.option("--data", help="digits, cifar10[:ROOT] or folder:ROOT. Default: the data of training.")
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True)
@click.option("--timeout", type=click.FloatRange(min=1), default=1800, show_default=True, help="Seconds a batch.")
@click.option("--accept-edits", is_flag=True, help="Files changed since export are listed, not a failure.")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Copy of the verdict.")
def command(
    run: Path,
    images: int | None,
    build: str,
    trace: Path | None,
    data: str | None,
    threads: int,
    timeout: float,
    accept_edits: bool,
    json_path: Path | None,
) -> int:
    """Compile RUN's C++ and compare every op's output with the Python simulator, bit for bit.

    RUN: a run folder or an exported project. Exit code 1 on any mismatch, and when a file was changed
    since export (unless accepted). The verdict is also in PROJECT/verdict-BUILD.json.
    """
    from hwq.cosim.build import Build
    from hwq.cosim.manifest import read_manifest
    from hwq.cosim.project import find_project, test_batch, verify_project
    from hwq.cosim.trace import TraceFile
    from hwq.cosim.verdict import write_json

    folder = find_project(run)
    manifest = read_manifest(folder)
    edits = manifest.edits()
    _print_edits(edits, accept_edits)
    kind = Build(build)
    if images is None and kind is Build.AP:
        images = _AP_IMAGES
    batch = test_batch(manifest, data, images)
    if batch.note:
        click.echo(f"note: {batch.note}")
    with _Progress(len(batch.pixels), f"{build} build") as progress:
        report, sink = verify_project(
            manifest,
            kind,
            batch,
            edits=edits,
            accepted=accept_edits,
            threads=threads,
            timeout=timeout,
            progress=progress.update,
            sink=(lambda plan, count: TraceFile(trace, plan, count)) if trace else None,
        )
    if sink is not None:
        sink.write()
    content = report.to_json()
    write_json(folder / f"verdict-{build}.json", content)
    if json_path is not None:
        write_json(json_path, content)
    print_report(report)
    return 0 if report.passed else 1


def _print_edits(edits: list[Edit], accepted: bool) -> None:
    for edit in edits:
        click.echo(f"{'accepted' if accepted else 'changed since export'}: {edit}", err=True)


class _Progress:
    """A progress bar on a terminal; nothing in a pipe."""

    def __init__(self, total: int, what: str) -> None:
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
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
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    verdict = report.verdict
    table = Table(title=f"{report.project}: C++ ({report.build}) against Python, {report.images}")
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
    console = Console()
    console.print(table)
    known = [(name, value) for name, value in report.accuracy.items() if value is not None]
    if known:
        console.print("accuracy: " + ", ".join(f"{name} {value:.2f}%" for name, value in known))
    for message in verdict.messages[:3]:
        console.print(Text(f"the C++ said: {message}"))
    click.echo(_summary(report))


def _summary(report: Report) -> str:
    verdict, parts = report.verdict, []
    if verdict.mismatches:
        first = verdict.first_mismatch
        assert first is not None
        parts.append(
            f"FAIL: {verdict.mismatches:,} of {verdict.values:,} values differ in {len(verdict.bad_ops)} ops, "
            f"first in op '{first.op}' at {first.index}: expected {first.expected}, got {first.got}"
        )
    if report.edits and not report.accepted:
        names = ", ".join(str(edit) for edit in report.edits)
        parts.append(f"FAIL: changed since export: {names} (export again, or --accept-edits)")
    if not parts:
        parts.append(f"PASS: {verdict.values:,} values of {len(verdict.rows)} ops equal, 0 mismatches")
    return "\n".join(parts)


__all__ = ["command", "print_report"]
