"""What this machine has for hwq, what is missing, and how to get it."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hwq.compiler import find_compiler
from hwq.cosim.toolchain import find_headers, probe, vendor_tools
from hwq.errors import HwqError
from hwq.files import cache_folder

_MIN_FREE = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One line of the examination. `ok` with `required` False: nice to have."""

    name: str
    ok: bool
    found: str
    advice: str = ""
    required: bool = True

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine() -> list[Fact]:
    """Every fact; never raises for something missing."""
    checks = (_python, _torch, _compiler, _headers, _probe, _assets, _vendor, _cache, _disk)
    return [_safely(check) for check in checks]


def _safely(check: Callable[[], Fact]) -> Fact:
    try:
        return check()
    except (HwqError, OSError, ImportError) as error:
        return Fact(name=check.__name__.strip("_"), ok=False, found="missing", advice=str(error))


def _python() -> Fact:
    ok = sys.version_info >= (3, 11)
    return Fact(
        name="python",
        ok=ok,
        found=f"{platform.python_version()} ({sys.executable})",
        advice="" if ok else "hwq needs Python 3.11 or newer",
    )


def _torch() -> Fact:
    if importlib.util.find_spec("torch") is None:
        return Fact(name="torch", ok=False, found="missing", advice="pip install torch")
    torch = importlib.import_module("torch")
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return Fact(
        name="torch", ok=True, found=f"{torch.__version__}, {torch.get_num_threads()} threads, {cuda}"
    )


def _compiler() -> Fact:
    compiler = find_compiler()
    return Fact(
        name="compiler",
        ok=True,
        found=f"{compiler.version} ({' '.join(compiler.command)}, {compiler.origin})",
    )


def _headers() -> Fact:
    headers = find_headers()
    return Fact(name="AMD headers", ok=True, found=f"{headers.folder} ({headers.origin})")


def _probe() -> Fact:
    probe(find_compiler(), find_headers())
    return Fact(name="probe", ok=True, found="a program with AMD's types compiles and runs")


def _assets() -> Fact:
    assets = importlib.import_module("hwq.assets")
    where = {kind: str(assets.folder(kind)) for kind in ("templates", "hls", "sim")}
    return Fact(name="assets", ok=True, found=", ".join(where.values()))


def _vendor() -> Fact:
    found = vendor_tools()
    return Fact(
        name="Vitis / Vivado",
        ok=bool(found),
        found=", ".join(found.values()) or "none",
        advice="" if found else "only needed for synthesis; AMD's free editions will do",
        required=False,
    )


def _cache() -> Fact:
    folder = cache_folder()
    libraries = len(list((folder / "build").glob("*/simulation.so"))) if folder.is_dir() else 0
    return Fact(name="cache", ok=True, found=f"{folder}: {libraries} compiled libraries", required=False)


def _disk() -> Fact:
    folder = cache_folder()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    here = shutil.disk_usage(Path.cwd()).free
    ok = min(free, here) >= _MIN_FREE
    return Fact(
        name="free disk",
        ok=ok,
        found=f"{free >> 30} GiB for the cache, {here >> 30} GiB here",
        advice="" if ok else "less than 1 GiB is free",
        required=False,
    )
