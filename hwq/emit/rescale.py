"""A Requantize op as tables of raw constants, one binary point, and a process of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwq.emit.plan import Config, Lanes, Network, OpHeader, Table, pixels, vector_table
from hwq.emit.tables import literal, raw_ctype
from hwq.errors import UnsupportedError
from hwq.fixed import Constants, Rounding
from hwq.ir import Requant, Requantize, magnitude

NATIVE_BITS = 128
AP_BITS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """A requantisation with one fraction F for all channels.

    Mathematically the same as one F a channel: a channel with a smaller F has its sum shifted up by
    `lift`, and half a code stays half a code. The native build takes the lift back where that saves
    width. shifts: one array a constant (terms, then bias), of length 1 where uniform.
    """

    fraction: int
    shifts: tuple[npt.NDArray[np.int64], ...]
    lift: npt.NDArray[np.int64]
    lifted: bool
    ap_bits: int
    native_bits: int

    @property
    def sum_bits(self) -> str:
        """The width of the sum as a C++ constant."""
        same = self.ap_bits == self.native_bits
        return str(self.ap_bits) if same else f"HWQ_BUILD({self.ap_bits}, {self.native_bits})"


def _capacity(bits: int) -> int:
    """Bits of the built-in integer for a sum."""
    return 32 if bits <= 32 else 64 if bits <= 64 else 128


def _uniform(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return values[:1] if bool((values == values[0]).all()) else values


def _shifts(constants: Constants, common: int) -> npt.NDArray[np.int64]:
    """2^shift brings a raw value to the common fraction; zeros take the smallest shift of the others."""
    shifts = common - constants.fraction
    used = shifts[constants.raw != 0]
    if used.size == 0:
        return np.zeros(1, np.int64)
    return _uniform(np.where(constants.raw == 0, used.min(), shifts))


def scaling(requant: Requant, bounds: tuple[int, ...], name: str) -> Scaling:
    """One F for all channels and the widths of the sum. bounds: max|x| a term.

    Raises UnsupportedError where no build could hold the sum.
    """
    fractions = requant.alignment.fraction
    common = int(fractions.max())
    lift = common - fractions
    own_bits = max(requant.sum_bits(bounds), common + 1)
    worst = np.zeros(requant.channels, object)
    for c, bound in zip((*requant.terms, requant.bias), (*bounds, 1), strict=True):
        size = np.abs(c.raw.astype(object)) * bound
        worst = worst + (size << _broadcast(_shifts(c, common), c.raw.size).astype(object))
    half = (1 << common) >> 1 if requant.rounding is Rounding.RND else 0
    bits = max(int(max(worst) + half).bit_length() + 1, common + 2)
    lifted = _capacity(own_bits) < _capacity(bits)
    native = own_bits if lifted else bits
    if native > NATIVE_BITS or bits > AP_BITS:
        raise UnsupportedError(
            f"op '{name}': its requantisation sums need {native} bits, "
            f"C++ built-in integers end at {NATIVE_BITS}; "
            "choose a narrower --fixed format"
        )
    shifts = tuple(_shifts(c, common) for c in (*requant.terms, requant.bias))
    if lifted:
        # only zeros can lie below the lift, and a zero may be shifted by anything: never by less than 0
        shifts = tuple(_uniform(np.maximum(s, lift)) for s in shifts)
    return Scaling(
        fraction=common,
        shifts=shifts,
        lift=lift,
        lifted=lifted,
        ap_bits=bits,
        native_bits=native,
    )


def _broadcast(values: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    return np.broadcast_to(values, (count,))


def _note(c: Constants) -> str:
    """How a reader gets the real value of a raw one."""
    integers = sorted(set(c.integer.tolist()))
    if len(integers) == 1:
        return f"raw bits of ap_fixed<{c.width},{integers[0]}>"
    return f"raw bits of ap_fixed<{c.width},I>, I = {integers[0]}..{integers[-1]} (see the shift table)"


class _Tables:
    """Raw tables and the C++ expressions that read them for channel c."""

    def __init__(self, net: Network, op: Requantize, scale: Scaling) -> None:
        self.cname = net.cnames[op.name]
        self.scale = scale
        self.found: list[Table] = []
        self._raw = net.raw
        if scale.lifted:
            self.found.append(
                vector_table(
                    f"lift_{self.cname}",
                    "uint16_t",
                    scale.lift,
                    "bits by which a channel's binary point lies below the common one",
                )
            )

    def entry(self, key: str, constants: Constants, shift: npt.NDArray[np.int64]) -> dict[str, str]:
        """{raw, shift, width}: what the template's line for one constant needs."""
        raw_name = f"{key}_{self.cname}"
        self._raw[f"{self.cname}.{key}"] = constants.raw
        self.found.append(vector_table(raw_name, raw_ctype(constants.width), constants.raw, _note(constants)))
        if shift.size == 1:
            move = str(int(shift[0]))
        else:
            move = f"{key}_shift_{self.cname}[c]"
            table = vector_table(
                f"{key}_shift_{self.cname}", "uint16_t", shift, "left shift of each raw value"
            )
            self.found.append(table)
        if self.scale.lifted:
            move = f"HWQ_BUILD({move}, {move} - lift_{self.cname}[c])"
        index = "0" if constants.raw.size == 1 else "c"
        return {"raw": f"{raw_name}[{index}]", "shift": move, "width": str(constants.width)}


def requantize(net: Network, op: Requantize) -> None:
    """Terms in, codes out: one process whose text stands in the op's header."""
    cname, r = net.cnames[op.name], op.requant
    bounds = tuple(magnitude(source.out.type) for source in net.graph.inputs_of(op))
    scale = scaling(r, bounds, op.name)
    taken = [net.take(name) for name in op.inputs]
    lanes = Lanes(max(s.lanes.folded for s in taken), max(s.lanes.native for s in taken))
    sources = [net.adapt(stream, lanes) for stream in taken]
    out = net.output_stream(op, lanes)
    tables = _Tables(net, op, scale)
    terms = []
    for i, (stream, constants, shift) in enumerate(zip(sources, r.terms, scale.shifts, strict=False)):
        terms.append({"type": stream.element, **tables.entry(f"multiplier{i}", constants, shift)})
    bias = tables.entry("bias", r.bias, scale.shifts[-1])
    whole = (r.lo, r.hi) == (r.out.lo, r.out.hi)
    config = Config(
        name=f"cfg_{cname}",
        types={"out_t": out.element},
        values={
            "pixels": str(pixels(op.out)),
            "channels": str(op.out.channels),
            "lanes": str(lanes),
            "sum_bits": scale.sum_bits,
            "fraction": str(scale.fraction),
            "round_half_up": "1" if r.rounding is Rounding.RND else "0",
            "out_bits": str(r.out.storage_bits),
            "out_signed": "1" if r.out.signed else "0",
            "clamps": "0" if whole else "1",
        },
        bounds={"lo": literal(r.lo), "hi": literal(r.hi)},
    )
    fraction = f"cfg_{cname}::fraction"
    if scale.lifted:
        fraction = f"HWQ_BUILD({fraction}, {fraction} - lift_{cname}[c])"
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
