"""Exported projects as a whole: writing one, finding one, compiling and verifying one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq.compiler import Built, find_compiler
from hwq.cosim.build import Build, build
from hwq.cosim.examine import refusal
from hwq.cosim.manifest import Edit, Manifest
from hwq.cosim.session import Sink, Taps, cosimulate
from hwq.cosim.verdict import Report
from hwq.emit import Folding, Golden, Project, emit
from hwq.emit.project import MANIFEST, recover_project
from hwq.engine import Engine, Preference, simulator
from hwq.errors import InputError
from hwq.files import DOCUMENT, Missing, read_text
from hwq.ir import Graph
from hwq.serde import GRAPH_JSON, GRAPH_TENSORS, dump, load
from hwq.simulate import LogitWatch, Simulator, accuracy

FOLDER = "hls"
"""Where `hwq export RUN` writes by default: RUN/hls."""
_GOLDEN_VALUES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Images to run: uint8 (N, H, W, C); labels int64 (N,) or None; `what` they are, in words.

    whole: they are all of those that training tested on.
    """

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64] | None
    what: str
    note: str = ""
    whole: bool = False


def write_project(
    graph: Graph,
    folder: Path,
    *,
    golden: npt.NDArray[np.uint8],
    folding: Mapping[str, Folding] | None = None,
    about: Mapping[str, Any] | None = None,
    extra: Mapping[str, bytes] | None = None,
) -> Project:
    """Emit the project of a graph and write it to `folder`, whole or not at all.

    golden: images (n, H, W, C) uint8 for the test bench; fewer are kept where every op's codes would fill
    too many megabytes. about: what the manifest says of the export: fixed, edge_fixed, round, layers, data,
    accuracy. extra: more files. Raises InputError (folder, folding), ToolError (disk), UnsupportedError.
    """
    values = sum(op.out.size for op in graph)
    pixels = golden[: max(1, _GOLDEN_VALUES // values)]
    codes = Simulator(graph).run(pixels, keep="all").outputs
    project = emit(
        graph,
        folding=folding,
        golden=Golden(pixels, codes),
        extra={GRAPH_TENSORS: dump(graph)[GRAPH_TENSORS], **(extra or {})},
        bound=lambda digest: dump(graph, digest)[GRAPH_JSON],
        **dict(about or {}),
    )
    project.write(folder)
    return project


def compile_project(manifest: Manifest, kind: Build, extra_flags: Sequence[str] = ()) -> Built:
    """The simulation library of a project as it stands on the disk. Raises ToolError."""
    return build(
        manifest.folder,
        kind,
        files=[name for name in manifest.build_files() if (manifest.folder / name).is_file()],
        sources=manifest.sources,
        includes=manifest.includes,
        extra_flags=extra_flags,
    )


def golden_batch(manifest: Manifest, shape: tuple[int, ...], note: str) -> Batch:
    """The images of the project's own golden vectors. Raises InputError when they are damaged.

    shape: (H, W, C) of one.
    """
    path = manifest.folder / "tb_data" / "pixels.dat"
    try:
        values = np.array(read_text(path, limit=DOCUMENT).split(), dtype=np.uint8)
        pixels = values.reshape(-1, *shape)
    except Missing:
        raise InputError(f"{path}: not there, and {note}") from None
    except (ValueError, OverflowError, TypeError):
        raise InputError(f"{path} is damaged; export the project again") from None
    return Batch(pixels=pixels, labels=None, what=f"{len(pixels)} golden images", note=note)


def find_project(run: Path) -> Path:
    """The project folder of a run, or the folder itself. Raises InputError."""
    for folder in (run, run / FOLDER):
        recover_project(folder)
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
    engine: Preference = "torch",
    progress: Callable[[int], None] = lambda done: None,
    note: Callable[[str], None] = lambda text: None,
    sink: Sink | None = None,
) -> Report:
    """Compile the project, run the batch on both sides, and compare every op.

    graph: the project's own, read from its files where it is not given. engine: what computes the Python
    side (`note` hears of a fall-back); torch, the default, is independent of all C++. Raises ToolError
    (compiler, crash), InputError (images of another size, a damaged project), MismatchError (edits that are
    not accepted).
    """
    if edits and not accepted:
        raise refusal(manifest, list(edits))
    graph = graph or load(manifest.folder)
    _check_images(graph, batch)
    built = compile_project(manifest, kind)
    runner = simulator(graph, threads, engine, note=note)
    watch = LogitWatch(graph)

    def reference(pixels: npt.NDArray[np.uint8]) -> Taps:
        outputs = runner.run(pixels, keep="all").outputs
        watch.add(outputs)
        return outputs

    outcome = cosimulate(
        graph,
        built.library,
        batch.pixels,
        reference,
        workers=threads,
        timeout=timeout,
        progress=progress,
        sink=sink,
    )
    recorded = manifest.raw.get("accuracy")
    stored = recorded.items() if isinstance(recorded, dict) else ()
    figures: dict[str, float | None] = {
        str(key): float(value) for key, value in stored if isinstance(value, int | float)
    }
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
        reference="native" if isinstance(runner, Engine) else "torch",
        edits=edits,
        accepted=accepted,
        accuracy=figures,
        whole=batch.whole,
        logits=watch.result(),
        predictions=outcome.predicted_python,
    )


def _check_images(graph: Graph, batch: Batch) -> None:
    want, given = graph.input.out.shape, batch.pixels.shape[1:]
    if want != given:
        sizes = ("x".join(map(str, size)) for size in (want, given))
        raise InputError("the network takes images of {} (H x W x C), {} has {}".format(*sizes, batch.what))
    if len(batch.pixels) == 0:
        raise InputError(f"{batch.what} holds no images")
