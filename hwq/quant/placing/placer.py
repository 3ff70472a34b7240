"""Where activation quantisers go in a traced network."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import torch
from torch import fx

from hwq.quant.methods.contract import Quantizer
from hwq.quant.methods.table import make_act
from hwq.quant.placing.choices import IMAGE, ActSite, Choices, Role
from hwq.quant.tracing.kinds import Kind
from hwq.quant.tracing.places import owner
from hwq.quant.tracing.shapes import SHAPE
from hwq.quant.tracing.spelling.clamps import bounds_of

INPUT_QUANT = "input_quant"
_CLAMPS = (Kind.RELU, Kind.CLAMP)
_MOVES = (Kind.SKIP, Kind.CODES, *_CLAMPS)
"""What hands on codes, or with a clamp what becomes of them."""
OF = "hwq_of"
"""Key of a quantiser node's meta: paths of the modules whose result it quantises, first to last."""


def readers(node: fx.Node, kinds: dict[fx.Node, Kind]) -> list[fx.Node]:
    """The nodes that read a value, looking through what does nothing (dropout)."""
    found: list[fx.Node] = []
    for user in node.users:
        found += readers(user, kinds) if kinds[user] is Kind.SKIP else [user]
    return [n for n in found if kinds.get(n) is not Kind.SHAPE]


def freeze(quantizer: Quantizer) -> None:
    """One that is off: processes that train together would wait for gradients that never come."""
    quantizer.requires_grad_(False)


