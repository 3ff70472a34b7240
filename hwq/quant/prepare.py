"""A float network -> the same network with quantising layers and activation quantisers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from hwq.errors import UnsupportedError
from hwq.quant.contract import ActQuantizer, Quantizer, WeightQuantizer
from hwq.quant.layers import QuantConv2d, QuantLinear
from hwq.quant.methods import make_act, make_weight
from hwq.quant.policy import Policy
from hwq.quant.tracing import SHAPE, Kind, kind_of, owner, trace, where
from hwq.quant.uniform import UniformAct

INPUT_QUANT = "input_quant"


def prepare(
    model: nn.Module, policy: Policy, image_shape: tuple[int, int, int] | None = None
) -> fx.GraphModule:
    """Trace `model`, swap Conv2d and Linear, insert activation quantisers. Shares the parameters.

    image_shape: (H, W, C), see `trace`. A quantiser follows the end of every chain conv-BN-ReLU,
    add-ReLU, BN, average pool, and the input; a conv(+BN) that feeds only additions has one only with
    `policy.branch`; operands of a concat share one; the logits have none. Its type is unsigned where the
    chain cannot be negative. Layer names (and so state dicts) stay those of `model`.
    Raises UnsupportedError naming module path and source line.
    """
    module = trace(model, image_shape)
    _drop_identities(module)
    kinds = {node: kind_of(module, node) for node in module.graph.nodes}
    _check(module, kinds)
    _swap_layers(module, kinds, policy)
    _Placer(module, kinds, policy).run()
    module.graph.lint()
    module.recompile()
    return module


def _drop_identities(module: fx.GraphModule) -> None:
    for node in list(module.graph.nodes):
        if node.op == "call_module" and type(module.get_submodule(node.target)) is nn.Identity:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)


def _check(module: fx.GraphModule, kinds: dict[fx.Node, Kind]) -> None:
    inputs = [n for n, k in kinds.items() if k is Kind.INPUT]
    if len(inputs) != 1:
        raise UnsupportedError(f"the network has {len(inputs)} inputs; one image tensor is supported")
    output = next(n for n, k in kinds.items() if k is Kind.OUTPUT)
    if not isinstance(output.args[0], fx.Node):
        raise UnsupportedError("the network returns several values; one tensor of logits is supported")
    if Kind.LAYER not in kinds.values():
        raise UnsupportedError("the network has no Conv2d and no Linear layer")
    for node, kind in kinds.items():
        if kind is Kind.LAYER:
            child = module.get_submodule(str(node.target))
            if type(child) not in (nn.Conv2d, nn.Linear):
                raise UnsupportedError(f"{where(node)}: {type(child).__name__} is already a special layer")
            if isinstance(child, nn.Conv2d) and child.padding_mode != "zeros":
                raise UnsupportedError(
                    f"{where(node)}: padding_mode='{child.padding_mode}' is not supported; use 'zeros'"
                )


def _swap_layers(module: fx.GraphModule, kinds: dict[fx.Node, Kind], policy: Policy) -> None:
    nodes = [n for n, k in kinds.items() if k is Kind.LAYER]
    targets = list(dict.fromkeys(str(n.target) for n in nodes))
    for target in targets:
        bits = policy.weight_bits
        if target == targets[-1] and policy.last_bits is not None:
            bits = policy.last_bits
        if target == targets[0] and policy.first_bits is not None:
            bits = policy.first_bits
        normed = all(
            any(kinds[u] is Kind.NORM for u in _readers(n, kinds)) for n in nodes if n.target == target
        )
        rescale = policy.rescale
        if rescale == "auto":
            rescale = "none" if normed else "max"
        child = module.get_submodule(target)
        assert isinstance(child, nn.Conv2d | nn.Linear)
        quantizer = make_weight(
            policy.weight_method,
            bits,
            per_channel=policy.per_channel,
            channels=child.weight.shape[0],
            rescale=rescale,
        )
        if not quantizer.off:
            quantizer.start(child.weight)
        new: nn.Module
        if isinstance(child, nn.Conv2d):
            new = QuantConv2d.of(child, quantizer)
        else:
            new = QuantLinear.of(child, quantizer)
        new.train(child.training)
        parent, _, name = target.rpartition(".")
        setattr(module.get_submodule(parent), name, new)


def _readers(node: fx.Node, kinds: dict[fx.Node, Kind]) -> list[fx.Node]:
    """The nodes that read a value, looking through what does nothing (dropout)."""
    found: list[fx.Node] = []
    for user in node.users:
        found += _readers(user, kinds) if kinds[user] is Kind.SKIP else [user]
    return [n for n in found if kinds.get(n) is not Kind.SHAPE]


class _Placer:
    """One walk over the nodes in order; `raw` nodes hold values that are not codes yet."""

    def __init__(self, module: fx.GraphModule, kinds: dict[fx.Node, Kind], policy: Policy) -> None:
        self.module, self.kinds, self.policy = module, kinds, policy
        self.raw: set[fx.Node] = set()
        self.positive: set[fx.Node] = set()
        # arithmetic that does not follow a layer: a BN, with or without ReLU, on codes
        self.on_codes: set[fx.Node] = set()
        self.names: set[str] = set(dict(module.named_modules()))

    def run(self) -> None:
        for node, kind in list(self.kinds.items()):
            self._classify(node, kind)
            if node in self.raw and self._ends(node):
                self._insert([node], self._bits(node, kind))

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
            case Kind.RELU:
                positive = True
                if raw:
                    self.raw.add(node)
            case Kind.SKIP | Kind.CODES:
                # only logits reach here unquantised (`_ends`)
                if raw:
                    self.raw.add(node)
            case Kind.CONCAT:
                self._join(sources)
                positive = all(self._source(n) in self.positive for n in node.all_input_nodes)
            case Kind.SHAPE | Kind.OUTPUT:
                return
        if positive:
            self.positive.add(node)

    def _source(self, node: fx.Node) -> fx.Node:
        """The node that an inserted quantiser stands for."""
        return node.all_input_nodes[0] if node not in self.kinds else node

    def _ends(self, node: fx.Node) -> bool:
        """Whether the chain of arithmetic ends here, so that codes are due."""
        kind = self.kinds[node]
        if kind is Kind.INPUT:
            return True
        if kind in (Kind.SKIP, Kind.CODES):
            return False
        readers = _readers(node, self.kinds)
        kinds = [self.kinds[r] for r in readers]
        if self._is_result(node):
            return False
        if len(readers) == 1:
            if kinds[0] is Kind.RELU and kind is not Kind.RELU:
                return False
            if kinds[0] is Kind.NORM and kind is Kind.LAYER:
                return False
        if Kind.CONCAT in kinds and all(k in (Kind.CONCAT, Kind.LAYER) for k in kinds):
            # the concat's quantiser serves every reader
            return False
        joins = bool(readers) and all(k is Kind.ADD for k in kinds)
        return not (joins and self._is_branch(node) and not self.policy.branch)

    def _is_result(self, node: fx.Node) -> bool:
        """Whether the value goes to the output and nowhere else: logits."""
        for reader in _readers(node, self.kinds):
            kind = self.kinds[reader]
            if kind is Kind.OUTPUT or (kind is Kind.CODES and self._is_result(reader)):
                continue
            return False
        return True

    def _is_branch(self, node: fx.Node) -> bool:
        kind = self.kinds[node]
        return kind is Kind.LAYER or (kind is Kind.NORM and node not in self.on_codes)

    def _bits(self, node: fx.Node, kind: Kind) -> int:
        match kind:
            case Kind.INPUT:
                return self.policy.input_bits
            case Kind.AVERAGE:
                return self.policy.pool_bits
            case Kind.NORM if node in self.on_codes:
                return self.policy.norm_bits
            case _:
                return self.policy.act_bits

    def _join(self, operands: list[fx.Node]) -> None:
        """One quantiser object for all operands of a concat: one scale."""
        self._insert(operands, self.policy.act_bits)

    def _insert(self, nodes: list[fx.Node], bits: int) -> None:
        """The same quantiser after each of the nodes; every reader then reads codes."""
        signed = not all(self._source(n) in self.positive for n in nodes)
        head = nodes[-1] if len(nodes) > 1 else nodes[0]
        quantizer: ActQuantizer
        if self.kinds.get(head) is Kind.INPUT:
            name, quantizer = INPUT_QUANT, UniformAct(bits, signed=True)
        else:
            name = self._name(self._source(head), joined=len(nodes) > 1)
            quantizer = make_act(self.policy.act_method, bits, signed=signed)
        reference = next(self.module.parameters(), torch.zeros(()))
        self.module.add_submodule(name, quantizer.to(reference.device).train(self.module.training))
        self.names.add(name)
        for node in dict.fromkeys(nodes):
            graph = self.module.graph
            with graph.inserting_after(node):
                call = graph.create_node("call_module", name, (node,), name=name)
            call.meta = {k: v for k, v in node.meta.items() if k != SHAPE}
            call.stack_trace = node.stack_trace
            for user in list(node.users):
                if user is not call and self.kinds.get(user) is not Kind.SHAPE:
                    user.replace_input_with(node, call)
            self.raw.discard(node)
            if node in self.positive:
                self.positive.add(call)

    def _name(self, node: fx.Node, *, joined: bool) -> str:
        if node.op == "call_module":
            base = str(node.target).replace(".", "_")
        else:
            plain = re.sub(r"_\d+$", "", node.name)
            base = "_".join(p for p in (owner(node).replace(".", "_"), plain) if p)
        name = f"{base}_cat_quant" if joined else f"{base}_quant"
        count = 1
        while name in self.names:
            count += 1
            name = f"{base}_{count}_quant"
        return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one tensor got. kind: 'weight' or 'activation'; type: 's8', 'u4' or 'float'."""

    name: str
    kind: str
    method: str
    type: str
    shape: tuple[int, ...]


