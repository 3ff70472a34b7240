"""Rows of a sweep in compiled C++: exported, run, compared at every op."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwq.cli.networks import Networks
    from hwq.cli.sweep_output import Shown
    from hwq.engine import Preference
    from hwq.sweep import Network, Row

_GOLDEN_IMAGES = 1


def chosen(rows: Sequence[Row], count: int, loss: float) -> list[Row]:
    """`count` rows of different integers: the fewest bits within the loss, the best, the worst, then others
    spread over the accuracies."""
    from hwq.sweep import REAL, smallest, within

    stored = sorted((r for r in rows if r["format"] != REAL), key=lambda r: -r["accuracy"])
    _, least = smallest(within(rows, loss))
    ends = [row for row in (least, *stored[:1], *stored[-1:]) if row is not None]
    spread = [stored[len(stored) * i // count] for i in range(count)] if stored else []
    found: dict[str, Row] = {}
    for row in (*ends, *spread, *stored):
        found.setdefault(row["digest"], row)
    return list(found.values())[:count]


def check(
    row: Row,
    networks: Networks,
    network: Network,
    ap_images: int,
    *,
    engine: Preference,
    threads: int,
    shown: Shown,
) -> Row:
    """The row with `checks`: the native build on all its images, the ap build on the first few.

    The Python side is the engine that made the row. Raises ToolError (compiler, crash).
    """
    from hwq.cosim.build import Build
    from hwq.cosim.manifest import read_manifest
    from hwq.cosim.project import Batch, verify_project, write_project
    from hwq.files import scratch
    from hwq.passes import run_passes
    from hwq.sweep import point_of

    point = point_of(row)
    images = {Build.NATIVE: len(network.pixels), Build.AP: min(ap_images, len(network.pixels))}
    checks: list[dict[str, Any]] = []
    with scratch("sweep") as temporary:
        folder = temporary / "hls"
        graph = run_passes(networks.candidate(point).graph)
        about = {
            "fixed": row["format"],
            "edge_fixed": row["edge"],
            "round": row["round"],
            "layers": row["assigned"],
            "data": asdict(networks.spec),
        }
        write_project(graph, folder, golden=network.pixels[:_GOLDEN_IMAGES], about=about)
        for build, count in images.items():
            if not count:
                continue
            batch = Batch(
                pixels=network.pixels[:count], labels=network.labels[:count], what=f"{count} images"
            )
            report = verify_project(
                read_manifest(folder),
                build,
                batch,
                graph=graph,
                threads=threads,
                engine=engine,
                note=shown.note,
                progress=shown.step(f"{point} in C++, {build.value}", count),
            )
            checks.append(
                {
                    "build": build.value,
                    "images": count,
                    "values": report.verdict.values,
                    "mismatches": report.verdict.mismatches,
                    "accuracy": report.accuracy["C++"],
                }
            )
    return {**row, "checks": checks, "checked": _summary(row, checks)}


def passed(row: Row) -> bool:
    """Whether its C++ gave the same integers, and so the row's accuracy."""
    whole = [c["accuracy"] for c in row["checks"] if c["images"] == row["images"]]
    return all(c["mismatches"] == 0 for c in row["checks"]) and all(a == row["accuracy"] for a in whole)


def covers(row: Row, ap_images: int) -> bool:
    """Whether an earlier sweep has checked as much."""
    done = {c["build"]: c["images"] for c in row["checks"]}
    return bool(done.get("native") == row["images"] and done.get("ap", 0) >= min(ap_images, row["images"]))


def _summary(row: Row, checks: list[dict[str, Any]]) -> str:
    parts = []
    for c in checks:
        verdict = f"{c['mismatches']:,} of {c['values']:,} values differ" if c["mismatches"] else "equal"
        parts.append(f"{c['build']} {c['images']:,}: {verdict}")
    if not passed({**row, "checks": checks}) and not any(c["mismatches"] for c in checks):
        parts.append("another accuracy than the row's")
    return ", ".join(parts)
