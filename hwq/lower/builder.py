"""Collects the ops of the graph being lowered; the one place where real constants become stored ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from hwq.errors import InputError
from hwq.fixed import ConstantFormat, IntType, Rounding, code_limit
from hwq.ir import (
    Bound,
    Concat,
    Conv2d,
    Flatten,
    Graph,
    Input,
    Linear,
    MaxPool,
    Op,
    Pad,
    Padding,
    Requant,
    Requantize,
    SumPool,
    TensorSpec,
    output_bound,
    pooled_size,
    sum_type,
)
from hwq.lower.formats import Formats
from hwq.lower.report import ConstantIssue, RealConstants, constant_issues
from hwq.lower.values import Codes, Factor, Floats, Move, PadMove, Pending, Pixels, flat_order
from hwq.quant.placing.patterns import matches, nothing_matches

_AnyOp = TypeVar("_AnyOp", bound=Op)


def _limits(kind: IntType, scale: float, lo: float, hi: float, rounding: Rounding) -> tuple[int, int]:
    low = kind.lo if lo == -np.inf else code_limit(lo, scale, rounding)
    high = kind.hi if hi == np.inf else code_limit(hi, scale, rounding)
    return min(max(low, kind.lo), kind.hi), min(max(high, kind.lo), kind.hi)


def _vector(value: Factor, channels: int) -> Floats:
    """A vector of `channels`, or of length 1 where all are alike."""
    made = np.broadcast_to(np.asarray(value, dtype=np.float64), (channels,))
    return made[:1].copy() if bool((made == made[0]).all()) else made.copy()


class Builder:
    """Appends ops with unique names; keeps the real constants and what storing them lost."""

    def __init__(self, formats: Formats) -> None:
        self.formats = formats
        self.ops: dict[str, Op] = {}
        self.bounds: dict[str, Bound] = {}
        """max|x| of each channel of every op's output."""
        self.real: dict[str, RealConstants] = {}
        self.issues: list[ConstantIssue] = []
        self.names: dict[str, tuple[str, ...]] = {}
        """What layer patterns know each Requantize as: its name, then modules and layers that end in it."""
        self.edges: set[str] = set()
        """Requantizes in a format of their own, which no pattern changes."""

    def name(self, wanted: str) -> str:
        """`wanted`, or with _2, _3, ... when it is taken (a module that is called again)."""
        name, count = wanted, 1
        while name in self.ops:
            count += 1
            name = f"{wanted}_{count}"
        return name

    def add(self, op: _AnyOp) -> _AnyOp:
        self.ops[op.name] = op
        self.bounds[op.name] = output_bound(op, [self.bounds[name] for name in op.inputs])
        return op

    def graph(self, name: str, result: str) -> Graph:
        """Every op that `result`, the Output, depends on."""
        wanted = {result}
        for op in reversed(self.ops.values()):
            if op.name in wanted:
                wanted.update(op.inputs)
        return Graph(name=name, ops=tuple(op for op in self.ops.values() if op.name in wanted))

    # -- requantisation
    def requantize(
        self,
        value: Pending,
        wanted: str,
        kind: IntType,
        scale: float,
        form: ConstantFormat | None = None,
        of: tuple[str, ...] = (),
    ) -> Codes:
        """End `value` in one Requantize to codes `kind` * `scale`, then do its moves.

        form: instead of the body's format. of: paths of the modules that end here, for layer patterns.
        """
        channels = value.inner[-1]
        terms = tuple(_vector(t.multiplier(scale), channels) for t in value.terms)
        real = RealConstants(terms=terms, bias=_vector(value.bias / scale, channels))
        inputs = tuple(t.op for t in value.terms)
        limits = _limits(kind, scale, value.lo, value.hi, self.formats.rounding)
        codes = self._store(wanted, inputs, real, value.inner, kind, scale, limits, form, of)
        if len(value.inner) == 1:
            codes = replace(codes, order=value.order)
        for move in value.moves:
            codes = self.move(codes, move)
        return codes

    def normalize(
        self, pixels: Pixels, mean: Floats, std: Floats, wanted: str, kind: IntType, scale: float
    ) -> Codes:
        """Raw pixels to codes of (q/255 - mean)/std, constants in the edge format."""
        channels = pixels.shape[-1]
        multiplier = 1.0 / (255.0 * std * scale)
        bias = -mean / (std * scale)
        real = RealConstants(terms=(_vector(multiplier, channels),), bias=_vector(bias, channels))
        limits, edge = (kind.lo, kind.hi), self.formats.edge
        return self._store(wanted, (pixels.op,), real, pixels.shape, kind, scale, limits, edge, ())

    def _store(
        self,
        wanted: str,
        inputs: tuple[str, ...],
        real: RealConstants,
        shape: tuple[int, ...],
        kind: IntType,
        scale: float,
        limits: tuple[int, int],
        form: ConstantFormat | None,
        of: tuple[str, ...],
    ) -> Codes:
        name = self.name(wanted)
        layers = (i for i in inputs if isinstance(self.ops[i], Input | Conv2d | Linear | SumPool))
        self.names[name] = tuple(dict.fromkeys((name, *of, *layers)))
        if form is not None:
            self.edges.add(name)
        form = form or self.formats.of(self.names[name])
        if not all(np.isfinite(v).all() for v in (*real.terms, real.bias)):
            raise InputError(
                f"{name}: a multiplier or bias is not finite; weights, BN statistics or scales of the layers "
                "before it hold NaN, infinity or a negative variance"
            )
        requant = Requant(
            terms=tuple(form.quantize(v, bias=False) for v in real.terms),
            bias=form.quantize(real.bias, bias=True),
            out=kind,
            lo=limits[0],
            hi=limits[1],
            rounding=self.formats.rounding,
        )
        spec = TensorSpec(shape=shape, type=kind, scale=scale)
        self.add(Requantize(name=name, inputs=inputs, out=spec, requant=requant))
        self.real[name] = real
        bounds = tuple(self.bounds[i] for i in inputs)
        self.issues += constant_issues(name, inputs, bounds, real, requant, form)
        return Codes(op=name, spec=spec, factors=(scale,))

    def check_patterns(self) -> None:
        """Raise InputError for a layer pattern that changes no Requantize; to be called after all of them."""
        body = [names for op, names in self.names.items() if op not in self.edges]
        for pattern, _ in self.formats.overrides:
            if any(matches(pattern, names) for names in body):
                continue
            if any(matches(pattern, self.names[op]) for op in self.edges):
                raise InputError(
                    f"layer pattern '{pattern}' names only the input or the logits, whose format is "
                    "--edge-fixed"
                )
            known = [name for names in self.names.values() for name in names]
            raise InputError(f"layer pattern '{pattern}' {nothing_matches(pattern, known)}")

    # -- ops that move codes
    def move(self, codes: Codes, move: Move | PadMove) -> Codes:
        """A max pool, a subsampling, a flatten or a padding of codes."""
        if isinstance(move, PadMove):
            return self._pad(codes, move)
        if move.kernel is None:
            return self.flatten(codes, move.name)
        spec = replace(codes.spec, shape=move.moved(codes.shape))
        op = MaxPool(
            name=self.name(move.name),
            inputs=(codes.op,),
            out=spec,
            kernel=move.kernel,
            stride=move.stride,
            padding=move.padding,
        )
        return Codes(op=self.add(op).name, spec=spec, factors=codes.factors)

    def flatten(self, codes: Codes, wanted: str) -> Codes:
        if len(codes.shape) == 1:
            return codes
        spec = TensorSpec(shape=(codes.spec.size,), type=codes.spec.type, scale=codes.spec.scale)
        op = self.add(Flatten(name=self.name(wanted), inputs=(codes.op,), out=spec))
        order = flat_order(codes.shape, codes.order)
        return Codes(op=op.name, spec=spec, factors=codes.factors, order=order)

    def _pad(self, codes: Codes, move: PadMove) -> Codes:
        spec = replace(codes.spec, shape=move.moved(codes.shape))
        op = Pad(
            name=self.name(move.name),
            inputs=(codes.op,),
            out=spec,
            padding=move.padding,
            before=move.before,
            after=move.after,
        )
        return Codes(op=self.add(op).name, spec=spec, factors=codes.factors)

    def concat(self, parts: Sequence[Codes], wanted: str) -> Codes:
        """Parts of one type and scale, along the channels."""
        first = parts[0]
        total = sum(p.shape[-1] for p in parts)
        spec = TensorSpec(shape=(*first.shape[:-1], total), type=first.spec.type, scale=first.spec.scale)
        op = self.add(Concat(name=self.name(wanted), inputs=tuple(p.op for p in parts), out=spec))
        order = None
        if any(p.order is not None for p in parts):
            starts = np.cumsum([0, *(p.shape[-1] for p in parts[:-1])])
            own = [np.arange(p.shape[-1]) if p.order is None else p.order for p in parts]
            order = np.concatenate([o + s for o, s in zip(own, starts, strict=True)]).astype(np.int64)
        return Codes(op=op.name, spec=spec, factors=first.factors, order=order)

    def sum_pool(
        self,
        source: str,
        wanted: str,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: Padding,
    ) -> SumPool:
        spec = self.ops[source].out
        size = pooled_size((spec.shape[0], spec.shape[1]), kernel, stride, padding)
        kind = sum_type(self.bounds[source] * (kernel[0] * kernel[1]), signed=spec.type.signed)
        out = TensorSpec(shape=(*size, spec.channels), type=kind)
        name = self.name(wanted)
        return self.add(
            SumPool(name=name, inputs=(source,), out=out, kernel=kernel, stride=stride, padding=padding)
        )