def describe(module: nn.Module) -> list[Row]:
    """One row a quantiser, in execution order for a prepared network."""
    rows: list[Row] = []
    for name, child in _ordered(module):
        if isinstance(child, QuantConv2d | QuantLinear):
            rows.append(_row(name, "weight", child.weight_quant, tuple(child.weight.shape)))
        elif isinstance(child, ActQuantizer):
            rows.append(_row(name, "activation", child, ()))
    return rows


def _row(name: str, kind: str, q: Quantizer, shape: tuple[int, ...]) -> Row:
    assert isinstance(q, WeightQuantizer | ActQuantizer)
    return Row(
        name=name, kind=kind, method=type(q).__name__, type="float" if q.off else str(q.type), shape=shape
    )


def _ordered(module: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    if not isinstance(module, fx.GraphModule):
        return list(module.named_modules())
    targets: dict[str, Any] = {}
    for node in module.graph.nodes:
        if node.op == "call_module":
            targets[str(node.target)] = module.get_submodule(str(node.target))
    return targets.items()


def table(module: nn.Module) -> str:
    """`describe` as text, one line a tensor."""
    rows = describe(module)
    width = max((len(r.name) for r in rows), default=4)
    lines = [f"{'tensor':<{width}}  {'kind':<10}  {'type':<5}  {'method':<13}  shape"]
    for r in rows:
        shape = " x ".join(map(str, r.shape))
        lines.append(f"{r.name:<{width}}  {r.kind:<10}  {r.type:<5}  {r.method:<13}  {shape}".rstrip())
    return "\n".join(lines)
