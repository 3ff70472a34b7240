"""Finds what the C++ is compiled with: AMD's headers, and (for the doctor only) Vitis or Vivado."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from hwq.children import run
from hwq.compiler import Compiler
from hwq.errors import ToolError
from hwq.files import scratch

HEADERS = ("ap_int.h", "ap_fixed.h", "hls_stream.h")
_VENDOR = ("vitis_hls", "vitis", "vivado_hls", "vivado")


@dataclass(frozen=True)
class Headers:
    """The folder of AMD's ap_types headers and where it came from."""

    folder: Path
    origin: str


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
    with scratch("probe") as folder:
        source, program = folder / "probe.cpp", folder / "probe"
        source.write_text(_PROBE)
        include = ["-isystem", str(headers.folder)]
        command = [*compiler.command, "-std=c++14", *include, str(source), "-o", str(program)]
        try:
            done = run(command, output=subprocess.PIPE, timeout=300)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ToolError(f"{compiler.command[0]} does not run: {error}") from None
        if done.returncode:
            lines = done.stdout.decode(errors="replace").splitlines()
            first = next((line for line in lines if "error" in line), "no message")
            raise ToolError(f"{compiler.command[0]} cannot compile AMD's headers: {first}")
        ran = run([str(program)], output=subprocess.PIPE, timeout=60)
        if ran.returncode:
            raise ToolError(
                f"a program compiled with {compiler.command[0]} gives wrong results with AMD's types"
            )
