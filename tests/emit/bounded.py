"""Runs a project's own kernels on FIFOs of the depths it declares, each process in its own thread.

The top function is the emitted one but for its text being split up: STREAM pragmas set a stream's depth,
calls become threads. Nothing else is changed; a line that is none of these is an error.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq.emit import Project
from hwq.ir import Graph

HERE = Path(__file__).parent
DEADLOCK = 3
TIMEOUT_S = 600
_FLAGS = ("-std=c++14", "-O0", "-DHWQ_NATIVE=1", "-DHWQ_FOLDED=1", "-pthread", "-Ifirmware", "-Ihls")
_DECLARATION = re.compile(r"  hwq::stream<hwq::word<.*> > (\w+)\(\"\1\"\);")
_DEPTH = re.compile(r"#pragma HLS STREAM variable=(\w+) depth=(\d+)")
_CALL = re.compile(r"  ([\w:]+(?:<[^;]*>)?\([^;]*\));")
_KEPT = re.compile(r"\s*|#pragma HLS (?:INTERFACE|DATAFLOW)\b.*|  HWQ_(?:TAP|PACK)\w*\([^;]*\);?(?: //.*)?")


def top_name(project: Project) -> str:
    (name,) = (n for n in project.files if n.startswith("firmware/") and n.endswith("_top.cpp"))
    return name


def declared_depths(top: str) -> dict[str, int]:
    """Stream -> depth, from the pragmas that a synthesiser reads."""
    return {name: int(depth) for name, depth in _DEPTH.findall(top)}


def _threaded(top: str) -> Iterator[str]:
    head, brace, body = top.partition(") {\n")
    assert brace
    assert body.endswith("}\n")
    yield from head.splitlines()
    yield ") {"
    for line in body.removesuffix("}\n").splitlines():
        if depth := _DEPTH.fullmatch(line):
            yield f"  {depth[1]}.limit({depth[2]});"
        elif _DECLARATION.fullmatch(line) or _KEPT.fullmatch(line):
            yield line
        else:
            call = _CALL.fullmatch(line)
            assert call, f"no stream, pragma, tap or call: {line}"
            yield f'  hwq::sim::process("{call[1].partition("(")[0]}", [&] {{ {call[1]}; }});'
    yield "  hwq::sim::finish();"
    yield "}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: `deadlock` names the blocked streams and processes; codes: every op's, or none."""

    deadlock: tuple[str, ...]
    codes: Mapping[str, npt.NDArray[np.int64]]


class Bounded:
    """A project compiled for bounded FIFOs."""

    def __init__(self, project: Project, graph: Graph, folder: Path) -> None:
        self.graph = graph
        self.folder = folder
        project.write(folder / "project")
        name = top_name(project)
        text = project.files[name].decode()
        self.depths = declared_depths(text)
        (folder / "threaded.cpp").write_text("\n".join(_threaded(text)) + "\n")
        sources = [str(folder / "threaded.cpp"), str(HERE / "bounded.cpp")]
        command = ["g++", *_FLAGS, "-include", str(HERE / "bounded.h"), *sources, "-o", str(folder / "run")]
        subprocess.run(command, cwd=folder / "project", check=True, capture_output=True)

    def run(self, pixels: npt.NDArray[np.uint8], depths: Mapping[str, int] | None = None) -> Outcome:
        """All images back to back; `depths` replaces declared ones."""
        (self.folder / "pixels").write_bytes(np.ascontiguousarray(pixels).tobytes())
        result = self.folder / "result"
        result.unlink(missing_ok=True)
        cut = [f"{name}={depth}" for name, depth in (depths or {}).items()]
        files = [str(self.folder / name) for name in ("run", "pixels")]
        command = [*files, str(len(pixels)), str(result), *cut]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        if done.returncode == DEADLOCK:
            first, *blocked = done.stdout.splitlines()
            assert first == "DEADLOCK"
            return Outcome(tuple(blocked), {})
        assert done.returncode == 0, done.stdout + done.stderr
        return Outcome((), self._codes(np.fromfile(result, np.int64), len(pixels)))

    def _codes(self, values: npt.NDArray[np.int64], images: int) -> dict[str, npt.NDArray[Any]]:
        ends = np.cumsum([images * op.out.size for op in self.graph])
        parts = np.split(values, ends[:-1])
        return {op.name: p.reshape(images, *op.out.shape) for op, p in zip(self.graph, parts, strict=True)}
