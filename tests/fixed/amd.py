"""AMD's own ap_fixed as an oracle: one generated C++ program that casts raw values between formats."""

from __future__ import annotations

import importlib.metadata
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq.fixed import FixedType, Overflow, Rounding


def headers() -> Path:
    """The ap_types folder that the hls4ml distribution ships; hls4ml itself is never imported."""
    files = importlib.metadata.files("hls4ml") or []
    found = next(f for f in files if f.name == "ap_fixed.h")
    return Path(str(found.locate())).parent


@dataclass(frozen=True)
class Case:
    """A cast from `source` to the width, I and sign of `target`, under every second pair of modes.

    odd: the other half of the pairs. Every cast under a pair is a class of AMD's to compile.
    """

    source: FixedType
    target: FixedType
    odd: bool

    @property
    def modes(self) -> list[tuple[Rounding, Overflow]]:
        """Of 7 x 5; AMD's ap_ufixed stops the program at AP_WRAP_SM, which an unsigned target so lacks."""
        pairs = [
            (q, o) for i, q in enumerate(Rounding) for j, o in enumerate(Overflow) if (i + j) % 2 == self.odd
        ]
        return [(q, o) for q, o in pairs if self.target.signed or o is not Overflow.WRAP_SM]

    def under(self, rounding: Rounding, overflow: Overflow) -> FixedType:
        t = self.target
        return FixedType(
            width=t.width, integer=t.integer, signed=t.signed, rounding=rounding, overflow=overflow
        )


def case(source: str, target: str, odd: bool) -> Case:
    """case("s24,12", "u8,4", False): sign, W, I of each, which half of the modes."""

    def parse(text: str) -> FixedType:
        width, integer = text[1:].split(",")
        return FixedType(width=int(width), integer=int(integer), signed=text[0] == "s")

    return Case(parse(source), parse(target), odd)


PROGRAM = r"""
#include <ap_fixed.h>
#include <cstdint>
#include <cstdio>
#include <vector>

// raw values travel as two 64-bit limbs, low first, sign- or zero-extended to 128 bits
template <int W, bool S> struct Whole { typedef ap_int<W> type; };
template <int W> struct Whole<W, false> { typedef ap_uint<W> type; };

template <class Source, int SW, class Target, int TW, bool TS>
void cast(const std::vector<int64_t>& in, std::vector<int64_t>& out) {
  for (size_t i = 0; i < in.size(); i += 2) {
    ap_int<128> limbs;
    limbs.range(63, 0) = ap_int<64>(in[i]);
    limbs.range(127, 64) = ap_int<64>(in[i + 1]);
    Source source;
    source.range(SW - 1, 0) = limbs.range(SW - 1, 0);
    Target target = source;
    typename Whole<TW, TS>::type raw;
    raw.range(TW - 1, 0) = target.range(TW - 1, 0);
    ap_int<128> wide = raw;
    out.push_back(ap_int<64>(wide.range(63, 0)).to_int64());
    out.push_back(ap_int<64>(wide.range(127, 64)).to_int64());
  }
}
// the same for formats of at most 64 bits
template <class Source, int SW, class Target, int TW, bool TS>
void narrow(const std::vector<int64_t>& in, std::vector<int64_t>& out) {
  for (size_t i = 0; i < in.size(); ++i) {
    Source source;
    source.range(SW - 1, 0) = ap_int<SW>(in[i]);
    Target target = source;
    typename Whole<TW, TS>::type raw;
    raw.range(TW - 1, 0) = target.range(TW - 1, 0);
    out.push_back(TS ? raw.to_int64() : int64_t(raw.to_uint64()));
  }
}
typedef void (*Cast)(const std::vector<int64_t>&, std::vector<int64_t>&);
const Cast casts[] = {
@CASTS@
};
// argv: index of the first cast, number of casts
int main(int, char** argv) {
  const Cast* first = casts + atoi(argv[1]);
  const size_t modes = atoi(argv[2]);
  std::vector<int64_t> in, out;
  std::vector<int64_t> part(1 << 16);
  while (size_t n = fread(part.data(), 8, part.size(), stdin))
    in.insert(in.end(), part.begin(), part.begin() + n);
  for (size_t m = 0; m < modes; ++m) {
    out.clear();
    first[m](in, out);
    if (fwrite(out.data(), 8, out.size(), stdout) != out.size()) return 1;
  }
  return fflush(stdout) ? 1 : 0;
}
"""


def is_wide(c: Case) -> bool:
    return max(c.source.width, c.target.width) > 63


def _cpp(kind: FixedType, modes: str = "") -> str:
    return f"ap_{'' if kind.signed else 'u'}fixed<{kind.width},{kind.integer}{modes}>"


def build(cases: list[Case], folder: Path) -> Path:
    """Compile the program for these cases; CalledProcessError shows the compiler's words."""
    lines = []
    for c in cases:
        for q, o in c.modes:
            target = _cpp(c.target, f",AP_{q.value},AP_{o.value}")
            signed = "true" if c.target.signed else "false"
            name = "cast" if is_wide(c) else "narrow"
            lines.append(
                f"  {name}<{_cpp(c.source)}, {c.source.width}, {target}, {c.target.width}, {signed}>,"
            )
    text = PROGRAM.replace("@CASTS@", "\n".join(lines))
    source, binary = folder / "amd.cpp", folder / "amd"
    source.write_text(text)
    flags = ["-std=c++14", "-O1", "-w", f"-I{headers()}"]
    subprocess.run(["g++", *flags, str(source), "-o", str(binary)], check=True, timeout=300)
    return binary


def run(binary: Path, cases: list[Case], position: int, raw: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """AMD's results for raw values of the source: (modes, n), int64 or Python integers."""
    c = cases[position]
    first = sum(len(earlier.modes) for earlier in cases[:position])
    command = [str(binary), str(first), str(len(c.modes))]
    done = subprocess.run(command, input=_limbs(c, raw), capture_output=True, check=True, timeout=300)
    values = np.frombuffer(done.stdout, np.int64)
    if not is_wide(c):
        return values.reshape(len(c.modes), -1)
    low, high = values.reshape(len(c.modes), -1, 2).transpose(2, 0, 1)
    whole: npt.NDArray[Any] = low.astype(np.uint64).astype(object) + (high.astype(object) << 64)
    return whole


def _limbs(c: Case, raw: npt.NDArray[Any]) -> bytes:
    if not is_wide(c):
        return raw.astype(np.int64).tobytes()
    exact = raw.astype(object)
    low = (exact & (2**64 - 1)).astype(np.uint64).astype(np.int64)
    high = (exact >> 64).astype(np.int64)
    return np.stack([low, high], axis=1).tobytes()
