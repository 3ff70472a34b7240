"""What each recorded call does to memory: which tensor it works on in place, with which it shares values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import fx

from hwq.quant.tracing.kinds import Kind, found_kind
from hwq.quant.tracing.pure import in_place

_EFFECT = "hwq_effect"
_DETACHING = ("detach", "detach_", "data")
_LAYOUT = ("contiguous", "to")
"""Whether these copy depends on the order of the map's dimensions in memory, which training changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Tensors of equal memory are the same tensor; of equal `storage` alone, views of one another."""

    storage: int
    view: tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Of one call. memory: of its result, None for what is no tensor; writes: nodes of what it changes."""

    memory: Memory | None = None
    writes: tuple[fx.Node, ...] = ()


NOTHING = Effect()


def effect_of(node: fx.Node) -> Effect:
    """As noted while tracing; of a parameter that the forward uses directly, memory of its own."""
    found: Effect = node.meta.get(_EFFECT, NOTHING)
    return found


def forget(graph: fx.Graph) -> None:
    """Take the notes out of the nodes: they would travel with every copy of the network."""
    for node in graph.nodes:
        node.meta.pop(_EFFECT, None)


class Watch:
    """Notes the effect of every call of one forward pass that runs in eager torch beside its trace."""

    def __init__(self) -> None:
        self._storages = count()
        self._kept: dict[int, int] = {}

    def before(self, inputs: Sequence[tuple[fx.Node, Any]]) -> list[tuple[fx.Node, torch.Tensor, int]]:
        """(node, tensor, version) of all tensors among the inputs: (node, eager value)."""
        found = []
        for node, value in inputs:
            if node.op == "get_attr" and isinstance(value, torch.Tensor):
                # parameters live on: their addresses are theirs alone
                storage = self._kept.setdefault(_address(value), next(self._storages))
                node.meta[_EFFECT] = Effect(memory=Memory(storage=storage, view=_geometry(value)))
            found += [(node, tensor, tensor._version) for tensor in _tensors(value)]
        return found

    def after(self, node: fx.Node, inputs: list[tuple[fx.Node, torch.Tensor, int]], result: object) -> None:
        """Note the effect of the call."""
        written = dict.fromkeys(n for n, tensor, version in inputs if tensor._version != version)
        node.meta[_EFFECT] = Effect(memory=self._memory(node, inputs, result), writes=tuple(written))

    def _memory(
        self, node: fx.Node, inputs: list[tuple[fx.Node, torch.Tensor, int]], result: object
    ) -> Memory | None:
        own = _tensors(result)
        if not own:
            return None
        addresses = {_address(tensor) for tensor in own}
        shared = [(n, t) for n, t, _ in inputs if _address(t) in addresses]
        single = isinstance(result, torch.Tensor)
        view = _geometry(own[0]) if single else ("parts",)
        if not shared:
            return Memory(storage=next(self._storages), view=view)
        sources = [memory for n, _ in shared if (memory := effect_of(n).memory) is not None]
        if not sources:
            return Memory(storage=next(self._storages), view=view)
        name = node.args[1] if node.target is getattr else node.target
        if name in _DETACHING or name in _LAYOUT:
            return Memory(storage=sources[0].storage, view=(*view, name))
        for source, tensor in shared:
            memory = effect_of(source).memory
            if single and memory is not None and memory.view != ("parts",) and _geometry(tensor) == view:
                return memory
        return Memory(storage=sources[0].storage, view=view)


def assume(module: fx.GraphModule, graph: fx.Graph) -> None:
    """Note effects of a trace without an image, from names alone: what moves values may share them all."""
    storages = count()
    for node in graph.nodes:
        kind = found_kind(module, node)
        source = next((n for n in node.all_input_nodes if effect_of(n).memory is not None), None)
        memory = None if source is None else effect_of(source).memory
        writes = (source,) if source is not None and kind is not Kind.SHAPE and in_place(module, node) else ()
        if kind is Kind.SHAPE or node.op == "output":
            node.meta[_EFFECT] = NOTHING
        elif memory is None or not (writes or kind in (None, Kind.CODES, Kind.SKIP)):
            node.meta[_EFFECT] = Effect(memory=Memory(storage=next(storages), view=()))
        elif writes:
            node.meta[_EFFECT] = Effect(memory=memory, writes=writes)
        else:
            node.meta[_EFFECT] = Effect(memory=Memory(storage=memory.storage, view=(node.name,)))


def _tensors(value: object) -> list[torch.Tensor]:
    parts = value if isinstance(value, tuple | list) else (value,)
    return [part for part in parts if isinstance(part, torch.Tensor) and part.layout is torch.strided]


def _address(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _geometry(tensor: torch.Tensor) -> tuple[object, ...]:
    return (tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
