"""Finds the C++ compiler, and compiles shared libraries once: cached by everything the result depends on."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hwq.children import NOT_STARTED, run
from hwq.errors import InputError, ToolError
from hwq.files import cache_folder, digest, fresh_folder, read_bytes, read_text

KEEP = 64
"""Libraries kept in each cache; the ones used longest ago go first."""
_FULL = os.strerror(errno.ENOSPC)
_COMPILERS = ("g++", "clang++", "c++")


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: the command (with its own flags, from $CXX) and where it came from."""

    command: tuple[str, ...]
    origin: str

    @cached_property
    def version(self) -> str:
        """First line of `--version`. Raises ToolError when the compiler does not run."""
        try:
            done = subprocess.run([*self.command, "--version"], capture_output=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ToolError(f"the compiler {' '.join(self.command)} does not run: {error}") from None
        said = done.stdout.decode(errors="replace").strip()
        if done.returncode or not said:
            raise ToolError(f"the compiler {' '.join(self.command)} does not answer --version")
        return said.splitlines()[0].strip()


def find_compiler() -> Compiler:
    """$CXX, else g++, clang++ or c++ on the path. Raises ToolError."""
    named = os.environ.get("CXX", "").split()
    if named:
        if shutil.which(named[0]) is None:
            raise ToolError(f"$CXX names '{named[0]}', which is not there; unset CXX or install it")
        return Compiler(tuple(named), "$CXX")
    for name in _COMPILERS:
        path = shutil.which(name)
        if path:
            return Compiler((path,), "PATH")
    raise ToolError("no C++ compiler: install g++ (Debian: apt-get install g++) or set CXX")


def cpu_name() -> str:
    """What -march=native depends on: the CPU's model and flags, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    found = {line.split(":")[0].strip(): line for line in lines if line.startswith(wanted)}
    return "\n".join([platform.machine(), *(found[key] for key in sorted(found))])


def source_digest(folder: Path, files: Sequence[str], identity: Sequence[str]) -> str:
    """Of the files' names and contents, and of whatever else the result depends on."""
    key = hashlib.sha256()
    for name in files:
        content = digest(folder / name)
        key.update(f"{name}\0{content}\n".encode())
    for text in identity:
        key.update(f"{text}\0".encode())
    return key.hexdigest()[:40]


@dataclass(frozen=True, slots=True)
class Built:
    """A compiled library. `cached`: it was there already; `seconds` of CPU it took to compile then."""

    library: Path
    cached: bool
    seconds: float


def cached_library(
    kind: str, file: str, digest: str, command: Sequence[str], *, folder: Path, what: str
) -> Built:
    """CACHE/kind/digest/file, compiled by `command` + -o in `folder` unless it is there.

    Several processes may ask at once: each gets a whole library. One that is not as it was compiled (cut
    short, say: loading it would kill the process) is compiled again. `what` is the source in words. Raises
    ToolError: the first compile error, with the path of the full log; or a cache that cannot be written.
    """
    root = cache_folder()
    place = root / kind / digest
    library = place / file
    try:
        if _whole(place, file):
            with suppress(OSError):  # a cache that may only be read serves as well
                os.utime(place)
            return Built(library, True, _seconds(place))
        seconds = _build(root, place, file, command, folder, what)
    except OSError as error:
        why = error.strerror or error
        raise ToolError(f"the cache folder {root} cannot be used: {why} (or set XDG_CACHE_HOME)") from None
    _prune(root / kind)
    return Built(library, False, seconds)


def _build(root: Path, place: Path, file: str, command: Sequence[str], folder: Path, what: str) -> float:
    """Compile beside `place`, then rename; CPU-seconds it took."""
    for needed in (place.parent, root / "logs"):
        needed.mkdir(parents=True, exist_ok=True)
    with fresh_folder(place.parent, "new") as temporary:
        fresh = temporary / "done"
        fresh.mkdir()
        log = root / "logs" / f"{place.name}.log"
        seconds = _compile([*command, "-o", str(fresh / file)], folder, log, what)
        (fresh / "seconds").write_text(f"{seconds:.2f}\n")
        (fresh / "sha256").write_text(digest(fresh / file))
        if place.exists() and not _whole(place, file):
            place.rename(temporary / "damaged")
        try:
            fresh.rename(place)
        except OSError:  # another process was first
            if not _whole(place, file):
                raise
    return seconds


def _whole(place: Path, file: str) -> bool:
    """Whether the library there is what the compiler wrote."""
    try:
        return read_bytes(place / "sha256", limit=64).decode(errors="replace") == digest(place / file)
    except InputError:
        return False


def _seconds(place: Path) -> float:
    try:
        return float(read_text(place / "seconds"))
    except (InputError, ValueError):
        return 0.0


def _compile(command: Sequence[str], folder: Path, log: Path, what: str) -> float:
    """Run the compiler; CPU-seconds it took. The log is kept when it fails."""
    before = os.times()
    with log.open("wb") as out:
        out.write((" ".join(command) + "\n").encode())
        out.flush()
        try:
            code = run(command, output=out, folder=folder).returncode
        except OSError as error:
            raise ToolError(f"the compiler {command[0]} does not run: {error}") from None
    if code == NOT_STARTED:
        raise ToolError(f"the compiler {command[0]} does not run: {_first_error(log)}")
    if code:
        said = next((line for line in log.read_text(errors="replace").splitlines() if _FULL in line), None)
        if said is not None:  # no fault of the source; the linker's own "error" says nothing
            log.unlink(missing_ok=True)
            raise ToolError(
                f"{what} is not compiled: {said.strip()[:300]} (the cache folder {cache_folder()}, or the "
                f"compiler's temporary one: make room, or set XDG_CACHE_HOME or TMPDIR)"
            )
        raise ToolError(f"{what} does not compile: {_first_error(log)} (full log: {log})")
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
    """Forget the libraries used longest ago."""
    found: list[tuple[float, Path]] = []
    for path in folder.iterdir():
        try:
            found.append((path.stat().st_mtime, path))
        except OSError:
            continue  # another process removed it
    found.sort(reverse=True)
    ready = [path for _, path in found if not path.name.startswith(".")]
    for path in ready[KEEP:]:
        shutil.rmtree(path, ignore_errors=True)
