"""The passes. Each says why no output code can change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hwq.ir import (
    Conv2d,
    Flatten,
    Graph,
    Linear,
    MaxPool,
    Op,
    Pad,
    Requantize,
    SumPool,
    sum_type,
)
from hwq.ir.padding import MAX_PADDING


def drop_unread(graph: Graph) -> Graph:
    """Remove ops that the output does not depend on; the input stays."""
    wanted = {graph.output.name, graph.input.name}
    for op in reversed(graph.ops):
        if op.name in wanted:
            wanted.update(op.inputs)
    return Graph(name=graph.name, ops=tuple(op for op in graph.ops if op.name in wanted))


def _without(graph: Graph, dropped: dict[str, str]) -> Graph:
    """The graph without the ops named in `dropped`; readers of each read its source instead."""

    def source(name: str) -> str:
        while name in dropped:
            name = dropped[name]
        return name

    kept = (op for op in graph.ops if op.name not in dropped)
    ops = tuple(replace(op, inputs=tuple(source(name) for name in op.inputs)) for op in kept)
    return Graph(name=graph.name, ops=ops)


def drop_identity(graph: Graph) -> Graph:
    """Remove ops that pass every code on: 1x1 pools of stride 1, empty padding, flatten of a vector.

    The output's shape, type and scale equal the input's, so every reader sees the same tensor.
    """
    return _without(graph, {op.name: op.inputs[0] for op in graph.ops if _is_identity(graph, op)})


def _is_identity(graph: Graph, op: Op) -> bool:
    match op:
        case MaxPool():
            return op.kernel == (1, 1) and op.stride == (1, 1)  # and so no padding
        case Pad():
            return not op.padding and (op.before, op.after) == (0, 0)
        case Flatten():
            return graph[op.inputs[0]].out.shape == op.out.shape
        case _:
            return False


def absorb_padding(graph: Graph) -> Graph:
    """Let convolutions and pools pad themselves where a Pad of rows and columns stands before them.

    The code 0 that it adds is what a convolution and a sum take for codes outside of their map anyway. The
    largest code of a window is the same with and without zeros where no code is negative and each window
    has a code of the map. Pads in a row become one. A Pad goes only where all its readers can take it.
    """
    taken: dict[str, Pad] = {}
    ops: dict[str, Op] = {}
    for op in graph:
        if op.inputs and op.inputs[0] in taken:
            wider = _padded_by(op, taken[op.inputs[0]])
            assert wider is not None, "every reader was asked"
            op = wider
        readers = graph.consumers[op.name]
        if isinstance(op, Pad) and all(_padded_by(graph[name], op) for name in readers):
            taken[op.name] = op
        else:
            ops[op.name] = op
    return Graph(name=graph.name, ops=tuple(ops.values()))


def _padded_by(op: Op, pad: Pad) -> Op | None:
    """The op on the input of `pad` instead of its output, or None where that is another op."""
    if not isinstance(op, Conv2d | SumPool | MaxPool | Pad):
        return None
    padding = op.padding + pad.padding
    if max(padding.sides) > MAX_PADDING:
        return None
    if isinstance(op, Pad):
        before, after = op.before + pad.before, op.after + pad.after
        return replace(op, inputs=pad.inputs, padding=padding, before=before, after=after)
    whole_windows = isinstance(op, Conv2d) or padding.within(op.kernel)
    exact = not isinstance(op, MaxPool) or pad.out.type.lo >= 0
    if pad.before or pad.after or not whole_windows or not exact:
        return None
    return replace(op, inputs=pad.inputs, padding=padding)


def drop_exact_requantize(graph: Graph) -> Graph:
    """Remove a Requantize of codes to the same type and scale that provably changes no code.

    With F fraction bits and M = 2^F, y = floor((x * 2^F + B + half) / 2^F) = x + floor((B + half) / 2^F):
    x itself when 0 <= B + half < 2^F in every channel; and (lo, hi) must hold every code of the input.
    """
    exact = (op for op in graph.ops if isinstance(op, Requantize) and _is_exact(graph, op))
    return _without(graph, {op.name: op.inputs[0] for op in exact})


def _is_exact(graph: Graph, op: Requantize) -> bool:
    if len(op.inputs) != 1 or op.out.scale is None:
        return False
    source, r = graph[op.inputs[0]].out, op.requant
    if source != op.out or not (r.lo <= source.type.lo and source.type.hi <= r.hi):
        return False
    a = r.alignment
    one = np.array([1 << int(f) for f in a.fraction], dtype=object)
    rest = a.bias + a.half
    return bool(np.all(a.multipliers[0] == one) and np.all(rest >= 0) and np.all(rest < one))


def tighten_sums(graph: Graph) -> Graph:
    """Give convolutions, linear layers and sum pools the narrowest type that holds every sum.

    Only where all readers are requantisations, which take any width: the numbers stay the same.
    """
    return Graph(name=graph.name, ops=tuple(_tightened(graph, op) for op in graph.ops))


def _tightened(graph: Graph, op: Op) -> Op:
    if not all(isinstance(graph[name], Requantize) for name in graph.consumers[op.name]):
        return op
    match op:
        case Conv2d() | Linear() | SumPool():
            need = sum_type(graph.bounds[op.name], signed=op.out.type.signed)
        case _:
            return op
    return replace(op, out=replace(op.out, type=need)) if need.bits < op.out.type.bits else op
