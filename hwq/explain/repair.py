"""The cheapest formats under which few codes of a layer, or of each of several, still differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hwq.explain.observe import Site, share
from hwq.explain.vectors import layer_needs
from hwq.fixed import AutoFormat, ChannelFormat, ConstantFormat, FixedType, LiteralFormat, ShiftFormat

WIDEST = 40
"""No format of more bits is looked at."""
_SMALLER = 6
"""How far below the I that holds every constant one is tried: what saturates may be clamped anyway."""

Family = Callable[[int], Iterator[ConstantFormat]]
"""The formats of so many bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """A format that suffices, as `--fixed` takes it. share: of the codes that differ, in the worst layer.

    memory_bits: of all constants of these layers.
    """

    format: str
    share: float
    memory_bits: int


class _Judge:
    """Whether a format keeps every site below the threshold; the site that failed last is asked first."""

    def __init__(self, sites: Sequence[Site], threshold: float) -> None:
        self.sites, self.threshold = list(sites), threshold

    def repair(self, form: ConstantFormat) -> Repair | None:
        worst, memory = 0.0, 0
        for i, site in enumerate(self.sites):
            requant = site.stored(form)
            worst = max(worst, share(site, requant))
            if worst > self.threshold:
                self.sites.insert(0, self.sites.pop(i))
                return None
            memory += sum(constants.memory_bits for constants in (*requant.terms, requant.bias))
        return Repair(format=str(form), share=worst, memory_bits=memory)

    def first(self, forms: Iterator[ConstantFormat]) -> Repair | None:
        return next((found for form in forms if (found := self.repair(form))), None)


def repairs(sites: Sequence[Site], threshold: float) -> tuple[Repair, ...]:
    """The narrowest format of each family at which no site has more codes wrong than `threshold`, 0..1.

    Families: W,I  W,auto  W,channel  shift; one that has none of up to 40 bits is left out. Of W,I
    every I is tried from the one that holds all constants down to 6 less. Narrowest: the next width
    below was tried and is not enough. Sorted by memory, in the order above where that is equal.
    """
    if not sites:
        return ()
    need = layer_needs(sites)
    top = need.literal[1]

    def literal(width: int) -> Iterator[ConstantFormat]:
        for integer in range(top, top - _SMALLER - 1, -1):
            if integer >= width - 62:
                yield LiteralFormat(FixedType(width=width, integer=integer))

    def auto(width: int) -> Iterator[ConstantFormat]:
        yield AutoFormat(width)

    def channel(width: int) -> Iterator[ConstantFormat]:
        yield ChannelFormat(width)

    judge = _Judge(sites, threshold)
    found = [
        _narrowest(judge, literal, need.literal[0]),
        _narrowest(judge, auto, need.auto),
        _narrowest(judge, channel, need.channel),
        judge.repair(ShiftFormat()),
    ]
    return tuple(sorted((r for r in found if r is not None), key=lambda r: r.memory_bits))


def _narrowest(judge: _Judge, family: Family, start: int) -> Repair | None:
    """Down from `start` while it suffices, else up until it does."""
    width = min(start, WIDEST)
    best = judge.first(family(width))
    if best is None:
        wider = (judge.first(family(w)) for w in range(width + 1, WIDEST + 1))
        return next((found for found in wider if found is not None), None)
    while width > 2 and (found := judge.first(family(width - 1))):
        best, width = found, width - 1
    return best
