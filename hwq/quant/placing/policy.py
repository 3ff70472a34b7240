"""Which tensors get how many bits, and by which method: what a recipe's [quant] section says."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from hwq.errors import InputError
from hwq.quant.methods.contract import MAX_BITS, OFF
from hwq.quant.methods.dorefa import Rescale
from hwq.quant.methods.table import ACT_METHODS, WEIGHT_METHODS
from hwq.quant.placing.patterns import matches

DEFAULT_IMAGE_BITS = 8
EDGE_BITS = 8
"""Weights of the first and last layer under the word 'weights'."""
EDGE_WORDS = ("weights", "same", "off")
_EDGE_PAIR = re.compile(r"(\d{1,4})/(\d{1,4})")
_WIDTHS = re.compile(r"(?:w(\d{1,4}))?(?:a(\d{1,4}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRule:
    """What the tensors that `pattern` matches get instead. None leaves a thing as the policy says.

    pattern: a glob (`*` also crosses dots). It names layers for weights, and for an activation its
    quantiser or any module of the chain conv-BN-ReLU that ends in it; the image is 'input'. A pattern
    that names a module covers everything below that module.
    """

    pattern: str
    weight_bits: int | None = None
    act_bits: int | None = None
    weight_method: str | None = None
    act_method: str | None = None
    per_channel: bool | None = None
    rescale: str | None = None

    def __post_init__(self) -> None:
        place = f"layer pattern '{self.pattern}'"
        if not self.pattern:
            raise InputError("a layer pattern must not be empty")
        if not self.given():
            raise InputError(f"{place} sets nothing; known: {', '.join(RULE_KEYS)}")
        _check_bits(f"{place}: weight_bits", self.weight_bits)
        _check_bits(f"{place}: act_bits", self.act_bits)
        _check_names(f"{place}: ", self.weight_method, self.act_method, self.rescale)

    def given(self) -> dict[str, Any]:
        """The keys that are set, but the pattern."""
        return {k: v for k in RULE_KEYS if (v := getattr(self, k)) is not None}

    def matches(self, names: Iterable[str]) -> bool:
        """Whether the pattern is one of the names, or a module above it."""
        return matches(self.pattern, names)

    @staticmethod
    def parse(text: str) -> LayerRule:
        """The command line's spelling: PATTERN=w6a6, PATTERN=w4,weights:lsq,acts:lsq,per-channel."""
        pattern, equals, listed = text.rpartition("=")
        if not equals:
            raise InputError(f"--layer takes PATTERN=w6a6, not '{text}'")
        given: dict[str, Any] = {}
        for item in listed.split(","):
            key, _, value = item.partition(":")
            widths = _WIDTHS.fullmatch(item)
            if item and widths:
                names = ("weight_bits", "act_bits")
                given |= {k: int(v) for k, v in zip(names, widths.groups(), strict=True) if v is not None}
            elif key in ("weights", "acts") and value:
                given["weight_method" if key == "weights" else "act_method"] = value
            elif item in ("per-channel", "per-tensor"):
                given["per_channel"] = item == "per-channel"
            else:
                raise InputError(
                    f"--layer '{text}': '{item}' is none of w6a6, w6, a6, weights:METHOD, acts:METHOD, "
                    "per-channel, per-tensor"
                )
        return LayerRule(pattern=pattern, **given)


