"""PE x SIMD folding: how many outputs and inputs of a layer are computed at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwq.errors import InputError
from hwq.files import SMALL, read_json, read_toml
from hwq.ir import Conv2d, Graph, Linear

BUDGET = 512
"""Multipliers that the default folding spreads over the layers."""
STREAM_LANES = 64
"""The default folding makes no word of more lanes."""


@dataclass(frozen=True, slots=True)
class Folding:
    """pe outputs and simd inputs a cycle. Depthwise layers fold channels by pe; their simd is 1."""

    pe: int
    simd: int


def divisors(n: int) -> list[int]:
    """All divisors, ascending."""
    return [d for d in range(1, n + 1) if n % d == 0]


def is_depthwise(op: Conv2d | Linear) -> bool:
    """One output a channel, from that channel alone."""
    if not isinstance(op, Conv2d):
        return False
    outs, per_group = op.weight.shape[0], op.weight.shape[3]
    return op.groups > 1 and per_group == 1 and outs == op.groups


def limits(op: Conv2d | Linear) -> tuple[int, int]:
    """(what pe must divide, what simd must divide)."""
    return int(op.weight.shape[0]), int(op.weight.shape[-1])


def _layers(graph: Graph) -> list[Conv2d | Linear]:
    return [op for op in graph if isinstance(op, Conv2d | Linear)]


def _check(op: Conv2d | Linear, folding: Folding) -> None:
    for name, value, whole in zip(("PE", "SIMD"), (folding.pe, folding.simd), limits(op), strict=True):
        if value < 1 or whole % value:
            legal = ", ".join(map(str, divisors(whole)))
            what = "output channels" if name == "PE" else "input channels (per group)"
            raise InputError(
                f"folding of op '{op.name}': {name} = {value} does not divide its {whole} {what}; "
                f"legal: {legal}"
            )


def cycles(op: Conv2d | Linear, folding: Folding) -> int:
    """Cycles an image of the multiply-accumulate loop at II = 1."""
    return op.macs // (folding.pe * folding.simd)


def _fold_to(op: Conv2d | Linear, target: int) -> Folding:
    """The fewest multipliers that reach `target` cycles, SIMD before PE; the most allowed where none do."""
    pe_whole, simd_whole = limits(op)
    options = [
        Folding(pe, simd)
        for pe in divisors(pe_whole)
        if pe <= STREAM_LANES
        for simd in divisors(simd_whole)
        if simd <= STREAM_LANES
    ]
    enough = [f for f in options if cycles(op, f) <= target]
    if enough:
        return min(enough, key=lambda f: (f.pe * f.simd, abs(f.pe - f.simd), f.pe))
    return max(options, key=lambda f: (f.pe * f.simd, -f.pe))


def default_folding(graph: Graph, budget: int = BUDGET) -> dict[str, Folding]:
    """Balanced: every layer takes about as long, with about `budget` multipliers in all."""
    layers = _layers(graph)
    target = max(1, -(-sum(op.macs for op in layers) // budget)) if layers else 1
    return {op.name: _fold_to(op, target) for op in layers}


def complete(graph: Graph, chosen: Mapping[str, Folding] | None = None) -> dict[str, Folding]:
    """`chosen` checked, the default for the layers it does not name. Raises InputError."""
    layers = {op.name: op for op in _layers(graph)}
    for name in chosen or {}:
        if name not in layers:
            known = ", ".join(layers) or "none"
            raise InputError(
                f"folding names op '{name}', which is no convolution or linear layer; known: {known}"
            )
    found = {**default_folding(graph), **(chosen or {})}
    for name, op in layers.items():
        _check(op, found[name])
    return found


def _pair(text: str, whole: str) -> tuple[int, int]:
    parts = text.split(",")
    try:
        pe, simd = (int(p) for p in parts)
    except ValueError:
        raise InputError(
            f"--fold '{whole}': write op=PE,SIMD, or PE,SIMD as an upper limit for all"
        ) from None
    if pe < 1 or simd < 1:
        raise InputError(f"--fold '{whole}': PE and SIMD must be at least 1")
    return pe, simd


def _largest(whole: int, cap: int) -> int:
    return max(d for d in divisors(whole) if d <= cap)


def parse_fold(graph: Graph, options: Sequence[str]) -> dict[str, Folding]:
    """`op=PE,SIMD` names a layer; `PE,SIMD` folds all: the largest divisors up to that. Raises InputError."""
    found: dict[str, Folding] = {}
    for text in options:
        if "=" not in text:
            pe, simd = _pair(text, text)
            for op in _layers(graph):
                outs, ins = limits(op)
                found[op.name] = Folding(_largest(outs, pe), _largest(ins, simd))
    for text in options:
        if "=" in text:
            name, _, pair = text.rpartition("=")
            found[name.strip()] = Folding(*_pair(pair, text))
    return complete(graph, found)


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """TOML reads `layer1.conv = [1, 2]` as a table in a table; join the names again."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def read_folding(graph: Graph, path: Path) -> dict[str, Folding]:
    """A TOML or JSON table {op: [pe, simd]}; layers it leaves out get the default. Raises InputError."""
    if path.suffix not in (".json", ".toml"):
        raise InputError(f"folding file {path}: must be a .toml or a .json")
    what, advice = "folding file", 'write a table {"op": [PE, SIMD]}'
    if path.suffix == ".json":
        table: dict[str, Any] = read_json(path, dict, limit=SMALL, what=what, advice=advice)
    else:
        table = read_toml(path, what=what, advice=advice)
    found: dict[str, Folding] = {}
    for name, pair in _flat(table).items():
        integers = isinstance(pair, list) and len(pair) == 2 and all(type(n) is int for n in pair)
        if not integers:
            raise InputError(f"folding file {path}: op '{name}' needs two integers [PE, SIMD]")
        found[name] = Folding(*pair)
    return complete(graph, found)
