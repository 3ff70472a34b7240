"""Exported projects as a whole: writing one, finding one, compiling and verifying one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hwq.cosim.build import Build, Built, build, source_files
from hwq.cosim.compare import accuracy
from hwq.cosim.manifest import MANIFEST, Edit, Manifest
from hwq.cosim.session import Sink, cosimulate
from hwq.cosim.taps import TapPlan
from hwq.cosim.toolchain import find_compiler
from hwq.cosim.verdict import Report
from hwq.errors import InputError
from hwq.ir import Graph
from hwq.serde import load
from hwq.simulate import Simulator

FOLDER = "hls"
"""Where `hwq export RUN` writes by default: RUN/hls."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Images to run: uint8 (N, H, W, C); labels int64 (N,) or None; `what` they are, in words."""

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64] | None
    what: str
    note: str = ""


def find_project(run: Path) -> Path:
    """The project folder of a run, or the folder itself. Raises InputError."""
    for folder in (run, run / FOLDER):
        if (folder / MANIFEST).is_file():
            return folder
    if not run.exists():
        raise InputError(f"{run}: no such folder")
    raise InputError(f"{run} holds no exported project ({MANIFEST}); run `hwq export {run}` first")


def verify_project(
    manifest: Manifest,
    kind: Build,
    batch: Batch,
    *,
    graph: Graph | None = None,
    edits: Sequence[Edit] = (),
    accepted: bool = False,
    threads: int = 1,
    timeout: float | None = 1800.0,
    progress: Callable[[int], None] = lambda done: None,
    sink: Sink | None = None,
) -> Report:
    """Compile the project, run the batch on both sides, and compare every op.

    graph: the project's own, read from its files where it is not given. Raises ToolError (compiler,
    crash), InputError (images of another size, a damaged project).
    """
    graph = graph or load(manifest.folder)
    _check_images(graph, batch)
    built = compile_project(manifest, kind)
    simulator = Simulator(graph, threads=threads)
    outcome = cosimulate(
        graph,
        built.library,
        batch.pixels,
        lambda pixels: simulator.run(pixels, keep="all").outputs,
        workers=threads,
        timeout=timeout,
        progress=progress,
        sink=sink,
    )
    recorded = manifest.raw.get("accuracy")
    figures: dict[str, float | None] = dict(recorded) if isinstance(recorded, dict) else {}
    if batch.labels is not None:
        figures["integer"] = accuracy(outcome.predicted_python, batch.labels)
        figures["C++"] = accuracy(outcome.predicted_cpp, batch.labels)
    return Report(
        project=str(manifest.folder),
        build=kind.value,
        compiler=find_compiler().version,
        compile_seconds=built.seconds,
        cached=built.cached,
        images=batch.what,
        verdict=outcome.verdict,
        seconds=outcome.seconds,
        edits=edits,
        accepted=accepted,
        accuracy=figures,
    )


def _check_images(graph: Graph, batch: Batch) -> None:
    want, given = graph.input.out.shape, batch.pixels.shape[1:]
    if want != given:
        sizes = ("x".join(map(str, size)) for size in (want, given))
        raise InputError("the network takes images of {} (H x W x C), {} has {}".format(*sizes, batch.what))
    if len(batch.pixels) == 0:
        raise InputError(f"{batch.what} holds no images")