RULE_KEYS = tuple(f.name for f in fields(LayerRule) if f.name != "pattern")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Bit widths 1..16, or 32 = off. The most specific statement about a tensor holds:

    weight_bits, act_bits; pool_bits after an average pool, norm_bits after a BN that stands alone (no
    conv before, no ReLU after) < weight_list, act_list by position (see `choices`; a list does not touch
    norm_bits or residual_bits) < first, last < first_bits, last_bits (weights), input_bits (the
    normalised image; None = 8) < layers, of which later ones win.

    first, last: about the first layer with the image, and the last layer with the activation it reads.
    'weights' = 8-bit weights, the activation as act_bits; 'W/A' as in '8/8'; 'same' = weight_bits and
    act_bits; 'off' = floats; None = nothing special. branch: quantise a conv(+BN) that feeds only
    additions. residual_bits: of what additions and average pools read, the residual path; layers then read
    act_bits made from those codes, as LSQ and PACT quantise the inputs of layers only. None: act_bits for
    all. per_channel: one weight scale per output channel. rescale: a value of `Rescale`, or auto
    (max where no BN follows, else none). weight_method, act_method: names in `hwq.quant.methods.table`; the
    image is always 'uniform', as its range is known.
    """

    weight_bits: int = 8
    act_bits: int = 8
    first: str | None = None
    last: str | None = None
    first_bits: int | None = None
    last_bits: int | None = None
    input_bits: int | None = None
    pool_bits: int = 8
    norm_bits: int = 16
    residual_bits: int | None = None
    branch: bool = False
    weight_method: str = "dorefa"
    act_method: str = "mpact"
    per_channel: bool = False
    rescale: str = "auto"
    weight_list: tuple[int, ...] | None = None
    act_list: tuple[int, ...] | None = None
    layers: tuple[LayerRule, ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name.endswith("_bits"):
                _check_bits(field.name, getattr(self, field.name), optional=field.default is None)
        for name in ("weight_list", "act_list"):
            for i, bits in enumerate(getattr(self, name) or ()):
                _check_bits(f"entry {i + 1} of {name}", bits, optional=False)
        for name in ("first", "last"):
            self._check_edge(name, getattr(self, name))
        _check_names("", self.weight_method, self.act_method, self.rescale)
        patterns = [rule.pattern for rule in self.layers]
        for pattern in patterns:
            if patterns.count(pattern) > 1:
                raise InputError(f"layer pattern '{pattern}' is given twice; join the two")

    @staticmethod
    def _check_edge(name: str, word: str | None) -> None:
        if word is None or word in EDGE_WORDS:
            return
        pair = _EDGE_PAIR.fullmatch(word)
        if pair is None:
            raise InputError(f"{name} must be {', '.join(EDGE_WORDS)}, or W/A as in 8/8, not '{word}'")
        for bits in pair.groups():
            _check_bits(f"{name} = '{word}'", int(bits))

    def edge(self, word: str | None) -> tuple[int | None, int | None]:
        """(weight bits, activation bits) of `first` or `last`; None where the word says nothing."""
        match word:
            case None:
                return None, None
            case "weights":
                return EDGE_BITS, self.act_bits
            case "same":
                return self.weight_bits, self.act_bits
            case "off":
                return OFF, OFF
            case _:
                weight, _, act = word.partition("/")
                return int(weight), int(act)

    @property
    def image_bits(self) -> int:
        """Bits of the normalised image, before `layers`."""
        if self.input_bits is not None:
            return self.input_bits
        entry = self.act_list[0] if self.act_list else None
        return next(b for b in (self.edge(self.first)[1], entry, DEFAULT_IMAGE_BITS) if b is not None)

    @property
    def floats(self) -> bool:
        """True when no tensor of any network gets codes: float training."""
        given = [self.weight_bits, self.act_bits, self.pool_bits, self.norm_bits, self.image_bits]
        given += [*(self.weight_list or ()), *(self.act_list or ())]
        named = [self.first_bits, self.last_bits, *self.edge(self.first), *self.edge(self.last)]
        named.append(self.residual_bits)
        named += [b for rule in self.layers for b in (rule.weight_bits, rule.act_bits)]
        return {*given, *(b for b in named if b is not None)} == {OFF}

    @staticmethod
    def floating() -> Policy:
        """Everything off: float training."""
        return Policy(
            weight_bits=OFF,
            act_bits=OFF,
            first_bits=OFF,
            last_bits=OFF,
            input_bits=OFF,
            pool_bits=OFF,
            norm_bits=OFF,
        )

    def to_dict(self) -> dict[str, Any]:
        """The layout of a recipe's [quant]: what is None or empty is left out, `layers` by pattern."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "layers"}
        found = {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items() if v is not None}
        return found | ({"layers": {r.pattern: r.given() for r in self.layers}} if self.layers else {})

    @staticmethod
    def from_dict(given: dict[str, Any]) -> Policy:
        """`to_dict` back. Raises TypeError for unknown keys, InputError for wrong values."""
        read = dict(given)
        for name in ("weight_list", "act_list"):
            if name in read:
                read[name] = tuple(read[name])
        rules = read.pop("layers", {})
        return Policy(**read, layers=tuple(LayerRule(pattern=p, **keys) for p, keys in rules.items()))


def _check_bits(name: str, bits: object, *, optional: bool = True) -> None:
    if bits is None and optional:
        return
    if type(bits) is not int or (bits != OFF and not 1 <= bits <= MAX_BITS):
        raise InputError(f"{name} must be 1..{MAX_BITS}, or {OFF} for off, not {bits}")


def _check_names(place: str, weight: str | None, act: str | None, rescale: str | None) -> None:
    for what, name, known in (("weight", weight, WEIGHT_METHODS), ("activation", act, ACT_METHODS)):
        if name is not None and name not in known:
            raise InputError(f"{place}unknown {what} method '{name}'; known: {', '.join(known)}")
    ranges = ("auto", *(r.value for r in Rescale))
    if rescale is not None and rescale not in ranges:
        raise InputError(f"{place}rescale must be {', '.join(ranges)}, not '{rescale}'")
