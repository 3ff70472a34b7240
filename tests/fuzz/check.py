"""One random graph through passes, emit, both builds and both Python simulators, compared at every op."""

from __future__ import annotations

import shutil
import traceback
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hwq.cosim.build import Build
from hwq.cosim.manifest import read_manifest
from hwq.cosim.project import compile_project, write_project
from hwq.cosim.session import cosimulate
from hwq.ir import Graph
from hwq.passes import run_passes
from hwq.serde import load
from hwq.simulate import Simulator, run_oracle
from tests.graphs import SeededSource, random_folding, random_pixels, seeded_graph
from tests.nets import lowered_net

IMAGES = 5
FLAGS = {
    # few images: compiling is what takes time
    Build.AP: ("-O0",),
    # the proved widths must hold: any overflow of a built-in integer ends the run
    Build.NATIVE: (
        "-O1",
        "-fsanitize=signed-integer-overflow,shift,bounds,integer-divide-by-zero",
        "-fno-sanitize-recover=all",
    ),
}
TORCH_SHARE = 4
"""Every fourth mixed case is a torch network."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A case that failed, and how."""

    case: int
    problem: str


def case_graph(case: int, kind: str = "mixed") -> Graph:
    """The graph of a case: random ops, or a random torch network lowered."""
    if kind == "torch" or (kind == "mixed" and case % TORCH_SHARE == TORCH_SHARE - 1):
        return lowered_net(case)
    return seeded_graph(case)


def check_graph(
    graph: Graph, case: int, folder: Path, builds: tuple[Build, ...] = tuple(Build)
) -> str | None:
    """What is wrong, in one line, or None. Equality at every op, of everything."""
    pixels = random_pixels(graph, IMAGES, case)
    want = run_oracle(graph, pixels)
    got = Simulator(graph, threads=1).run(pixels, keep="all").outputs
    for op in graph:
        if not np.array_equal(want[op.name], got[op.name]):
            return f"Simulator differs from the oracle at op '{op.name}'"
    slim = run_passes(graph)
    if not np.array_equal(run_oracle(slim, pixels)[slim.output.name], want[graph.output.name]):
        return "the passes change the result"
    folding = random_folding(graph, SeededSource(case))
    write_project(graph, folder, golden=pixels[:2], folding=folding)
    stored = load(folder)
    manifest = read_manifest(folder)
    for kind in builds:
        library = compile_project(manifest, kind, extra_flags=FLAGS[kind]).library
        outcome = cosimulate(stored, library, pixels, lambda images: run_oracle(stored, images))
        verdict = outcome.verdict
        if verdict.mismatches:
            return f"{kind.value} build differs from the oracle: {verdict.first_mismatch}"
        if verdict.messages:
            return f"{kind.value} build complains: {verdict.messages[0]}"
        if verdict.values != IMAGES * sum(op.out.size for op in graph):
            return f"{kind.value} build: {verdict.values} values compared"
    return None


def check_seed(case: int, kind: str, folder: Path, *, keep: bool = False) -> Finding | None:
    """`check_graph` of a case; an exception is a finding too. The folder is removed unless kept."""
    torch.set_num_threads(1)
    try:
        problem = check_graph(case_graph(case, kind), case, folder)
    except Exception as error:  # whatever it is, the campaign goes on and reports it
        traceback.print_exc()
        problem = f"{type(error).__name__}: {error}"
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    return None if problem is None else Finding(case, problem)
