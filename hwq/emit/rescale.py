"""A Requantize op as tables of raw constants, one binary point, and a process of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwq.emit.plan import Config, Lanes, Network, OpHeader, Table, pixels, vector_table
from hwq.emit.tables import literal, raw_ctype
from hwq.errors import UnsupportedError
from hwq.fixed import Constants, Rounding
from hwq.ir import Bound, Requant, Requantize

NATIVE_BITS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """A requantisation as the C++ computes it: with a binary point of each channel, or one for all.

    One F for all channels is mathematically the same: a channel with a smaller F has its sum shifted up,
    and half a code stays half a code. It saves the last shift of each channel, and is taken where it
    makes no sum wider. fraction: (C,), or (1,) where one serves all. shifts: one array a constant (terms,
    then bias), of length 1 where uniform. bits: signed width of every partial sum.
    """

    fraction: npt.NDArray[np.int64]
    shifts: tuple[npt.NDArray[np.int64], ...]
    bits: int

    @property
    def own(self) -> bool:
        """Whether channels have binary points of their own."""
        return self.fraction.size > 1


def _uniform(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return values[:1] if bool((values == values[0]).all()) else values


def _shifts(
    constants: Constants, fraction: npt.NDArray[np.int64], bound: Bound | int
) -> npt.NDArray[np.int64]:
    """2^shift brings a raw value to `fraction`. What adds 0 takes the smallest shift of the others."""
    alive = (constants.raw != 0) & (np.asarray(bound) != 0)
    shifts, alive = np.broadcast_arrays(fraction - constants.fraction, alive)
    if not alive.any():
        return np.zeros(1, np.int64)
    return _uniform(np.where(alive, shifts, shifts[alive].min()))


def scaling(requant: Requant, bounds: tuple[Bound, ...], name: str) -> Scaling:
    """The narrowest sums that are proved to suffice. bounds: max|x| of each channel, one array a term.

    Raises UnsupportedError where the native build could not hold the sum.
    """
    own = _uniform(requant.alignment.fraction)
    common = own.max(keepdims=True)
    made = min((_scaling(requant, bounds, f) for f in (common, own)), key=lambda s: s.bits)
    if made.bits > NATIVE_BITS:
        raise UnsupportedError(
            f"op '{name}': its requantisation sums need {made.bits} bits, "
            f"C++ built-in integers end at {NATIVE_BITS}; "
            "choose a narrower --fixed format"
        )
    return made


def _scaling(requant: Requant, bounds: tuple[Bound, ...], fraction: npt.NDArray[np.int64]) -> Scaling:
    """With these binary points, none of which lies above the channel's own."""
    lift = (fraction - requant.alignment.fraction).astype(object)
    a = requant.alignment
    half = 0 if requant.rounding is not Rounding.RND else (1 << fraction.astype(object)) >> 1
    worst = np.abs(a.bias) << lift
    for multiplier, bound in zip(a.multipliers, bounds, strict=True):
        worst = worst + ((np.abs(multiplier) * bound) << lift)
    # at least the fraction and a sign: shifts by the fraction stay below the width
    bits = max(int((worst + half).max()).bit_length(), int(fraction.max())) + 1
    terms = zip(requant.terms, bounds, strict=True)
    shifts = (*(_shifts(c, fraction, b) for c, b in terms), _shifts(requant.bias, fraction, 1))
    return Scaling(fraction=fraction, shifts=shifts, bits=bits)


def _note(c: Constants) -> str:
    """How a reader gets the real value of a raw one."""
    integers = sorted(set(c.integer.tolist()))
    if len(integers) == 1:
        return f"raw bits of ap_fixed<{c.width},{integers[0]}>"
    return f"raw bits of ap_fixed<{c.width},I>, I = {integers[0]}..{integers[-1]} (see the shift table)"


class _Tables:
    """Raw tables and the C++ expressions that read them for channel c."""

    def __init__(self, net: Network, op: Requantize) -> None:
        self.cname = net.cnames[op.name]
        self.found: list[Table] = []
        self._raw = net.raw

    def entry(self, key: str, constants: Constants, shift: npt.NDArray[np.int64]) -> dict[str, str]:
        """{raw, shift, width}: what the template's line for one constant needs."""
        raw_name = f"{key}_{self.cname}"
        self._raw[f"{self.cname}.{key}"] = constants.raw
        self.found.append(vector_table(raw_name, raw_ctype(constants.width), constants.raw, _note(constants)))
        move = self.small(f"{key}_shift", shift, "left shift of each raw value")
        index = "0" if constants.raw.size == 1 else "c"
        return {"raw": f"{raw_name}[{index}]", "shift": move, "width": str(constants.width)}

    def small(self, key: str, values: npt.NDArray[np.int64], note: str) -> str:
        """A number of channel c: itself where all are alike, else an entry of a table."""
        if values.size == 1:
            return str(int(values[0]))
        self.found.append(vector_table(f"{key}_{self.cname}", "uint16_t", values, note))
        return f"{key}_{self.cname}[c]"


def requantize(net: Network, op: Requantize) -> None:
    """Terms in, codes out: one process whose text stands in the op's header."""
    cname, r = net.cnames[op.name], op.requant
    scale = scaling(r, net.graph.input_bounds(op), op.name)
    taken = [net.take(name) for name in op.inputs]
    lanes = Lanes(max(s.lanes.folded for s in taken), max(s.lanes.native for s in taken))
    sources = [net.adapt(stream, lanes) for stream in taken]
    out = net.output_stream(op, lanes)
    tables = _Tables(net, op)
    terms = []
    for i, (stream, constants, shift) in enumerate(zip(sources, r.terms, scale.shifts, strict=False)):
        terms.append({"type": stream.element, **tables.entry(f"multiplier{i}", constants, shift)})
    bias = tables.entry("bias", r.bias, scale.shifts[-1])
    fraction = tables.small("fraction", scale.fraction, "fraction bits of each channel's sum")
    whole = (r.lo, r.hi) == (r.out.lo, r.out.hi)
    config = Config(
        name=f"cfg_{cname}",
        types={"out_t": out.element},
        values={
            "pixels": str(pixels(op.out)),
            "channels": str(op.out.channels),
            "lanes": str(lanes),
            "sum_bits": str(scale.bits),
            "own_fractions": "1" if scale.own else "0",
            "fraction": "1" if scale.own else fraction,
            "round_half_up": "1" if r.rounding is Rounding.RND else "0",
            "out_bits": str(r.out.storage_bits),
            "out_signed": "1" if r.out.signed else "0",
            "clamps": "0" if whole else "1",
        },
        bounds={"lo": literal(r.lo), "hi": literal(r.hi)},
    )
    net.headers.append(
        OpHeader(
            op=op.name,
            cname=cname,
            kind="Requantize",
            includes=("hwq_requantize.h", "hwq_stream.h"),
            configs=(config,),
            tables=tuple(tables.found),
            template="requantize.h.j2",
            extra={"terms": terms, "bias": bias, "fraction": fraction},
        )
    )
    arguments = ", ".join([*(s.name for s in sources), out.name])
    net.process(f"requantize_{cname}({arguments});", tuple(sources), (out,))
    net.publish(op, out)
