"""What stands in graph.json, version 2, and how it is checked while it is read.

    {"format": "hwq.graph", "version": 2, "name": ..., "ops": [op, ...], "project": ..., "digest": ...}
    op: {"kind": class, "name", "inputs": [names], "out": {"shape", "type": "s8", "scale": number|null},
         and the fields of its class; "padding": [top, bottom, left, right]}

Integer arrays lie in graph.safetensors under `<index of op>.<field>`, in the smallest signed integer
type that holds them; here they are only implied. `digest` and `project` are about the files and the
project that they are part of, see `serde.files.Seal`; no graph depends on them. Reading raises
`FormatError`, and nothing else, for any content. Version 1 (`hwq.serde.older`) is read as well.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from hwq.errors import HwqError
from hwq.fixed import Constants, IntType, Rounding
from hwq.ir import (
    Concat,
    Conv2d,
    Flatten,
    Graph,
    Input,
    Linear,
    MaxPool,
    Op,
    Output,
    Pad,
    Padding,
    Requant,
    Requantize,
    SumPool,
    TensorSpec,
)
from hwq.serde.older import of_version_1

FORMAT = "hwq.graph"
VERSION = 2

MAX_SIZE = 1 << 31
"""Sizes, strides and counts beyond this are refused: no network has them, and no product overflows."""
MAX_INTEGER = 1100
"""|I| of a constant at most: covers every float64; keeps alignment shifts small."""
MAX_TEXT = 1000
"""Characters of a name: files and archives take no longer ones."""
MAX_WEIGHT_BITS = 32
"""Wider weights are refused, so that no sum of their magnitudes leaves int64."""

Arrays = Mapping[str, npt.NDArray[Any]]
_TYPE = re.compile(r"[su][1-9][0-9]{0,3}")


class FormatError(Exception):
    """The document is not a graph of this version; one clear line."""


KINDS: dict[str, type[Op]] = {
    kind.__name__: kind
    for kind in (Input, Conv2d, Linear, Requantize, MaxPool, SumPool, Pad, Concat, Flatten, Output)
}
_COMMON = {"name", "inputs", "out"}
_DOCUMENT = {"format", "version", "name", "ops"}
_SEAL = {"project", "digest"}


# -- writing


def encode(graph: Graph) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """A graph as a JSON document and named integer arrays."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    ops = [_encode_op(op, str(index), arrays) for index, op in enumerate(graph.ops)]
    return {"format": FORMAT, "version": VERSION, "name": graph.name, "ops": ops}, arrays


