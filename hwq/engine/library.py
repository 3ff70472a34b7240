"""The engine's shared library: which instruction set, compiled once a machine, loaded."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from hwq import assets
from hwq.compiler import Built, cached_library, find_compiler, source_digest
from hwq.engine.plan import ABI, EngineAudit, EngineOp
from hwq.errors import InputError, ToolError

VARIABLE = "HWQ_ENGINE_PATH"
"""Environment variable that forces a path by name."""


class CpuPath(Enum):
    """An instruction set the engine is written for. All give the same integers."""

    VNNI = "vnni"  # AVX-512 with dot products of bytes
    AVX2 = "avx2"
    PORTABLE = "portable"


FLAGS = {
    CpuPath.VNNI: (
        "-mavx512f",
        "-mavx512bw",
        "-mavx512vl",
        "-mavx512vnni",
        "-DHWQ_ENGINE_VNNI",
    ),
    CpuPath.AVX2: ("-mavx2", "-DHWQ_ENGINE_AVX2"),
    CpuPath.PORTABLE: (),
}
_NEEDS = {
    CpuPath.VNNI: {"avx512f", "avx512bw", "avx512vl", "avx512_vnni"},
    CpuPath.AVX2: {"avx2"},
}
# no contraction: an audit's float64 sums round after every step, on every path
_COMMON = ("-std=c++17", "-O3", "-ffp-contract=off", "-fPIC", "-shared", "-fvisibility=hidden")


def best_path() -> CpuPath:
    """$HWQ_ENGINE_PATH, else the fastest that the CPU and the system offer: Linux lists only what both do.

    Raises InputError for an unknown name, ToolError for a path that this CPU lacks.
    """
    has = _cpu_flags()
    named = os.environ.get(VARIABLE)
    if named:
        try:
            path = CpuPath(named)
        except ValueError:
            known = ", ".join(path.value for path in CpuPath)
            raise InputError(f"${VARIABLE} names '{named}'; known: {known}") from None
        if has and not _NEEDS.get(path, set()) <= has:
            raise ToolError(f"this CPU lacks the instructions of ${VARIABLE}={named}")
        return path
    return next((path for path in CpuPath if _NEEDS.get(path, set()) <= has), CpuPath.PORTABLE)


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {word for line in lines if line.startswith("flags") for word in line.split()}


def sources() -> tuple[Path, list[str]]:
    """The folder of the engine's C++ and its files, sorted."""
    folder = assets.folder("sim") / "engine"
    names = sorted(path.name for path in folder.iterdir() if path.suffix in (".h", ".cpp"))
    return folder, names


def build(path: CpuPath, extra_flags: Sequence[str] = ()) -> Built:
    """The library of a path, compiled or found in the cache. Raises ToolError."""
    compiler = find_compiler()
    folder, names = sources()
    arguments = [*_COMMON, *FLAGS[path], *extra_flags, "engine.cpp"]
    digest = source_digest(folder, names, (*arguments, *compiler.command, compiler.version))
    command = [*compiler.command, *arguments]
    return cached_library("engine", "engine.so", digest, command, folder=folder, what="the native engine")


class Library:
    """A loaded engine. Raises ToolError where it cannot be loaded or the CPU cannot run it."""

    def __init__(self, file: Path) -> None:
        try:
            library = ctypes.CDLL(str(file))
            self._declare(library)
        except (OSError, AttributeError) as error:
            raise ToolError(f"the native engine {file} does not load: {error}") from None
        expected = 1_000_000 * ABI + 1000 * ctypes.sizeof(EngineAudit) + ctypes.sizeof(EngineOp)
        found = library.hwq_engine_abi()
        if found != expected:
            raise ToolError(f"the native engine {file} has ABI {found}, expected {expected}")
        if not library.hwq_engine_runs_here():
            raise ToolError(f"this CPU lacks the instructions of the native engine {file}")
        self.lanes: int = library.hwq_engine_lanes()
        self._library = library

    @staticmethod
    def _declare(library: Any) -> None:
        ops, pointer, size = ctypes.POINTER(EngineOp), ctypes.c_void_p, ctypes.c_int64
        library.hwq_engine_abi.restype = size
        library.hwq_engine_lanes.restype = size
        library.hwq_engine_runs_here.restype = ctypes.c_int
        library.hwq_engine_room.restype = size
        library.hwq_engine_room.argtypes = [ops, size, pointer, size, pointer]
        library.hwq_engine_run.restype = ctypes.c_int
        library.hwq_engine_run.argtypes = [ops, size, pointer, size, pointer, pointer, pointer, size]

    def room(
        self,
        ops: ctypes.Array[EngineOp],
        kept: bytes,
        images: int,
        audits: ctypes.Array[EngineAudit] | None = None,
    ) -> int:
        """Bytes of working memory for that many images; `kept` flags the ops whose outputs are wanted."""
        return int(self._library.hwq_engine_room(ops, len(ops), kept, images, audits))

    def run(
        self,
        ops: ctypes.Array[EngineOp],
        pixels: int,
        images: int,
        outputs: ctypes.Array[ctypes.c_void_p],
        work: int,
        room: int,
        audits: ctypes.Array[EngineAudit] | None = None,
    ) -> None:
        """Run a batch; addresses as in sim/engine/engine.cpp. Other threads run meanwhile."""
        failed = self._library.hwq_engine_run(ops, len(ops), pixels, images, outputs, audits, work, room)
        assert not failed, "the working memory is too small"


@cache
def load(path: CpuPath, extra_flags: tuple[str, ...] = ()) -> Library:
    """The library of a path. Raises ToolError."""
    return Library(build(path, extra_flags).library)
