"""A policy applied to one network: what each of its tensors gets, and complaints about what fits nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from hwq.errors import InputError
from hwq.quant.placing.patterns import nothing_matches
from hwq.quant.placing.policy import LayerRule, Policy

IMAGE = "input"
"""Name of the image in layer patterns."""


class Role(Enum):
    """What an activation is, as far as its width is concerned."""

    IMAGE = auto()
    POOL = auto()  # after an average pool
    NORM = auto()  # after a BN that stands alone
    RESIDUAL = auto()  # read by additions or average pools, where the policy has residual_bits
    PLAIN = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class ActSite:
    """An activation that becomes codes.

    names: of its quantiser, then of the modules that end in it; any of them may match a pattern.
    entry: which entry of a bit list it has. last: whether the last layer reads it.
    """

    names: tuple[str, ...]
    role: Role
    entry: int
    last: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightChoice:
    """rescale may be 'auto'."""

    bits: int
    method: str
    per_channel: bool
    rescale: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ActChoice:
    """method: a name in `hwq.quant.methods.table.ACT_METHODS`."""

    bits: int
    method: str


class Entries:
    """What the positions of a bit list stand for, in order: module paths.

    A network says so by an attribute `bit_entries`; else every layer is an entry. The weights of an entry
    are those of the layers below its path. Its activations are those that it reads first: what enters it,
    and what its own modules hand on to each other. So the bits of a block's output are those of the next
    block's input. Raises InputError for an entry without a layer.
    """

    def __init__(self, layers: Sequence[str], named: Sequence[str] | None) -> None:
        self.paths = tuple(layers if named is None else named)
        for path in self.paths:
            if not any(_below(path, layer) for layer in layers):
                raise InputError(f"bit_entries of the network names '{path}', but no layer is below it")

    def find(self, path: str) -> int | None:
        """Which entry a module, or an operation in the forward of one, belongs to."""
        return next((i for i, own in enumerate(self.paths) if _below(own, path)), None)


def _below(path: str, name: str) -> bool:
    return name == path or name.startswith(path + ".")


class Choices:
    """layers: paths of all layers in execution order. Raises InputError for a list of the wrong length."""

    def __init__(self, policy: Policy, layers: Sequence[str], entries: Entries) -> None:
        self.policy, self.layers, self.entries = policy, layers, entries
        self.acts: list[str] = []
        self.used: set[tuple[str, str]] = set()  # (pattern, key) that some tensor took
        for name in ("weight_list", "act_list"):
            listed = getattr(policy, name)
            if listed is not None and len(listed) != len(entries.paths):
                raise InputError(
                    f"{name} has {len(listed)} entries, this network takes {len(entries.paths)}: "
                    f"{', '.join(entries.paths)}"
                )

    def weight(self, layer: str) -> WeightChoice:
        """Of the layer of this path."""
        policy = self.policy
        entry = self.entries.find(layer)
        listed = policy.weight_list[entry] if policy.weight_list and entry is not None else None
        candidates = [listed, policy.weight_bits]
        if layer == self.layers[-1]:
            candidates = [policy.last_bits, policy.edge(policy.last)[0], *candidates]
        if layer == self.layers[0]:
            candidates = [policy.first_bits, policy.edge(policy.first)[0], *candidates]
        values: dict[str, Any] = {
            "weight_bits": next(b for b in candidates if b is not None),
            "weight_method": policy.weight_method,
            "per_channel": policy.per_channel,
            "rescale": policy.rescale,
        }
        values = self._ruled(values, (layer,))
        return WeightChoice(
            bits=values["weight_bits"],
            method=values["weight_method"],
            per_channel=values["per_channel"],
            rescale=values["rescale"],
        )

    def act(self, site: ActSite) -> ActChoice:
        """Of an activation."""
        self.acts += site.names
        policy = self.policy
        if site.role is Role.IMAGE:
            bits = self._ruled({"act_bits": policy.image_bits}, site.names)["act_bits"]
            return ActChoice(bits=bits, method="uniform")
        values = self._ruled({"act_bits": self._bits(site), "act_method": policy.act_method}, site.names)
        return ActChoice(bits=values["act_bits"], method=values["act_method"])

    def _bits(self, site: ActSite) -> int:
        policy = self.policy
        if site.role is Role.RESIDUAL and policy.residual_bits is not None:
            return policy.residual_bits
        edge = policy.edge(policy.last)[1] if site.last else None
        if edge is not None:
            return edge
        if site.role is Role.NORM:
            return policy.norm_bits
        if policy.act_list is not None:
            return policy.act_list[site.entry]
        return policy.pool_bits if site.role is Role.POOL else policy.act_bits

    def _ruled(self, values: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
        """The values after every matching rule; rules' keys for the other kind of tensor are left alone."""
        names = tuple(names)
        for rule in self.policy.layers:
            if rule.matches(names):
                taken = {k: v for k, v in rule.given().items() if k in values}
                values = values | taken
                self.used |= {(rule.pattern, k) for k in taken}
        return values

    def check(self) -> None:
        """After all tensors: every key of every rule was of use. Raises InputError."""
        for rule in self.policy.layers:
            unused = [k for k in rule.given() if (rule.pattern, k) not in self.used]
            if unused:
                raise InputError(self._complaint(rule, unused[0]))

    def _complaint(self, rule: LayerRule, key: str) -> str:
        place = f"layer pattern '{rule.pattern}'"
        names = list(dict.fromkeys((*self.layers, *self.acts)))
        if not rule.matches(names):
            return f"{place} {nothing_matches(rule.pattern, names)}"
        if not key.startswith("act_"):
            return f"{place} gives {key}, but matches no layer, only activations"
        if rule.matches(self.acts):  # only an activation method can be left then
            return f"{place} gives {key}, but matches only the image, which is always uniform"
        return f"{place} gives {key}, but matches only weights: no activation of that name becomes codes"
