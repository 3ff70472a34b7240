"""`hwq inspect`: what a network became, op by op."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hwq.cli.issues import read_issues
from hwq.cli.options import HELP, NewFile, code_options, format_options, trusted
from hwq.errors import InputError

if TYPE_CHECKING:
    from hwq.fixed import Constants
    from hwq.ir import Graph, Op, Requantize
    from hwq.lower import ConstantIssue


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantFacts:
    """The multipliers of one term, or the biases, of a Requantize.

    source: the term's input, "" for biases. integer: smallest and largest I. used_bits: most bits of
    `width` that a stored value needs. at_limit: stored values at an end of the range. low, high: values.
    share, smallest_bits, memory_bits: see `hwq.lower.RangeUse`.
    saturated, vanished: None where the real values are not known (a project without issues.json).
    """

    source: str
    format: str
    width: int
    integer: tuple[int, int]
    count: int
    low: float
    high: float
    used_bits: int
    share: float
    smallest_bits: int
    memory_bits: int
    at_limit: int
    zeros: int
    saturated: int | None
    vanished: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpFacts:
    """One op. type, scale, low, high: its codes. sum_bits: width of the requantisation's exact sum.

    folding: PE and SIMD of a layer of an exported project.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    type: str
    scale: float | None
    low: int
    high: int
    weight_type: str = ""
    weight_low: int | None = None
    weight_high: int | None = None
    parameters: int = 0
    macs: int = 0
    folding: tuple[int, ...] = ()
    sum_bits: int | None = None
    rounding: str = ""
    constants: tuple[ConstantFacts, ...] = ()


@click.command(context_settings=HELP)
@click.argument("target", type=click.Path(path_type=Path))
@format_options
@code_options
@click.option("--off-bits", type=click.IntRange(1, 16), help="Codes for tensors that training left off.")
@click.option("--data", help="Data for --off-bits. Default: the data of training.")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
@click.option(
    "--scales", is_flag=True, help="The scale and clipping value of every quantised tensor, nothing else."
)
@click.option(
    "--csv",
    "csv_path",
    type=NewFile(),
    help="With --scales: write them here, too, exactly, one line a scale.",
)
def command(target: Path, as_json: bool, scales: bool, csv_path: Path | None, **options: Any) -> int:
    """Show ops, shapes, widths, ranges and constants of TARGET.

    TARGET is an exported project, or a run folder or checkpoint, which is lowered with --fixed first. What
    of a project was changed since its export is listed on standard error. With --scales it is a run folder
    or checkpoint, of a run that still trains, too.
    """
    if not target.exists():
        raise InputError(f"{target}: no such file or folder; give a project, a run folder or a checkpoint")
    if scales:
        from hwq.cli.scales import show_scales

        code = trusted(options["model"], options["trust"])
        show_scales(target, csv_path, code, as_json=as_json)
        return 0
    if csv_path is not None:
        raise InputError("--csv writes scales: give --scales, too")
    graph, issues, notes = _load(target, options)
    edits = _edits(target)
    for line in edits:
        click.echo(f"changed since export: {line}", err=True)
    facts = inspect_graph(graph, issues, _folding(target))
    if as_json:
        document: dict[str, Any] = {
            "name": graph.name,
            "edits": edits,
            "ops": [asdict(f) for f in facts],
            "issues": None if issues is None else [asdict(issue) for issue in issues],
            "notes": notes,
        }
        click.echo(json.dumps(document, indent=1))
    else:
        _print(graph, facts, issues)
        for line in notes:
            click.echo(line)
    return 0


def _load(
    target: Path, options: dict[str, Any]
) -> tuple[Graph, Sequence[ConstantIssue] | None, Sequence[str]]:
    """(graph, issues of its constants, or None when only integers are known, notes of `hwq.quant.notes`).

    A folder that holds half a project raises InputError.
    """
    from hwq.serde import GRAPH_JSON, load

    if (target / GRAPH_JSON).exists() or (target / "project.json").exists():
        return load(target), read_issues(target), ()

    from hwq.cli.export import ExportOptions, lower_run
    from hwq.passes import run_passes
    from hwq.quant import notes
    from hwq.train.restore import restore

    export = ExportOptions(**options, allow_lossy=True)
    formats = export.formats()
    model, meta = restore(target, export.code())
    lowered = lower_run(model, meta, formats, export)
    return run_passes(lowered.graph), lowered.report.issues, notes(model)


