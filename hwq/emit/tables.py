"""Integer tables as C++ text, .npy and .dat."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

from hwq.fixed import IntType

_PER_LINE = 16
CTYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64")


def ctype(kind: IntType) -> str | None:
    """The smallest built-in integer that holds the codes, by numpy's name; None beyond 64 bits."""
    for name in CTYPES:
        info = np.iinfo(name)
        if info.min <= kind.lo and kind.hi <= info.max:
            return name
    return None


def raw_ctype(bits: int) -> str:
    """The C type of a table of signed `bits`-bit integers."""
    return next(f"int{n}_t" for n in (8, 16, 32, 64) if bits <= n)


def code_ctype(kind: IntType) -> str:
    """The C type of a table of codes."""
    sign = "" if kind.signed else "u"
    return next(f"{sign}int{n}_t" for n in (8, 16, 32, 64) if kind.storage_bits <= n)


def literal(value: int) -> str:
    """An integer literal that C++ reads as itself, the most negative int64 included."""
    if value == -(1 << 63):
        return "(-9223372036854775807LL - 1)"
    return f"{value}LL" if abs(value) >= 1 << 31 else str(value)


def rows(values: npt.NDArray[np.int64]) -> list[str]:
    """A vector as lines of comma-separated literals."""
    texts = [literal(v) for v in values.tolist()]
    return [", ".join(texts[i : i + _PER_LINE]) for i in range(0, len(texts), _PER_LINE)]


def matrix(values: npt.NDArray[np.int64]) -> list[list[str]]:
    """A matrix as rows of lines."""
    return [rows(row) for row in values]


def npy(values: npt.NDArray[np.int64]) -> bytes:
    """The .npy file of an integer array."""
    out = io.BytesIO()
    np.lib.format.write_array(out, np.ascontiguousarray(values), allow_pickle=False)
    return out.getvalue()


def dat(values: npt.NDArray[np.int64]) -> bytes:
    """One decimal integer a line."""
    return ("\n".join(map(str, values.reshape(-1).tolist())) + "\n").encode()
