"""Gathers what a finished run holds into the page of `hwq.report`."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwq import __version__
from hwq.errors import InputError
from hwq.files import DOCUMENT, parse_json, read_bytes
from hwq.report import Build, CodesRow, Report, Stage, constant_rows, op_rows, training_curves

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from hwq.cosim.verdict import Report as Comparison
    from hwq.ir import Graph
    from hwq.report.rows import Issue

BUILD_NOTES = {
    "ap": "AMD's ap_int, ap_fixed and hls_stream headers: the reference C simulation",
    "native": "the same source on built-in integers",
}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Records of a metrics.jsonl; broken or missing lines are left out."""
    if not path.exists():
        return []
    records = []
    for line in read_bytes(path, limit=DOCUMENT).split(b"\n"):
        with suppress(InputError):
            records.append(parse_json(line, dict, where=str(path)))
    return records


def build_of(comparison: Comparison) -> Build:
    """One comparison as a card of the page."""
    verdict, first = comparison.verdict, comparison.verdict.first_mismatch
    where = "" if first is None else f"{first.op} {first.index}: expected {first.expected}, got {first.got}"
    return Build(
        name=comparison.build,
        note=BUILD_NOTES[comparison.build],
        images=verdict.samples,
        values=verdict.values,
        mismatches=verdict.mismatches,
        first=where,
        seconds=comparison.seconds,
    )


def assemble(
    graph: Graph,
    comparisons: Sequence[Comparison],
    *,
    title: str,
    subtitle: str,
    stages: Iterable[Stage],
    codes: Mapping[str, npt.NDArray[np.generic]],
    issues: Iterable[Issue],
    phases: Mapping[str, Sequence[Mapping[str, Any]]],
    commands: Sequence[str],
    facts: Sequence[tuple[str, str]],
) -> Report:
    """The page of one network. codes: outputs of some images by op name, for the histograms."""
    values: dict[str, int] = {}
    mismatches: dict[str, int] = {}
    for comparison in comparisons:
        for row in comparison.verdict.rows:
            values[row.op] = values.get(row.op, 0) + row.values
            mismatches[row.op] = mismatches.get(row.op, 0) + row.mismatches
    return Report(
        title=title,
        subtitle=subtitle,
        warnings=tuple(dict.fromkeys(line for comparison in comparisons for line in comparison.warnings)),
        builds=tuple(build_of(comparison) for comparison in comparisons),
        meaning=tuple(comparisons[0].meaning) if comparisons else (),
        layer_codes=_layer_codes(comparisons),
        stages=tuple(stages),
        ops=op_rows(graph, values=values, mismatches=mismatches, codes=codes),
        constants=constant_rows(graph, issues),
        curves=training_curves(phases),
        commands=tuple(commands),
        facts=(*facts, *_versions(comparisons)),
        histogram_images=max((len(array) for array in codes.values()), default=0),
    )


def _layer_codes(comparisons: Sequence[Comparison]) -> tuple[CodesRow, ...]:
    """Of the first comparison that has them."""
    found = (c.agreement.layers for c in comparisons if not isinstance(c.agreement, str))
    rows = next(found, ())
    return tuple(CodesRow(op=row.op, values=row.values, differing=row.differing) for row in rows)


def _versions(comparisons: Sequence[Comparison]) -> list[tuple[str, str]]:
    import torch

    compilers = dict.fromkeys(comparison.compiler for comparison in comparisons)
    return [
        ("hwq", __version__),
        ("Python", platform.python_version()),
        ("PyTorch", torch.__version__),
        *(("compiler", name) for name in compilers),
        ("machine", f"{platform.system()} {platform.machine()}"),
    ]
