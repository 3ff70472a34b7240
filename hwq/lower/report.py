"""What storing the constants cost: saturated and vanished values (numerics, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq.errors import InputError
from hwq.fixed import ConstantFormat, Constants, LiteralFormat
from hwq.ir import Bound, Requant
from hwq.lower.values import Floats


class LossyError(InputError):
    """A constant saturated, or vanished where it could have moved an output."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RealConstants:
    """The real M (one vector a term) and B of a Requantize, before they were stored. Length 1 or C."""

    terms: tuple[Floats, ...]
    bias: Floats

    def sums(self, inputs: Sequence[npt.NDArray[Any]]) -> Floats:
        """sum_i x_i * M_i + B in float64, terms in order: output codes before rounding and clamping."""
        total = np.zeros(inputs[0].shape, dtype=np.float64)
        for x, multiplier in zip(inputs, self.terms, strict=True):
            total += x.astype(np.float64) * multiplier
        return total + self.bias


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantIssue:
    """One constant that its format cannot show.

    op: the Requantize. source: the input whose multiplier it is, or "" for a bias. channel: None where
    one value serves all. problem: "saturated" or "vanished". harmful: it could move an output code.
    """

    op: str
    source: str
    channel: int | None
    value: float
    stored: float
    problem: str
    harmful: bool

    def __str__(self) -> str:
        what = f"multiplier of {self.source}" if self.source else "bias"
        channel = "" if self.channel is None else f", channel {self.channel}"
        stored = "became 0" if self.problem == "vanished" else f"saturated to {self.stored:.6g}"
        return f"{self.op}: {what}{channel}: {self.value:.6g} {stored}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LowerReport:
    """issues: every saturated and every vanished non-zero constant. real: by name of the Requantize.

    names: what layer patterns know each Requantize as, its own name first.
    """

    issues: tuple[ConstantIssue, ...]
    real: Mapping[str, RealConstants]
    names: Mapping[str, tuple[str, ...]]

    @property
    def saturated(self) -> tuple[ConstantIssue, ...]:
        return tuple(i for i in self.issues if i.problem == "saturated")

    @property
    def vanished(self) -> tuple[ConstantIssue, ...]:
        return tuple(i for i in self.issues if i.problem == "vanished")

    @property
    def harmful(self) -> tuple[ConstantIssue, ...]:
        """Those that fail an export: saturated, or vanished where an output could have moved."""
        return tuple(i for i in self.issues if i.harmful)

    def check(self) -> None:
        """Raise LossyError when anything is harmful."""
        bad = self.harmful
        if not bad:
            return
        saturated = sum(i.problem == "saturated" for i in bad)
        first = "; ".join(str(i) for i in bad[:3]) + ("; ..." if len(bad) > 3 else "")
        raise LossyError(
            f"{saturated} constants saturate and {len(bad) - saturated} vanish where they could move an "
            f"output ({first}): {' and '.join(self._repairs(bad))}, or accept it with --allow-lossy"
        )

    def _repairs(self, bad: Sequence[ConstantIssue]) -> list[str]:
        """The options that would show these constants."""
        edges = {i.op: self._edge(i.op) for i in bad}
        repairs = []
        if not all(edges.values()):
            repairs.append("use W,auto or a wider --fixed (`hwq explain` finds one)")
        if any(edges.values()):
            repairs.append("use a wider --edge-fixed, the format of the input's constants and the logits")
        return repairs

    def _edge(self, op: str) -> bool:
        """Whether the Requantize is the image's or that of the logits, which lowering names so."""
        return op == "logits" or self.names.get(op) == (op, "input")


def constant_issues(
    op: str,
    sources: tuple[str, ...],
    bounds: tuple[Bound, ...],
    real: RealConstants,
    requant: Requant,
    form: ConstantFormat,
) -> list[ConstantIssue]:
    """The issues of one Requantize. sources, bounds: name and max|x|, by channel, of each input."""
    found = []
    for source, bound, values, stored in zip(sources, bounds, real.terms, requant.terms, strict=True):
        found += _issues(op, source, bound, values, stored, form)
    return found + _issues(op, "", np.ones(1, dtype=object), real.bias, requant.bias, form)


def _issues(
    op: str, source: str, bound: Bound, values: Floats, stored: Constants, form: ConstantFormat
) -> list[ConstantIssue]:
    shown = stored.values()
    saturated = _saturated(values, stored, form)
    vanished = (values != 0) & (stored.raw == 0) & ~saturated
    return [
        ConstantIssue(
            op=op,
            source=source,
            channel=None if values.size == 1 else int(c),
            value=float(values[c]),
            stored=float(shown[c]),
            problem="saturated" if saturated[c] else "vanished",
            harmful=_moves(float(values[c]), bound, None if values.size == 1 else int(c), bool(saturated[c])),
        )
        for c in np.flatnonzero(saturated | vanished)
    ]


def _moves(value: float, bound: Bound, channel: int | None, saturated: bool) -> bool:
    """Whether the lost constant could have moved an output: |M| max|x| is half a code, or it saturated.

    Neither can where the channel's integers are always 0. A shared constant meets its largest channel.
    """
    largest = int(bound.max() if channel is None or bound.size == 1 else bound[channel])
    return largest > 0 and (saturated or Fraction(abs(value)) * largest >= Fraction(1, 2))


def _saturated(values: Floats, stored: Constants, form: ConstantFormat) -> npt.NDArray[np.bool_]:
    """Where the rounded value did not fit. Only a literal format can be too small."""
    found = np.zeros(values.shape, dtype=np.bool_)
    if not isinstance(form, LiteralFormat):
        return found
    # 1023 further integer bits hold every float64, so nothing but rounding happens to it
    wide = replace(form.type, width=1024, integer=form.type.integer + 1024 - form.type.width)
    near = np.abs(np.ldexp(values, form.type.fraction)) >= form.type.hi - 1
    for c in np.flatnonzero(near):
        exact = wide.quantize(float(values[c]))
        found[c] = not form.type.lo <= exact <= form.type.hi
    return found