class Placer:
    """One walk over the nodes in order.

    `raw` nodes hold values that are not codes yet, `wide` ones codes of residual_bits.
    """

    def __init__(
        self, module: fx.GraphModule, kinds: dict[fx.Node, Kind], choices: Choices, *, branch: bool
    ) -> None:
        self.module, self.kinds, self.choices, self.branch = module, kinds, choices, branch
        self.raw: set[fx.Node] = set()
        self.wide: set[fx.Node] = set()
        self.positive: set[fx.Node] = set()
        # arithmetic that does not follow a layer: a BN, with or without ReLU, on codes
        self.on_codes: set[fx.Node] = set()
        self.names: set[str] = set(dict(module.named_modules()))

    def run(self) -> None:
        """Insert them all."""
        for node, kind in list(self.kinds.items()):
            self._classify(node, kind)
            if node in self.raw and self._ends(node):
                self._insert([node])
            if node in self.wide:
                self._narrow(node)

    def _classify(self, node: fx.Node, kind: Kind) -> None:
        sources = [n for n in node.all_input_nodes if self.kinds.get(n) is not Kind.SHAPE]
        raw = [n for n in sources if n in self.raw]
        positive = bool(sources) and all(n in self.positive for n in sources)
        match kind:
            case Kind.INPUT | Kind.LAYER | Kind.ADD | Kind.AVERAGE:
                self.raw.add(node)
                positive = positive and kind in (Kind.ADD, Kind.AVERAGE)
            case Kind.NORM:
                self.raw.add(node)
                positive = False
                if not raw:
                    self.on_codes.add(node)
            case Kind.RELU | Kind.CLAMP:
                bounds = bounds_of(self.module, node)
                positive = positive or (bounds is not None and bounds.lo == 0)
                # codes that are clamped to 6 are codes of no scale that has no code for 6
                if raw or kind is Kind.CLAMP:
                    self.raw.add(node)
            case Kind.SKIP | Kind.CODES:
                # only logits reach here unquantised (`_ends`)
                if raw:
                    self.raw.add(node)
            case Kind.CONCAT:
                self._insert(sources, concat=node)
                for held in (*sources, *map(self._source, sources)):
                    if held in self.wide:
                        self._narrow(held)
                positive = all(self._source(n) in self.positive for n in node.all_input_nodes)
            case Kind.SHAPE | Kind.OUTPUT:
                return
        if positive:
            self.positive.add(node)
        moves = (kind in _MOVES and node not in self.raw) or (kind is Kind.CONCAT and self._is_residual(node))
        if moves and any(self._source(n) in self.wide for n in sources):
            self.wide.add(node)

    def _source(self, node: fx.Node) -> fx.Node:
        """The node that an inserted quantiser stands for."""
        return node.all_input_nodes[0] if node not in self.kinds else node

    # -- where a chain ends

    def _ends(self, node: fx.Node) -> bool:
        """Whether the chain of arithmetic ends here, so that codes are due."""
        kind = self.kinds[node]
        if kind is Kind.INPUT:
            return True
        if kind in (Kind.SKIP, Kind.CODES):
            return False
        found = readers(node, self.kinds)
        kinds = [self.kinds[r] for r in found]
        if self._is_result(node):
            return False
        if len(found) == 1:
            # ReLU of ReLU does nothing
            if kinds[0] in _CLAMPS and not (kind in _CLAMPS and kinds[0] is Kind.RELU):
                return False
            if kinds[0] is Kind.NORM and kind is Kind.LAYER:
                return False
        if Kind.CONCAT in kinds and all(k in (Kind.CONCAT, Kind.LAYER) for k in kinds):
            # the concat's quantiser serves every reader
            return False
        joins = bool(found) and all(k is Kind.ADD for k in kinds)
        return not (joins and self._is_branch(node) and not self.branch)

    def _is_result(self, node: fx.Node) -> bool:
        """Whether the value goes to the output and nowhere else: logits."""
        for reader in readers(node, self.kinds):
            kind = self.kinds[reader]
            if kind is Kind.OUTPUT or (kind is Kind.CODES and self._is_result(reader)):
                continue
            return False
        return True

    def _is_branch(self, node: fx.Node) -> bool:
        kind = self.kinds[node]
        return kind is Kind.LAYER or (kind is Kind.NORM and node not in self.on_codes)

    # -- what it gets

    def _role(self, nodes: Sequence[fx.Node]) -> Role:
        node = nodes[0]
        if len(nodes) > 1 or node not in self.kinds:
            return Role.PLAIN
        match self.kinds[node]:
            case Kind.INPUT:
                return Role.IMAGE
            case Kind.AVERAGE:
                return Role.POOL
            case Kind.NORM if node in self.on_codes:
                return Role.NORM
            case _:
                return Role.RESIDUAL if self._is_residual(node) else Role.PLAIN

    def _is_residual(self, node: fx.Node) -> bool:
        return self.choices.policy.residual_bits is not None and self._is_summed(node)

    def _is_summed(self, node: fx.Node) -> bool:
        """Whether an addition or average pool reads the codes of the node, moved about at most."""
        found = [(n, self.kinds[n]) for n in readers(node, self.kinds)]
        return any(k in (Kind.ADD, Kind.AVERAGE) or (k in _MOVES and self._is_summed(n)) for n, k in found)

    def _chain(self, node: fx.Node) -> list[str]:
        """Paths of what ends in the node, first to last: conv, BN, ReLU; an add and its ReLU."""
        while node not in self.kinds:  # a concat of concats: one quantiser after another
            node = self._source(node)
        kind = self.kinds[node]
        path = IMAGE if kind is Kind.INPUT else self._path(node)
        before = next(iter(node.all_input_nodes), None)
        inside = kind in _CLAMPS or (kind is Kind.NORM and node not in self.on_codes) or kind is Kind.SKIP
        if inside and before in self.kinds and before in self.raw:
            return [*self._chain(before), *([] if kind is Kind.SKIP else [path])]
        return [path]

    def _path(self, node: fx.Node) -> str:
        """'layer1.0.relu1' for a module, 'layer1.0.add' for a function in the forward of layer1.0."""
        if node.op == "call_module":
            return str(node.target)
        return ".".join(p for p in (owner(node), re.sub(r"_\d+$", "", node.name)) if p)

    def _entry(self, nodes: Sequence[fx.Node]) -> int:
        """The list entry of the first module that reads the value, directly or through what is in none."""
        entries = self.choices.entries
        for node in self._after(nodes, set(Kind)):
            found = entries.find(str(node.target) if node.op == "call_module" else owner(node))
            if found is not None:
                return found
        return len(entries.paths) - 1

    def _feeds_last(self, nodes: Sequence[fx.Node]) -> bool:
        """Whether the last layer reads these very codes, moved about at most."""
        moves = {Kind.CODES, Kind.SKIP, Kind.CONCAT, Kind.RELU}
        return any(node.target == self.choices.layers[-1] for node in self._after(nodes, moves))

    def _after(self, nodes: Sequence[fx.Node], through: set[Kind]) -> Iterator[fx.Node]:
        """What depends on the nodes, in execution order, looking only through nodes of some kinds."""
        reached = set(nodes)
        for node in self.module.graph.nodes:
            kind = self.kinds.get(node, Kind.CODES)  # an inserted quantiser hands codes on
            if kind is Kind.SHAPE or node in reached or reached.isdisjoint(node.all_input_nodes):
                continue
            yield node
            if kind in through:
                reached.add(node)

    # -- the quantiser

    def _narrow(self, node: fx.Node) -> None:
        """Codes of act_bits for the layers among the readers of codes of residual_bits."""
        holder = next((n for n in node.users if n not in self.kinds), node)
        layers = [n for n in holder.users if self.kinds.get(n) is Kind.LAYER]
        if layers:
            self._insert([holder], layers)

    def _insert(
        self, nodes: list[fx.Node], layers: Sequence[fx.Node] = (), concat: fx.Node | None = None
    ) -> None:
        """The same quantiser, so one scale, after each of the nodes; all readers, or `layers`, read codes.

        concat: what has the nodes as operands; of the residual path it reads codes of its own.
        """
        role = Role.PLAIN if layers else self._role(nodes)
        if concat is not None and self._is_residual(concat):
            role = Role.RESIDUAL
        before = {node for node in nodes if self._source(node) in self.wide}
        signed = not all(self._source(n) in self.positive for n in nodes)
        name = INPUT_QUANT
        if role is not Role.IMAGE:
            ending = "_residual_quant" if role is Role.RESIDUAL else "_quant"
            name = self._name(self._source(nodes[-1]), f"_cat{ending}" if len(nodes) > 1 else ending)
        of = tuple(dict.fromkeys(path for node in nodes for path in self._chain(node)))
        site = ActSite(
            # what layers read has the names of the chain, or a pattern for both would undo residual_bits
            names=(name,) if role is Role.RESIDUAL else (name, *of),
            role=role,
            entry=self._entry(nodes),
            last=self._feeds_last(nodes),
        )
        choice = self.choices.act(site)
        quantizer = make_act(choice.method, choice.bits, signed=signed)
        if quantizer.off:
            freeze(quantizer)
        reference = next(self.module.parameters(), torch.zeros(()))
        self.module.add_submodule(name, quantizer.to(reference.device).train(self.module.training))
        self.names.add(name)
        for node in dict.fromkeys(nodes):
            graph = self.module.graph
            with graph.inserting_after(node):
                call = graph.create_node("call_module", name, (node,), name=name)
            call.meta = {**{k: v for k, v in node.meta.items() if k != SHAPE}, OF: of}
            call.stack_trace = node.stack_trace
            served = layers or ([concat] if concat is not None and node in before else node.users)
            for user in list(served):
                if user is not call and self.kinds.get(user) is not Kind.SHAPE:
                    user.replace_input_with(node, call)
            self.raw.discard(node)
            if node in self.positive:
                self.positive.add(call)
            if role is Role.RESIDUAL:
                self.wide.add(node)

    def _name(self, node: fx.Node, ending: str) -> str:
        base = self._path(node).replace(".", "_")
        name = f"{base}{ending}"
        count = 1
        while name in self.names:
            count += 1
            name = f"{base}_{count}{ending}"
        return name
