"""How the constants of a network are stored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hwq.errors import InputError
from hwq.fixed import AutoFormat, ConstantFormat, IntType, LiteralFormat, Rounding, parse_edge, parse_format
from hwq.quant.placing.patterns import matches

_EDGE = parse_edge("32,16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Formats:
    """`body`: every requantisation's constants; `edge`: the input's, and the type of the logits.

    rounding: of every requantisation, RND or TRN; never of constants. overrides: (pattern, format) pairs
    in place of `body`; of several whose pattern matches a requantisation the last one holds. A pattern
    is a glob over what names it, or a module above: its op name (its quantiser's), the modules of
    the chain conv-BN-ReLU or add-ReLU that end in it, and the layers and average pools whose sums it takes.
    The input's constants and the logits are `edge`'s, whatever a pattern says.
    """

    body: ConstantFormat
    edge: LiteralFormat = _EDGE
    rounding: Rounding = Rounding.RND
    overrides: tuple[tuple[str, ConstantFormat], ...] = ()

    def of(self, names: Iterable[str]) -> ConstantFormat:
        """The format of a Requantize of the body that is known by `names`."""
        known = tuple(names)
        fitting = (form for pattern, form in reversed(self.overrides) if matches(pattern, known))
        return next(fitting, self.body)

    @property
    def logits(self) -> tuple[IntType, float]:
        """Type and scale of the logits: numbers of <W,I>, code 1 = 2^-(W - I)."""
        kind = self.edge.type
        return IntType(bits=kind.width, signed=True), float(2.0**-kind.fraction)

    @property
    def logit_constants(self) -> AutoFormat:
        """`W,auto`: M and B of the logits, in units of their scale."""
        return AutoFormat(self.edge.type.width)


def parse_override(text: str) -> tuple[str, ConstantFormat]:
    """Parse `--layer PATTERN=FORMAT`, as in `layer1.*=16,auto`. Raises InputError."""
    pattern, equals, form = text.rpartition("=")
    if not (equals and pattern):
        raise InputError(f"--layer takes PATTERN=FORMAT as in 'layer1=16,auto', not '{text}'")
    try:
        return pattern, parse_format(form)
    except InputError as error:
        raise InputError(f"--layer '{text}': {error}") from None