def _edits(target: Path) -> list[str]:
    """What of a project, or of a graph alone, is not as it was written; one line each."""
    from hwq.cosim.manifest import listed, read_manifest
    from hwq.serde import GRAPH_JSON, GRAPH_TENSORS, read_seal

    if (target / "project.json").exists():
        return listed(read_manifest(target).edits())
    if not (target / GRAPH_JSON).exists():
        return []
    seal = read_seal(target)
    changed = [] if seal.intact else [f"{GRAPH_JSON} or {GRAPH_TENSORS} (edited)"]
    return [*changed, *(["project.json (missing)"] if seal.project else [])]


def _folding(target: Path) -> Mapping[str, Sequence[int]]:
    """Op -> (PE, SIMD) of an exported project; empty where there is none."""
    if not (target / "project.json").exists():
        return {}
    from hwq.cosim.manifest import read_manifest

    found = read_manifest(target).raw.get("folding")
    pairs = found.items() if isinstance(found, dict) else ()
    return {op: pair for op, pair in pairs if isinstance(pair, list)}


def inspect_graph(
    graph: Graph, issues: Sequence[ConstantIssue] | None, folding: Mapping[str, Sequence[int]] | None = None
) -> list[OpFacts]:
    """The facts of every op, in order. folding: (PE, SIMD) of layers, where it is known."""
    return [_facts(graph, op, issues, folding or {}) for op in graph]


def _facts(
    graph: Graph, op: Op, issues: Sequence[ConstantIssue] | None, folding: Mapping[str, Sequence[int]]
) -> OpFacts:
    from hwq.ir import Conv2d, Linear, Requantize

    extra: dict[str, Any] = {}
    low, high = op.out.type.lo, op.out.type.hi
    match op:
        case Conv2d() | Linear():
            extra = {
                "weight_type": str(op.weight_type),
                "weight_low": int(op.weight.min()),
                "weight_high": int(op.weight.max()),
                "parameters": int(op.weight.size),
                "macs": op.macs,
                "folding": tuple(folding.get(op.name, ())),
            }
        case Requantize():
            low, high = op.requant.lo, op.requant.hi
            constants = (*op.requant.terms, op.requant.bias)
            extra = {
                "sum_bits": graph.sum_bits(op),
                "rounding": op.requant.rounding.value,
                "parameters": sum(c.raw.size for c in constants),
                "constants": _constants(op, issues),
            }
        case _:
            pass
    return OpFacts(
        name=op.name,
        kind=type(op).__name__,
        inputs=op.inputs,
        shape=op.out.shape,
        type=str(op.out.type),
        scale=op.out.scale,
        low=low,
        high=high,
        **extra,
    )


def _constants(op: Requantize, issues: Sequence[ConstantIssue] | None) -> tuple[ConstantFacts, ...]:
    own = None if issues is None else [i for i in issues if i.op == op.name]
    pairs = zip((*op.inputs, ""), (*op.requant.terms, op.requant.bias), strict=True)
    return tuple(_stored(source, stored, own) for source, stored in pairs)


def _stored(source: str, stored: Constants, issues: list[ConstantIssue] | None) -> ConstantFacts:
    from hwq.lower import range_use

    use = range_use([stored])
    raw = [int(v) for v in stored.raw]
    values = stored.values()
    lo, hi = -(1 << (stored.width - 1)), (1 << (stored.width - 1)) - 1

    def count(problem: str) -> int | None:
        if issues is None:
            return None
        return sum(i.source == source and i.problem == problem for i in issues)

    return ConstantFacts(
        source=source,
        format=stored.format_name,
        width=stored.width,
        integer=use.integer,
        count=use.count,
        low=float(values.min()),
        high=float(values.max()),
        # -2^k needs k + 1 bits, as 2^k - 1 does
        used_bits=max((v if v >= 0 else ~v).bit_length() for v in raw) + 1,
        share=use.share,
        smallest_bits=use.smallest_bits,
        memory_bits=use.memory_bits,
        at_limit=sum(v in (lo, hi) for v in raw),
        zeros=use.zeros,
        saturated=count("saturated"),
        vanished=count("vanished"),
    )


