"""What every tensor of a prepared network got, as rows, as a table, as one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import fx, nn

from hwq.quant.methods.contract import ActQuantizer, Quantizer, WeightQuantizer
from hwq.quant.placing.layers import QuantConv2d, QuantLinear
from hwq.quant.placing.placer import OF
from hwq.quant.tracing.shapes import SHAPE


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one tensor got. kind: 'weight' or 'activation'; type: 's8', 'u4' or 'float'.

    name: of the layer or of the activation's quantiser; of: what an activation is the result of, in the
    names that layer patterns match. method: as in recipes, '' when off. scale: '' when off, else 'tensor'
    or 'channel'. shape: (O, I, ...) of weights; of an activation without the batch, () when not known.
    """

    name: str
    kind: str
    of: str
    type: str
    method: str
    scale: str
    shape: tuple[int, ...]


COLUMNS = ("tensor", "of", "type", "method", "scale", "shape")


def describe(module: nn.Module) -> list[Row]:
    """One row a quantiser, in execution order for a prepared network."""
    return list(_rows(module))


def cells(row: Row) -> tuple[str, ...]:
    """The row's text under `COLUMNS`."""
    of = "weights" if row.kind == "weight" else row.of
    return row.name, of, row.type, row.method, row.scale, " x ".join(map(str, row.shape))


def table(rows: Iterable[Row]) -> str:
    """Plain text, one line a tensor."""
    lines = [COLUMNS, *(cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def summary(rows: Iterable[Row]) -> str:
    """'weights 4-bit lsq x 18, 8-bit lsq x 2; activations ...', most frequent first."""
    listed = list(rows)
    parts = []
    for kind, what in (("weight", "weights"), ("activation", "activations")):
        found = Counter(
            f"{r.type[1:]}-bit {r.method}" if r.method else "float" for r in listed if r.kind == kind
        )
        parts.append(f"{what} {', '.join(f'{text} x {count}' for text, count in found.most_common())}")
    return "; ".join(parts)


def _rows(module: nn.Module) -> Iterator[Row]:
    for name, child, node in _ordered(module):
        if isinstance(child, QuantConv2d | QuantLinear):
            quantizer = child.weight_quant
            yield _row(name, "weight", "", quantizer, tuple(child.weight.shape))
        elif isinstance(child, ActQuantizer):
            of, shape = ((), ()) if node is None else (node.meta.get(OF, ()), _shape(node))
            yield _row(name, "activation", _joined(of), child, shape)


def _row(name: str, kind: str, of: str, q: Quantizer, shape: tuple[int, ...]) -> Row:
    per_channel = isinstance(q, WeightQuantizer) and q.per_channel
    return Row(
        name=name,
        kind=kind,
        of=of,
        type="float" if q.off else str(q.type),
        method="" if q.off else q.method or type(q).__name__,
        scale="" if q.off else "channel" if per_channel else "tensor",
        shape=shape,
    )


def _ordered(module: nn.Module) -> Iterator[tuple[str, nn.Module, fx.Node | None]]:
    if not isinstance(module, fx.GraphModule):
        yield from ((name, child, None) for name, child in module.named_modules())
        return
    first = {str(n.target): n for n in reversed(list(module.graph.nodes)) if n.op == "call_module"}
    for node in module.graph.nodes:
        target = str(node.target)
        if node.op == "call_module" and first[target] is node:
            yield target, module.get_submodule(target), node


def _shape(node: fx.Node) -> tuple[int, ...]:
    """Without the batch, of what a quantiser reads."""
    source = node
    while SHAPE not in source.meta and source.all_input_nodes:
        source = source.all_input_nodes[0]
    return tuple(source.meta.get(SHAPE, ()))[1:]


def _joined(paths: tuple[str, ...]) -> str:
    """('layer1.0.conv1', 'layer1.0.bn1') -> 'layer1.0.conv1 bn1': a neighbour's path is not repeated."""
    text, parent = "", None
    for path in paths:
        above, _, last = path.rpartition(".")
        text += f" {last}" if text and above == parent else f"{' ' if text else ''}{path}"
        parent = above
    return text
