"""One self-contained HTML file from a `Report`: no scripts, no fonts, nothing fetched."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hwq import __version__, assets
from hwq.errors import InputError
from hwq.files import write_atomically
from hwq.report import svg
from hwq.report.content import OpRow, Report, Stage


def render(report: Report) -> str:
    """The page as text. Every string of the report is escaped."""
    environment = Environment(
        loader=FileSystemLoader(assets.folder("templates") / "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=_count,
        percent=_percent,
        shape=_shape,
        short=_short,
        share=_share,
        points=_points,
        whole=_whole,
        integers=_integers,
        histogram=svg.histogram,
        curve=svg.curve,
    )
    return environment.get_template("page.html.j2").render(
        report=report,
        version=__version__,
        ladder=_ladder(report.stages),
        macs=sum(op.macs for op in report.ops),
        parameters=sum(op.parameters for op in report.ops),
        most_macs=max((op.macs for op in report.ops), default=0),
        widest=max((op.exact_bits or 0 for op in report.ops), default=0),
        values=sum(b.values for b in report.builds),
        mismatches=sum(b.mismatches for b in report.builds),
        broken=_broken(report.ops),
        saturated=sum(c.saturated for c in report.constants),
        vanished=sum(c.vanished for c in report.constants),
        harmful=sum(c.harmful for c in report.constants),
        has_histograms=any(op.histogram for op in report.ops),
    )


def write_report(path: Path | str, report: Report) -> Path:
    """Write the page to `path`, or to report.html in the folder `path`; returns the file.

    Atomic: a temporary file beside it, then a rename. Raises InputError where the folder is missing.
    """
    target = Path(path)
    if target.is_dir():
        target = target / "report.html"
    if not target.parent.is_dir():
        raise InputError(f"report: no folder {target.parent}")
    write_atomically(target, render(report))
    return target


def _ladder(stages: tuple[Stage, ...]) -> list[tuple[Stage, float | None]]:
    """Each stage with its difference, in points, from the one before it measured on as many images."""
    rows: list[tuple[Stage, float | None]] = []
    before: Stage | None = None
    for stage in stages:
        change = None
        if stage.accuracy is not None:
            if before is not None and before.accuracy is not None and before.images == stage.images:
                change = stage.accuracy - before.accuracy
            before = stage
        rows.append((stage, change))
    return rows


def _broken(ops: tuple[OpRow, ...]) -> list[str]:
    return [op.name for op in ops if op.mismatches]


def _count(number: int) -> str:
    return f"{number:,}"


def _percent(percent: float) -> str:
    return f"{percent:.2f}"


def _shape(shape: tuple[int, ...]) -> str:
    return " \N{MULTIPLICATION SIGN} ".join(str(n) for n in shape)


def _short(number: float) -> str:
    """1,234,567 -> 1.23 M; small reals keep three digits."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= limit:
            return f"{number / (limit if unit != 'k' else 1e3):.3g} {unit}"
    return f"{number:.3g}" if isinstance(number, float) else f"{number:,}"


def _share(part: float, whole: float) -> str:
    """A CSS percentage."""
    return f"{100 * part / whole:.1f}%" if whole else "0%"


def _points(change: float) -> str:
    """A difference in percentage points, with a real minus sign."""
    return "no change" if change == 0 else f"{change:+.2f} points".replace("-", "\N{MINUS SIGN}")


def _whole(share: float) -> str:
    return f"{100 * share:.0f}%"


def _integers(pair: tuple[int, int]) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]} … {pair[1]}"
