"""Compiles an exported project to a simulation library, once: cached by everything the result depends on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from hwq.compiler import Built, Compiler, cached_library, cpu_name, find_compiler, source_digest
from hwq.cosim.toolchain import Headers, find_headers


class Build(Enum):
    """How the one source is compiled."""

    AP = "ap"  # AMD's ap_types: the reference C simulation
    NATIVE = "native"  # the smallest built-in integers: the same bits, faster


_FLAGS = {
    Build.AP: ("-std=c++14", "-O2"),
    Build.NATIVE: ("-std=c++14", "-O3", "-march=native", "-DHWQ_NATIVE=1"),
}


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

    files: every file the result depends on; includes: include folders. All relative to the project.
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
    digest = source_digest(project, files, (*arguments, *identity))
    command = [*compiler.command, *arguments]
    return cached_library("build", "simulation.so", digest, command, folder=project, what="the project")
