"""`hwq inspect --scales`: the table on a terminal, the exact numbers in a CSV or as JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hwq.errors import InputError

if TYPE_CHECKING:
    from hwq.quant.placing.scales import Scale
    from hwq.train.trust import Trust


def show_scales(target: Path, csv_path: Path | None, code: Trust, *, as_json: bool) -> None:
    """Print the scales of a run folder or checkpoint, and write them to `csv_path`. Raises InputError."""
    from hwq.quant import off_tensors
    from hwq.quant.placing.scales import scales, tensors
    from hwq.train.restore import restore

    if (target / "graph.json").exists() or (target / "project.json").exists():
        raise InputError(
            f"{target}: an exported project holds integers alone; --scales reads the run folder or checkpoint"
        )
    model, meta = restore(target, code)
    rows = scales(model)
    if csv_path is not None:
        from hwq.files import write_atomically

        write_atomically(csv_path, as_csv(rows))
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=1))
        return
    if not rows:
        click.echo(f"{target}: a float network; nothing is quantised, so there are no scales")
        return
    grouped = tensors(rows)
    _print(f"{meta.model}, epoch {meta.epoch}", grouped)
    off = off_tensors(model)
    floats = f"; {len(off)} tensors are floats" if off else ""
    click.echo(f"{len(rows)} scales of {len(grouped)} tensors{floats}")
    if csv_path is not None:
        click.echo(str(csv_path))


def as_csv(rows: Iterable[Scale]) -> str:
    """One line a scale. Numbers read back as they were: float() of a cell is the very float64."""
    from hwq.quant.placing.scales import Scale

    names = [field.name for field in fields(Scale)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        values = (getattr(row, name) for name in names)
        writer.writerow(["" if v is None else repr(v) if isinstance(v, float) else v for v in values])
    return text.getvalue()


def _print(title: str, grouped: Sequence[Sequence[Scale]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from hwq.cli.console import output

    soft = any(row.alpha is not None for rows in grouped for row in rows)
    table = Table(title=Text(title))
    table.add_column("tensor", overflow="fold")
    for heading in ("kind", "method", "type"):
        table.add_column(heading)
    headings = ("scale", "clipping value", *(("alpha",) if soft else ()), "floats", "used", "saturated")
    for heading in headings:
        table.add_column(heading, justify="right")
    for rows in grouped:
        first = rows[0]
        low, high = (
            min((r.low for r in rows if r.low is not None), default=None),
            max((r.high for r in rows if r.high is not None), default=None),
        )
        cells = [
            _span([r.scale for r in rows]),
            _span([r.clip for r in rows]),
            *((_span([first.alpha]),) if soft else ()),
            "" if low is None else f"{low:.4g}..{high:.4g}",
            _share([r.used for r in rows]),
            _share([r.saturated for r in rows]),
        ]
        table.add_row(Text(first.name), first.kind, first.method, first.type, *cells)
    output().print(table)


def _span(values: Sequence[float | None]) -> str:
    """'0.01', or '0.01..0.05' over channels."""
    known = [v for v in values if v is not None]
    if not known:
        return ""
    low, high = f"{min(known):.4g}", f"{max(known):.4g}"
    return low if low == high else f"{low}..{high}"


def _share(values: Sequence[Any]) -> str:
    """The mean over channels in percent; channels have as many weights each."""
    known = [v for v in values if v is not None]
    return f"{100 * sum(known) / len(known):.2f}%" if known else ""
