"""What the constants of a network take to store, and which networks have the same ones."""

from __future__ import annotations

import hashlib

from hwq.ir import Conv2d, Graph, Linear, Requantize


def layer_bits(op: Requantize) -> int:
    """Bits of its multipliers and its biases, see `Constants.memory_bits`: entries * (W + shift).

    Entries: 1 where all channels share a value, else C. Shift: none for `W,I` and `W,auto`, whose binary
    point is part of the vector's type; else what tells the points in a vector apart.
    """
    return sum(constants.memory_bits for constants in (*op.requant.terms, op.requant.bias))


def memory_bits(graph: Graph) -> int:
    """Bits of every M and B of the network, the input's and the logits' among them."""
    return sum(layer_bits(op) for op in graph if isinstance(op, Requantize))


def digest(graph: Graph) -> str:
    """Equal for graphs of one network that compute the same integers by construction.

    Covers weights, and constants as aligned: <16,8> and <18,10> where neither saturates have one digest.
    """
    found = hashlib.sha256()
    for op in graph:
        found.update(f"{type(op).__name__} {op.name} {op.inputs} {op.out}".encode())
        if isinstance(op, Conv2d | Linear):
            found.update(op.weight.tobytes())
        if isinstance(op, Requantize):
            a = op.requant.alignment
            lists = [x.tolist() for x in (a.fraction, *a.multipliers, a.bias, a.half)]
            found.update(f"{op.requant.lo} {op.requant.hi} {lists}".encode())
    return found.hexdigest()
