"""How the constants of a network are stored."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from hwq.fixed import AutoFormat, ConstantFormat, IntType, LiteralFormat, Rounding, parse_edge

_EDGE = parse_edge("32,16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Formats:
    """`body`: every requantisation's constants; `edge`: the input's, and the type of the logits.

    rounding: of every requantisation, RND or TRN; never of constants. overrides: (pattern, format)
    pairs, the first whose shell-style pattern matches a Requantize's name replaces `body` there.
    """

    body: ConstantFormat
    edge: LiteralFormat = _EDGE
    rounding: Rounding = Rounding.RND
    overrides: tuple[tuple[str, ConstantFormat], ...] = ()

    def of(self, name: str) -> ConstantFormat:
        """The format of the Requantize called `name`."""
        return next((form for pattern, form in self.overrides if fnmatchcase(name, pattern)), self.body)

    @property
    def logits(self) -> tuple[IntType, float]:
        """Type and scale of the logits: numbers of <W,I>, code 1 = 2^-(W - I)."""
        kind = self.edge.type
        return IntType(bits=kind.width, signed=True), float(2.0**-kind.fraction)

    @property
    def logit_constants(self) -> AutoFormat:
        """`W,auto`: M and B of the logits, in units of their scale."""
        return AutoFormat(self.edge.type.width)
