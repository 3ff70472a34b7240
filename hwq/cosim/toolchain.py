"""Finds what compiles the C++: a compiler, AMD's headers, and (for the doctor only) Vitis or Vivado."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from hwq.errors import ToolError

HEADERS = ("ap_int.h", "ap_fixed.h", "hls_stream.h")
_COMPILERS = ("g++", "clang++", "c++")
_VENDOR = ("vitis_hls", "vitis", "vivado_hls", "vivado")


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: the command (with its own flags, from $CXX) and where it came from."""

    command: tuple[str, ...]
    origin: str

    @cached_property
    def version(self) -> str:
        """First line of `--version`. Raises ToolError when the compiler does not run."""
        try:
            done = subprocess.run([*self.command, "--version"], capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ToolError(f"the compiler {' '.join(self.command)} does not run: {error}") from None
        if done.returncode or not done.stdout.strip():
            raise ToolError(f"the compiler {' '.join(self.command)} does not answer --version")
        return done.stdout.splitlines()[0].strip()


@dataclass(frozen=True)
class Headers:
    """The folder of AMD's ap_types headers and where it came from."""

    folder: Path
    origin: str


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


def find_headers() -> Headers:
    """$XILINX_HLS/include, else the copy inside an installed hls4ml. Raises ToolError.

    hls4ml is located through its metadata and never imported.
    """
    vitis = os.environ.get("XILINX_HLS")
    if vitis:
        folder = Path(vitis) / "include"
        missing = [name for name in HEADERS if not (folder / name).is_file()]
        if missing:
            raise ToolError(f"$XILINX_HLS is set but {folder / missing[0]} is not there; correct or unset it")
        return Headers(folder, "$XILINX_HLS")
    try:
        found = distribution("hls4ml")
    except PackageNotFoundError:
        raise _no_headers("hls4ml is not installed") from None
    for file in found.files or ():
        if file.name == HEADERS[0]:
            folder = Path(str(file.locate())).parent
            if all((folder / name).is_file() for name in HEADERS):
                return Headers(folder, f"hls4ml {found.version}")
    raise _no_headers(f"hls4ml {found.version} does not hold them")


def _no_headers(why: str) -> ToolError:
    return ToolError(
        f"AMD's headers ({', '.join(HEADERS)}) are missing: {why}; "
        "`pip install hls4ml`, or set XILINX_HLS to a Vitis HLS installation"
    )


def cpu_name() -> str:
    """What -march=native depends on: the CPU's model and flags, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    found = {line.split(":")[0].strip(): line for line in lines if line.startswith(wanted)}
    return "\n".join([platform.machine(), *(found[key] for key in sorted(found))])


def vendor_tools() -> dict[str, str]:
    """Vitis and Vivado commands on the path: name -> path. hwq needs none of them."""
    found = {name: shutil.which(name) for name in _VENDOR}
    return {name: path for name, path in found.items() if path}


_PROBE = """#include <ap_fixed.h>
#include <ap_int.h>
#include <hls_stream.h>
int main() {
  ap_fixed<16, 8> sum = -1.5;
  ap_fixed<8, 8, AP_RND, AP_SAT_SYM> code = sum;
  hls::stream<ap_int<8> > pipe("pipe");
  pipe.write(code.to_int());
  return pipe.read() == -1 ? 0 : 1;
}
"""


def probe(compiler: Compiler, headers: Headers) -> None:
    """Compile and run a few lines with AMD's types. Raises ToolError."""
    with tempfile.TemporaryDirectory(prefix="hwq-probe-") as folder:
        source, program = Path(folder) / "probe.cpp", Path(folder) / "probe"
        source.write_text(_PROBE)
        include = ["-isystem", str(headers.folder)]
        command = [*compiler.command, "-std=c++14", *include, str(source), "-o", str(program)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode:
            first = next((line for line in done.stderr.splitlines() if "error" in line), "no message")
            raise ToolError(f"{compiler.command[0]} cannot compile AMD's headers: {first}")
        ran = subprocess.run([str(program)], capture_output=True, timeout=60)
        if ran.returncode:
            raise ToolError(
                f"a program compiled with {compiler.command[0]} gives wrong results with AMD's types"
            )