# -- tables


def _print(graph: Graph, facts: list[OpFacts], issues: Sequence[ConstantIssue] | None) -> None:
    from hwq.cli.console import output

    console = output()
    console.print(_ops_table(graph.name, facts))
    console.print(_constants_table(facts))
    weights = sum(f.parameters for f in facts if f.weight_type)
    stored = sum(f.parameters for f in facts if not f.weight_type)
    macs = sum(f.macs for f in facts)
    click.echo(
        f"{len(facts)} ops, {weights:,} weights, {stored:,} multipliers and biases, "
        f"{macs:,} multiply-accumulates an image"
    )
    if issues is None:
        click.echo("no issues.json here: inspect the checkpoint to see what saturated or vanished")
        return
    harmful = sum(i.harmful for i in issues)
    click.echo(f"{len(issues)} constants saturated or vanished, {harmful} of them could move an output")
    for issue in sorted(issues, key=lambda i: not i.harmful)[:20]:
        click.echo(f"  {'harmful ' if issue.harmful else ''}{issue}")
    if len(issues) > 20:
        click.echo(f"  and {len(issues) - 20} more: --json lists all")


def _ops_table(name: str, facts: list[OpFacts]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(name))
    table.add_column("op", overflow="fold")
    table.add_column("kind")
    folded = any(f.folding for f in facts)
    columns = ("shape", "type", "codes", "scale", "weights", "parameters", "MACs", "sum bits")
    for heading in (*columns, *(("PE, SIMD",) if folded else ())):
        table.add_column(heading, justify="right")
    for f in facts:
        weights = f"{f.weight_type} {f.weight_low}..{f.weight_high}" if f.weight_type else ""
        table.add_row(
            Text(f.name),
            f.kind,
            "x".join(map(str, f.shape)),
            f.type,
            "" if f.kind in ("Conv2d", "Linear", "SumPool") else f"{f.low}..{f.high}",
            "" if f.scale is None else f"{f.scale:.4g}",
            weights,
            f"{f.parameters:,}" if f.parameters else "",
            f"{f.macs:,}" if f.macs else "",
            "" if f.sum_bits is None else str(f.sum_bits),
            *((", ".join(map(str, f.folding)),) if folded else ()),
        )
    return table


def _constants_table(facts: list[OpFacts]) -> Any:
    from rich.table import Table
    from rich.text import Text

    from hwq.cli.console import bits, percent

    table = Table(title="constants of the requantisations")
    table.add_column("op", overflow="fold")
    table.add_column("of", overflow="fold")
    for heading in (
        "format",
        "I",
        "values",
        "bits used",
        "range used",
        "smallest",
        "at limit",
        "zero",
        "saturated",
        "vanished",
    ):
        table.add_column(heading, justify="right")
    for f in facts:
        for c in f.constants:
            low, high = c.integer
            table.add_row(
                Text(f.name),
                Text(c.source or "bias"),
                c.format,
                str(low) if low == high else f"{low}..{high}",
                f"{c.low:.4g}..{c.high:.4g}" if c.low != c.high else f"{c.low:.4g}",
                f"{c.used_bits} of {c.width}",
                percent(c.share),
                bits(c.smallest_bits) if c.smallest_bits else "",
                str(c.at_limit or "") if c.format == f"{c.width},{low}" else "",  # else I follows the value
                str(c.zeros or ""),
                "?" if c.saturated is None else str(c.saturated or ""),
                "?" if c.vanished is None else str(c.vanished or ""),
            )
    return table
