"""In-place calls made visible: who comes after them reads their result, as in eager torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import fx

from hwq.errors import UnsupportedError
from hwq.quant.tracing.effects import Memory, effect_of
from hwq.quant.tracing.places import where
from hwq.quant.tracing.pure import in_place, purify


@dataclass(frozen=True, slots=True)
class _Lost:
    """What a tensor holds once a view of it, or what it is a view of, was changed in place."""

    by: int


@dataclass(slots=True)
class _Contents:
    """Values by the number of the call that first held them.

    made: of every node's result. needs: of (reader, argument), what eager torch finds there.
    """

    made: list[int] = field(default_factory=list)
    needs: dict[tuple[int, int], int | _Lost] = field(default_factory=dict)


def functionalise(module: fx.GraphModule, graphs: Sequence[fx.Graph]) -> None:
    """Rewire the last of the graphs so that every call may work out of place, and make it so.

    graphs: of the same calls, one a mode, with their effects; the last is the module's. Every reader then
    reads what it reads in eager torch, in every mode. Raises UnsupportedError, naming the line, where no node
    holds that in all modes: a view of what was changed, or a dropout that copies in training alone.
    """
    modes = [_contents(graph) for graph in graphs]
    nodes = list(graphs[-1].nodes)
    numbers = {node: i for i, node in enumerate(nodes)}
    for node in nodes:
        instead = {}
        for source in node.all_input_nodes:
            key = (numbers[node], numbers[source])
            needed = [mode.needs[key] for mode in modes]
            found = key[1] if _reads_sizes(node) else _holder(modes, needed, key[1])
            if found is None:
                raise UnsupportedError(_complaint(nodes, key, needed))
            instead[source] = nodes[found]
        node.args = fx.node.map_arg(node.args, instead.__getitem__)
        node.kwargs = fx.node.map_arg(node.kwargs, instead.__getitem__)
    for node in nodes:
        _check_parameters(node)
        if in_place(module, node):
            purify(module, node)


def _contents(graph: fx.Graph) -> _Contents:
    found = _Contents()
    now: dict[Memory, int | _Lost] = {}
    numbers = {node: i for i, node in enumerate(graph.nodes)}
    for node, number in numbers.items():
        for source in node.all_input_nodes:
            memory = effect_of(source).memory
            held = found.made[numbers[source]] if memory is None else now[memory]
            found.needs[number, numbers[source]] = held
        effect = effect_of(node)
        storages = {m.storage for n in effect.writes if (m := effect_of(n).memory) is not None}
        for memory in now:
            if memory.storage in storages:
                now[memory] = _Lost(number)
        held = number
        if effect.memory is not None:
            before = now.get(effect.memory)
            if isinstance(before, int):
                held = before  # the same tensor under another name
            now[effect.memory] = held
        found.made.append(held)
    return found


def _holder(modes: Sequence[_Contents], needed: Sequence[int | _Lost], given: int) -> int | None:
    """A node that holds what is needed in every mode; the given one where it does."""
    for candidate in (given, *needed):
        if isinstance(candidate, int) and all(
            mode.made[candidate] == n for mode, n in zip(modes, needed, strict=True)
        ):
            return candidate
    return None


def _reads_sizes(node: fx.Node) -> bool:
    attribute = node.target is getattr and node.args[1:] == ("shape",)
    return attribute or (node.op == "call_method" and node.target in ("size", "dim", "numel"))


def _complaint(nodes: Sequence[fx.Node], key: tuple[int, int], needed: Sequence[int | _Lost]) -> str:
    reader, source = (nodes[i] for i in key)
    lost = next((n for n in needed if isinstance(n, _Lost)), None)
    if lost is not None:
        return (
            f"{where(nodes[lost.by])}: works in place on a tensor of which another view is read later, at "
            f"{where(reader)}; use the out-of-place form"
        )
    return (
        f"{where(reader)}: reads '{source.name}', which was changed in place: in training that is a copy "
        "(a dropout makes one), in evaluation the tensor itself; use the out-of-place form"
    )


def _check_parameters(node: fx.Node) -> None:
    own = next((n for n in effect_of(node).writes if n.op == "get_attr"), None)
    if own is not None:
        raise UnsupportedError(f"{where(node)}: changes '{own.target}' in place, which is not supported")
