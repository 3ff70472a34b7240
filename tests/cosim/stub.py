"""A hand-written simulation library for a graph of pixels -> pixels, with faults on request."""

from __future__ import annotations

from pathlib import Path

from hwq.fixed import IntType
from hwq.ir import Graph, Input, Output, TensorSpec, verify

SOURCE = r"""
#include <cstdint>
#include <cstring>
#include <cstdio>
#include <unistd.h>
extern "C" int hwq_abi(void) { return ABI; }
extern "C" int hwq_run(const uint8_t* pixels, int64_t count, void* const* taps) {
  for (int64_t i = 0; i < count * SIZE; ++i) {
    uint8_t x = pixels[i];
    if (taps[0]) static_cast<uint8_t*>(taps[0])[i] = x;
    FAULT
    if (taps[1]) static_cast<uint8_t*>(taps[1])[i] = x;
  }
  return CODE;
}
"""


def passing_graph(shape: tuple[int, int, int] = (2, 3, 1)) -> Graph:
    """Input and Output, nothing between."""
    spec = TensorSpec(shape=shape, type=IntType(bits=8, signed=False), scale=1 / 255)
    graph = Graph(
        name="stub",
        ops=(
            Input(name="pixels", inputs=(), out=spec),
            Output(name="out", inputs=("pixels",), out=spec),
        ),
    )
    verify(graph)
    return graph


def write_stub(folder: Path, *, fault: str = "", code: int = 0, abi: int = 1, size: int = 6) -> Path:
    """stub.cpp in `folder`; `fault` is C++ that may change x, the value of index i."""
    text = SOURCE.replace("FAULT", fault).replace("CODE", str(code)).replace("ABI", str(abi))
    path = folder / "stub.cpp"
    path.write_text(text.replace("SIZE", str(size)))
    return path
