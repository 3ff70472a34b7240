"""Compiles an exported project to a simulation library, once: cached by everything the result depends on."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from hwq.cosim.toolchain import Compiler, Headers, cpu_name, find_compiler, find_headers
from hwq.errors import ToolError
from hwq.files import cache_folder

KEEP = 64
"""Libraries kept in the cache; the ones used longest ago go first."""


class Build(Enum):
    """How the one source is compiled."""

    AP = "ap"  # AMD's ap_types: the reference C simulation
    NATIVE = "native"  # the smallest built-in integers: the same bits, faster


_FLAGS = {
    Build.AP: ("-std=c++14", "-O2"),
    Build.NATIVE: ("-std=c++14", "-O3", "-march=native", "-DHWQ_NATIVE=1"),
}
_SUFFIXES = (".c", ".cc", ".cpp", ".cxx", ".h", ".hpp")


@dataclass(frozen=True, slots=True)
class Built:
    """A compiled library. `cached`: it was there already; `seconds` of CPU it took to compile then."""

    library: Path
    cached: bool
    seconds: float


def source_files(project: Path, listed: Sequence[str]) -> list[str]:
    """The C++ files among the project's files, sorted."""
    return sorted(name for name in listed if Path(name).suffix in _SUFFIXES and (project / name).is_file())


def _digest(project: Path, files: Sequence[str], command: Sequence[str], identity: Sequence[str]) -> str:
    key = hashlib.sha256()
    for name in files:
        content = hashlib.sha256((project / name).read_bytes()).hexdigest()
        key.update(f"{name}\0{content}\n".encode())
    for text in (*command, *identity):
        key.update(f"{text}\0".encode())
    return key.hexdigest()[:40]


def _headers_digest(headers: Headers) -> str:
    key = hashlib.sha256()
    for path in sorted(headers.folder.rglob("*.h")):
        key.update(path.read_bytes())
    return key.hexdigest()


def build(
    project: Path,
    kind: Build,
    *,
    files: Sequence[str],
    sources: Sequence[str],
    includes: Sequence[str],
    compiler: Compiler | None = None,
    headers: Headers | None = None,
    extra_flags: Sequence[str] = (),
) -> Built:
    """Compile `sources` of the project folder into a shared library, or find it in the cache.

    files: every C++ file the result depends on; includes: include folders. All relative to the project.
    Raises ToolError: no compiler, no headers, or the first compile error with the path of the full log.
    """
    compiler = compiler or find_compiler()
    if kind is Build.AP:  # the native build includes none of AMD's headers
        headers = headers or find_headers()
    flags = [*_FLAGS[kind], "-fPIC", "-shared", *extra_flags]
    arguments = [*flags, *(f"-I{name}" for name in includes), *sources]
    identity = [compiler.version, *compiler.command]
    if headers is not None:
        arguments += ["-isystem", str(headers.folder)]
        identity.append(_headers_digest(headers))
    if "-march=native" in flags:
        identity.append(cpu_name())
    digest = _digest(project, files, arguments, identity)
    root = cache_folder()
    place = root / "build" / digest
    library = place / "simulation.so"
    if library.is_file():
        os.utime(place)
        return Built(library, True, _seconds(place))
    for folder in (root / "build", root / "logs"):
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=root / "build") as temporary:
        fresh = Path(temporary) / "done"
        fresh.mkdir()
        log = root / "logs" / f"{digest}.log"
        seconds = _compile([*compiler.command, *arguments, "-o", str(fresh / "simulation.so")], project, log)
        (fresh / "seconds").write_text(f"{seconds:.2f}\n")
        try:
            fresh.rename(place)
        except OSError:  # another process was first
            if not library.is_file():
                raise
    _prune(root / "build")
    return Built(library, False, seconds)


def _seconds(place: Path) -> float:
    try:
        return float((place / "seconds").read_text())
    except (OSError, ValueError):
        return 0.0


def _compile(command: Sequence[str], project: Path, log: Path) -> float:
    """Run the compiler; CPU-seconds it took. The log is kept when it fails."""
    before = os.times()
    with log.open("wb") as out:
        out.write((" ".join(command) + "\n").encode())
        out.flush()
        try:
            code = subprocess.run(command, cwd=project, stdout=out, stderr=subprocess.STDOUT).returncode
        except OSError as error:
            raise ToolError(f"the compiler {command[0]} does not run: {error}") from None
    if code:
        raise ToolError(f"the project does not compile: {_first_error(log)} (full log: {log})")
    log.unlink(missing_ok=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def _first_error(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[1:]
    for line in lines:
        if "error" in line.lower():
            return line.strip()[:300]
    return lines[-1].strip()[:300] if lines else "the compiler said nothing (killed? out of memory?)"


def _prune(folder: Path) -> None:
    """Forget the libraries used longest ago, and what a killed compile left behind a day ago."""
    found: list[tuple[float, Path]] = []
    for path in folder.iterdir():
        try:
            found.append((path.stat().st_mtime, path))
        except OSError:
            continue  # another process removed it
    found.sort(reverse=True)
    ready = [path for _, path in found if not path.name.startswith(".")]
    stale = [path for at, path in found if path.name.startswith(".") and at < time.time() - 86_400]
    for path in (*ready[KEEP:], *stale):
        shutil.rmtree(path, ignore_errors=True)