def _encode_op(op: Op, key: str, arrays: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {
        "kind": type(op).__name__,
        "name": op.name,
        "inputs": list(op.inputs),
        "out": {"shape": list(op.out.shape), "type": str(op.out.type), "scale": op.out.scale},
    }
    for field in dataclasses.fields(op):
        if field.name in _COMMON:
            continue
        value = getattr(op, field.name)
        match value:
            case np.ndarray():
                arrays[f"{key}.{field.name}"] = _narrow(value)
            case Requant():
                out[field.name] = _encode_requant(value, f"{key}.{field.name}", arrays)
            case IntType():
                out[field.name] = str(value)
            case Padding():
                out[field.name] = list(value.sides)
            case tuple():
                out[field.name] = list(value)
            case int():
                out[field.name] = value
            case _:
                raise AssertionError(f"{type(op).__name__}.{field.name}")
    return out


def _encode_requant(requant: Requant, key: str, arrays: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    terms = [_encode_constants(c, f"{key}.term{i}", arrays) for i, c in enumerate(requant.terms)]
    return {
        "terms": terms,
        "bias": _encode_constants(requant.bias, f"{key}.bias", arrays),
        "out": str(requant.out),
        "lo": requant.lo,
        "hi": requant.hi,
        "rounding": requant.rounding.value,
    }


def _encode_constants(c: Constants, key: str, arrays: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    arrays[f"{key}.raw"] = _narrow(c.raw)
    arrays[f"{key}.integer"] = _narrow(c.integer)
    return {"width": c.width, "format": c.format_name}


def _narrow(values: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """The same integers in the smallest signed type, contiguous."""
    for kind in (np.int8, np.int16, np.int32, np.int64):
        if values.size == 0 or (np.iinfo(kind).min <= values.min() and values.max() <= np.iinfo(kind).max):
            return np.ascontiguousarray(values, dtype=kind)
    raise AssertionError("an int64 array fits int64")


# -- reading


def decode(document: object, arrays: Arrays) -> Graph:
    """The graph of a document; not yet verified. Raises FormatError."""
    fields = _mapping(document, "the document")
    if fields.get("format") != FORMAT:
        raise FormatError("not a graph of hwq")
    version = fields.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise FormatError(f"format version {version!r:.40}; this hwq reads versions 1..{VERSION}")
    _keys({k: v for k, v in fields.items() if k not in _SEAL}, _DOCUMENT, "the document")
    ops = _list(fields["ops"], "ops")
    if version == 1:
        ops = [of_version_1(op) for op in ops]
    reader = _Arrays(arrays)
    graph = Graph(
        name=_text(fields["name"], "name"),
        ops=tuple(_decode_op(op, index, reader) for index, op in enumerate(ops)),
    )
    reader.expect_all_read()
    return graph


class _Arrays:
    """Hands out the arrays once each, checked and widened to int64."""

    def __init__(self, arrays: Arrays) -> None:
        self._left = dict(arrays)

    def take(self, key: str) -> npt.NDArray[np.int64]:
        if key not in self._left:
            raise FormatError(f"array '{key}' is missing from the tensors")
        found = self._left.pop(key)
        if found.dtype.kind != "i" or found.size == 0:
            raise FormatError(f"array '{key}' must hold signed integers, has {found.dtype} {found.shape}")
        values = found.astype(np.int64)
        values.setflags(write=False)
        return values

    def expect_all_read(self) -> None:
        if self._left:
            raise FormatError(f"array '{min(self._left)}' belongs to no op")


def _decode_op(value: object, index: int, arrays: _Arrays) -> Op:
    fields = dict(_mapping(value, f"op {index}"))
    name = _text(fields.get("name"), f"op {index}: name")
    where = f"op '{name}'"
    kind = KINDS.get(_text(fields.pop("kind", None), f"{where}: kind"))
    if kind is None:
        raise FormatError(f"{where}: unknown kind")
    wanted = [f for f in dataclasses.fields(kind) if f.name not in _COMMON]
    stored = {f.name for f in wanted if "NDArray" not in str(f.type)}
    _keys(fields, _COMMON | stored, where)
    made: dict[str, Any] = {
        "name": name,
        "inputs": tuple(_text(i, f"{where}: input") for i in _list(fields["inputs"], f"{where}: inputs")),
        "out": _decode_spec(fields["out"], f"{where}: out"),
    }
    for field in wanted:
        spot = f"{where}: {field.name}"
        match str(field.type):
            case "int":
                made[field.name] = _integer(fields[field.name], spot)
            case "IntType":
                made[field.name] = _type(fields[field.name], spot)
                if made[field.name].bits > MAX_WEIGHT_BITS:
                    raise FormatError(f"{spot}: weights have at most {MAX_WEIGHT_BITS} bits")
            case "Requant":
                made[field.name] = _decode_requant(fields[field.name], f"{index}.{field.name}", spot, arrays)
            case "tuple[int, int]":
                made[field.name] = _integers(fields[field.name], 2, spot)
            case "Padding":
                top, bottom, left, right = _integers(fields[field.name], 4, spot)
                made[field.name] = Padding(top=top, bottom=bottom, left=left, right=right)
            case _:  # the only other kind of field is an array
                made[field.name] = _weight(arrays.take(f"{index}.{field.name}"), kind, spot)
    return kind(**made)


def _weight(weight: npt.NDArray[np.int64], kind: type[Op], where: str) -> npt.NDArray[np.int64]:
    want = 4 if kind is Conv2d else 2
    if weight.ndim != want:
        raise FormatError(f"{where} has {weight.ndim} dimensions, must have {want}")
    return weight


def _decode_spec(value: object, where: str) -> TensorSpec:
    fields = _mapping(value, where)
    _keys(fields, {"shape", "type", "scale"}, where)
    scale = fields["scale"]
    if scale is not None:
        if not isinstance(scale, float | int) or isinstance(scale, bool):
            raise FormatError(f"{where}: scale must be a number or null")
        try:
            scale = float(scale)
        except OverflowError:
            scale = math.inf
        if not (math.isfinite(scale) and scale > 0):
            raise FormatError(f"{where}: scale must be positive and finite")
    shape = tuple(_integer(n, f"{where}: shape") for n in _list(fields["shape"], f"{where}: shape"))
    if not shape or min(shape) < 1 or math.prod(shape) > MAX_SIZE:
        raise FormatError(f"{where}: shape {shape} is not of positive, sensible sizes")
    return TensorSpec(shape=shape, type=_type(fields["type"], where), scale=scale)


def _decode_requant(value: object, key: str, where: str, arrays: _Arrays) -> Requant:
    fields = _mapping(value, where)
    _keys(fields, {"terms", "bias", "out", "lo", "hi", "rounding"}, where)
    terms = _list(fields["terms"], f"{where}: terms")
    if not terms:
        raise FormatError(f"{where}: has no terms")
    rounding = {r.value: r for r in Rounding}.get(_text(fields["rounding"], f"{where}: rounding"))
    if rounding is None:
        raise FormatError(f"{where}: unknown rounding")
    out = _type(fields["out"], f"{where}: out")
    lo, hi = fields["lo"], fields["hi"]
    if type(lo) is not int or type(hi) is not int:
        raise FormatError(f"{where}: lo and hi must be integers")
    return Requant(
        terms=tuple(
            _decode_constants(c, f"{key}.term{i}", f"{where}: term {i}", arrays) for i, c in enumerate(terms)
        ),
        bias=_decode_constants(fields["bias"], f"{key}.bias", f"{where}: bias", arrays),
        out=out,
        lo=lo,
        hi=hi,
        rounding=rounding,
    )


def _decode_constants(value: object, key: str, where: str, arrays: _Arrays) -> Constants:
    fields = _mapping(value, where)
    _keys(fields, {"width", "format"}, where)
    raw, integer = arrays.take(f"{key}.raw"), arrays.take(f"{key}.integer")
    if raw.ndim != 1 or raw.shape != integer.shape:
        raise FormatError(
            f"{where}: raw {raw.shape} and integer {integer.shape} must be equally long vectors"
        )
    if not -MAX_INTEGER <= int(integer.min()) <= int(integer.max()) <= MAX_INTEGER:
        raise FormatError(f"{where}: an integer width leaves -{MAX_INTEGER}..{MAX_INTEGER}")
    return Constants(
        width=_integer(fields["width"], f"{where}: width"),
        raw=raw,
        integer=integer,
        format_name=_text(fields["format"], f"{where}: format"),
    )


# -- one checked value each


def _mapping(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FormatError(f"{where} must be an object")
    return cast("dict[str, Any]", value)


def _keys(fields: Mapping[str, Any], want: set[str], where: str) -> None:
    for name in sorted(want - fields.keys()):
        raise FormatError(f"{where}: '{name}' is missing")
    for name in sorted(fields.keys() - want):
        raise FormatError(f"{where}: '{name[:40]}' is not known")


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise FormatError(f"{where} must be a list")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise FormatError(f"{where:.80} must be a text")
    if len(value) > MAX_TEXT:
        raise FormatError(f"{where:.80} has {len(value):,} characters, at most {MAX_TEXT} are taken")
    return value


def _integer(value: object, where: str) -> int:
    if type(value) is not int or not -MAX_SIZE <= value <= MAX_SIZE:
        raise FormatError(f"{where} must be an integer of sensible size")
    return value


def _integers(value: object, count: int, where: str) -> tuple[int, ...]:
    numbers = tuple(_integer(n, where) for n in _list(value, where))
    if len(numbers) != count:
        raise FormatError(f"{where} must be {count} integers")
    return numbers


def _type(value: object, where: str) -> IntType:
    text = _text(value, where)
    if not _TYPE.fullmatch(text):
        raise FormatError(f"{where}: '{text[:20]}' is not a type such as s8 or u4")
    try:
        return IntType(bits=int(text[1:]), signed=text[0] == "s")
    except HwqError as error:
        raise FormatError(f"{where}: {error}") from None
