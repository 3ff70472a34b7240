"""Random legal graphs: the same generator behind a hypothesis strategy and behind a seed.

Small nets (a dozen ops) with every op class, odd shapes, and constants in every format.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from hwq.emit.folding import Folding, divisors, limits
from hwq.fixed import (
    AutoFormat,
    ChannelFormat,
    ConstantFormat,
    Constants,
    FixedType,
    IntType,
    LiteralFormat,
    Overflow,
    Rounding,
    ShiftFormat,
)
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
    Output,
    Pad,
    Padding,
    Requant,
    Requantize,
    SumPool,
    TensorSpec,
    accumulator_type,
    output_bound,
    pooled_size,
    sum_type,
    verify,
)
from hwq.simulate.oracle import ORACLE

_T = TypeVar("_T")
MAX_SUM_BITS = 127
"""The widest requantisation sum the native build takes (a signed 128-bit integer)."""
MAX_BITS = 63
"""The widest accumulator: taps are 64-bit at most."""
MAX_SIZE = 700
"""Codes a tensor at most: a graph compiles and runs in seconds."""


class Source(Protocol):
    """Where a graph's choices come from: a seed, or hypothesis."""

    def integer(self, low: int, high: int) -> int:
        """An integer in low .. high, both included."""
        ...

    def choice(self, options: Sequence[_T]) -> _T: ...


class SeededSource:
    """Choices drawn from a numpy generator."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def integer(self, low: int, high: int) -> int:
        return int(self._rng.integers(low, high, endpoint=True))

    def choice(self, options: Sequence[_T]) -> _T:
        return options[self.integer(0, len(options) - 1)]


class DrawnSource:
    """Choices drawn by hypothesis, so that a failing graph shrinks."""

    def __init__(self, draw: Callable[[st.SearchStrategy[object]], object]) -> None:
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        value = self._draw(st.integers(low, high))
        assert isinstance(value, int)
        return value

    def choice(self, options: Sequence[_T]) -> _T:
        return options[self.integer(0, len(options) - 1)]


def _padding(sides: Sequence[tuple[int, int]]) -> Padding:
    """From (top, bottom), (left, right)."""
    (top, bottom), (left, right) = sides
    return Padding(top=top, bottom=bottom, left=left, right=right)


class GraphMaker:
    """Grows one graph, op by op; `finish` prunes what nothing reads and verifies."""

    def __init__(self, source: Source, name: str = "net") -> None:
        self.source = source
        self.name = name
        self.rng = np.random.default_rng(source.integer(0, 2**32 - 1))
        self.ops: list[Op] = []
        self.values: dict[str, npt.NDArray[Any]] = {}
        self.bounds: dict[str, Bound] = {}

    # -- small draws
    def often(self, percent: int) -> bool:
        """True with the given chance; the shrinker's simplest case is False."""
        return self.source.integer(1, 100) > 100 - percent

    def add(self, op: Op) -> Op:
        self.ops.append(op)
        self.values[op.name] = self.value(op)
        self.bounds[op.name] = output_bound(op, [self.bounds[name] for name in op.inputs])
        return op

    def value(self, op: Op) -> npt.NDArray[Any]:
        """The op's codes on a few images of noise: what constants are fitted to."""
        if isinstance(op, Input):
            return self.rng.integers(0, 255, (4, *op.out.shape), endpoint=True)
        return ORACLE[type(op)](op, [self.values[name] for name in op.inputs])

    def alive(self, op: Op) -> bool:
        """Whether the codes differ at all."""
        codes = self.values[op.name]
        return bool(codes.min() < codes.max())

    def fresh(self, kind: str) -> str:
        return f"{kind}{len(self.ops)}"

    def code_type(self) -> IntType:
        bits = self.source.integer(17, 32) if self.often(4) else self.source.integer(1, 16)
        return IntType(bits=bits, signed=self.often(50))

    def scale(self) -> float:
        return float(self.source.choice([0.5, 0.0078125, 0.1, 0.037, 3.0]))

    def pick(self, accept: Callable[[Op], bool] = lambda op: True) -> Op | None:
        """A random op that `accept` takes, the newest with half the chance."""
        fitting = [op for op in self.ops if accept(op)]
        if not fitting:
            return None
        living = [op for op in fitting if self.alive(op)]
        fitting = living if living and self.often(90) else fitting
        return fitting[-1] if self.often(60) else self.source.choice(fitting)

    # -- constants
    def _format(self, top: float) -> ConstantFormat:
        """A random format; a literal's I lies near what `top` needs, sometimes far from it."""
        match self.source.integer(0, 5):
            case 0:
                return AutoFormat(self.source.integer(2, 40))
            case 1:
                return ChannelFormat(self.source.integer(2, 34))
            case 2:
                return ShiftFormat()
            case _:
                width = self.source.choice([2, 3, 8, 12, 16, 18, 24, 27, 32, 32, 33, 48, 64])
                need = int(np.frexp(top)[1]) + 1
                integer = need + self.source.integer(-2, 4)
                if self.often(15):
                    integer = self.source.choice([-20, -7, -1, 0, width, width + 1, width + 9])
                integer = max(integer, width - 62)
                rounding = self.source.choice([Rounding.RND, Rounding.TRN, Rounding.RND_CONV])
                overflow = self.source.choice([Overflow.SAT, Overflow.WRAP])
                kind = FixedType(width=width, integer=integer, rounding=rounding, overflow=overflow)
                return LiteralFormat(kind)

    def _reals(self, count: int, top: float) -> npt.NDArray[np.float64]:
        """`count` reals up to `top` in magnitude, over a few binary decades, some of them 0."""
        values = self.rng.uniform(-1, 1, count) * top * 2.0 ** -self.rng.integers(0, 6, count)
        if self.often(25):
            values[self.rng.random(count) < 0.3] = 0.0
        if self.often(10):
            values[:] = 0.0
        if self.often(10):  # powers of two: sums land on ties
            values = np.sign(values) * 2.0 ** np.ceil(np.log2(np.abs(values) + 1e-9))
        return values

    def requant(self, inputs: Sequence[Op], kind: IntType) -> Requant:
        """Constants that spread the inputs over the output codes, ends included."""
        channels = inputs[0].out.channels
        rounding = self.source.choice([Rounding.RND, Rounding.RND, Rounding.TRN])
        lo, hi = self._limits(kind)
        bounds = tuple(self.bounds[op.name] for op in inputs)
        seen = tuple(max(1, int(abs(self.values[op.name]).max())) for op in inputs)
        for _ in range(4):
            terms = []
            for largest in seen:
                top = kind.hi * 2.0 ** self.source.integer(-1, 3) / largest
                count = 1 if self.often(20) else channels
                terms.append(self._format(top).quantize(self._reals(count, top), bias=False))
            bias = self._bias(kind, channels)
            made = Requant(terms=tuple(terms), bias=bias, out=kind, lo=lo, hi=hi, rounding=rounding)
            if made.sum_bits(bounds) <= MAX_SUM_BITS:
                return made
        form = AutoFormat(16)
        tops = [kind.hi / max(1, int(b.max())) for b in bounds]
        plain = tuple(form.quantize(self._reals(channels, top), bias=False) for top in tops)
        return Requant(
            terms=plain,
            bias=form.quantize(self._reals(channels, float(kind.hi)), bias=True),
            out=kind,
            lo=lo,
            hi=hi,
            rounding=rounding,
        )

    def _bias(self, kind: IntType, channels: int) -> Constants:
        count = 1 if self.often(20) else channels
        values = self._reals(count, float(kind.hi))
        if self.often(15):  # exact halves
            values = np.floor(values) + 0.5
        return self._format(float(kind.hi)).quantize(values, bias=True)

    def _limits(self, kind: IntType) -> tuple[int, int]:
        match self.source.integer(0, 5):
            case 0:  # ReLU
                return 0, kind.hi
            case 1:  # ReLU6
                return 0, self.source.integer(0, kind.hi)
            case 2:
                lo = self.source.integer(kind.lo, kind.hi)
                return lo, self.source.integer(lo, kind.hi)
            case _:
                return kind.lo, kind.hi

    # -- ops
    def start(self) -> None:
        shape = (self.source.integer(1, 9), self.source.integer(1, 9), self.source.integer(1, 4))
        spec = TensorSpec(shape=shape, type=IntType(bits=8, signed=False), scale=1 / 255)
        self.add(Input(name="pixels", inputs=(), out=spec))
        if self.often(90):  # else the next op takes the pixels themselves
            self.requantize([self.ops[0]])

    def requantize(self, inputs: Sequence[Op], kind: IntType | None = None, scale: float | None = None) -> Op:
        kind = kind or self.code_type()
        spec = TensorSpec(shape=inputs[0].out.shape, type=kind, scale=scale or self.scale())
        names = tuple(op.name for op in inputs)
        name = self.fresh("add" if len(inputs) > 1 else "requant")
        for _ in range(4):
            made = Requantize(name=name, inputs=names, out=spec, requant=self.requant(inputs, kind))
            codes = self.value(made)
            if codes.min() < codes.max() or self.often(10):
                break  # else: constants that leave nothing to compare
        return self.add(made)

    def _weights(self, shape: tuple[int, ...], kind: IntType) -> npt.NDArray[np.int64]:
        match self.source.integer(0, 6):
            case 0:  # the bound of the accumulator is reached
                weight = np.full(shape, self.source.choice([kind.lo, kind.hi]), np.int64)
            case 1:
                weight = self.rng.choice([kind.lo, 0, kind.hi], shape)
            case 2:
                weight = np.zeros(shape, np.int64)
                weight.flat[self.source.integer(0, weight.size - 1)] = kind.hi
            case _:
                weight = self.rng.integers(kind.lo, kind.hi, shape, endpoint=True)
        weight = np.ascontiguousarray(weight, dtype=np.int64)
        weight.setflags(write=False)
        return weight

    def _weight_type(self) -> IntType:
        return IntType(bits=self.source.integer(1, 16), signed=True)

    def conv(self, op: Op, outs: int | None = None, *, same_size: bool = False) -> Op | None:
        """A convolution of `op`; with `same_size`, stride 1 and the padding that keeps (H, W)."""
        h, w, channels = op.out.shape
        groups = channels if self.often(25) else self.source.choice(divisors(channels))
        if outs is None:
            outs = groups * self.source.integer(1, max(1, 8 // groups))
        elif outs % groups:
            groups = 1
        kernel, stride, dilation = [1, 1], [1, 1], [1, 1]
        sides = [(0, 0), (0, 0)]
        for axis, n in enumerate((h, w)):
            if same_size:
                kernel[axis] = self.source.integer(1, 5)
                dilation[axis] = self.source.choice([1, 1, 2])
                reach = dilation[axis] * (kernel[axis] - 1)
                before = reach // 2 if self.often(70) else self.source.integer(0, reach)
                sides[axis] = before, reach - before
                continue
            kernel[axis] = self.source.choice([1, 2, 3, 3, 4, 5])
            dilation[axis] = self.source.choice([1, 1, 1, 2, 3])
            reach = dilation[axis] * (kernel[axis] - 1)
            sides[axis] = self._sides(min(reach, 4) + self.often(10))
            stride[axis] = self.source.choice([1, 1, 2, 3])
            if reach >= n + sum(sides[axis]):
                kernel[axis] = dilation[axis] = 1
        kh, kw = kernel
        weight_type = self._weight_type()
        weight = self._weights((outs, kh, kw, channels // groups), weight_type)
        pairs = {
            "stride": (stride[0], stride[1]),
            "dilation": (dilation[0], dilation[1]),
        }
        padding = _padding(sides)
        size = pooled_size((h, w), (kh, kw), pairs["stride"], padding, pairs["dilation"])
        if size[0] * size[1] * outs > MAX_SIZE:
            return None
        kind = accumulator_type(weight, self.bounds[op.name], groups)
        if kind.bits > MAX_BITS:
            return None
        if self.often(10) and kind.bits + 5 <= MAX_BITS:  # wider than it must be
            kind = IntType(bits=kind.bits + self.source.integer(1, 5), signed=True)
        return self.add(
            Conv2d(
                name=self.fresh("depthwise" if groups == channels > 1 else "conv"),
                inputs=(op.name,),
                out=TensorSpec(shape=(*size, outs), type=kind),
                weight=weight,
                weight_type=weight_type,
                groups=groups,
                padding=padding,
                **pairs,
            )
        )

    def linear(self, op: Op) -> Op | None:
        weight_type = self._weight_type()
        weight = self._weights((self.source.integer(1, 12), op.out.size), weight_type)
        kind = accumulator_type(weight, self.bounds[op.name])
        if kind.bits > MAX_BITS:
            return None
        spec = TensorSpec(shape=(weight.shape[0],), type=kind)
        made = Linear(
            name=self.fresh("linear"), inputs=(op.name,), out=spec, weight=weight, weight_type=weight_type
        )
        return self.add(made)

    def pool(self, op: Op, *, total: bool) -> Op:
        h, w, channels = op.out.shape
        kernel, stride, sides = [1, 1], [1, 1], [(0, 0), (0, 0)]
        for axis, n in enumerate((h, w)):
            kernel[axis] = self.source.integer(1, min(n, 5))
            if total and self.often(40):
                kernel[axis] = n  # global
            sides[axis] = self._sides(kernel[axis] - 1 if self.often(20) else kernel[axis] // 2)
            stride[axis] = self.source.integer(1, 3)
        k, s = ((v[0], v[1]) for v in (kernel, stride))
        p = _padding(sides)
        shape = (*pooled_size((h, w), k, s, p), channels)
        source = op.out.type
        if not total:
            spec = TensorSpec(shape=shape, type=source, scale=op.out.scale)
            name = self.fresh("maxpool")
            return self.add(MaxPool(name=name, inputs=(op.name,), out=spec, kernel=k, stride=s, padding=p))
        kind = sum_type(self.bounds[op.name] * (k[0] * k[1]), signed=source.signed)
        spec = TensorSpec(shape=shape, type=kind)
        name = self.fresh("sumpool")
        return self.add(SumPool(name=name, inputs=(op.name,), out=spec, kernel=k, stride=s, padding=p))

    def _sides(self, most: int) -> tuple[int, int]:
        """Padding before and after a map along one axis, often alike."""
        before = self.source.integer(0, most)
        return before, before if self.often(50) else self.source.integer(0, most)

    def pad(self, op: Op) -> Op | None:
        """In space, in channels or both."""
        h, w, channels = op.out.shape
        padding, before, after = Padding(), 0, 0
        if self.often(60):
            padding = _padding([self._sides(3), self._sides(3)])
        if not padding or self.often(40):
            before, after = self._sides(3)
        shape = (*padding.padded((h, w)), before + channels + after)
        if shape[0] * shape[1] * shape[2] > MAX_SIZE:
            return None
        return self.add(
            Pad(
                name=self.fresh("pad"),
                inputs=(op.name,),
                out=dataclasses.replace(op.out, shape=shape),
                padding=padding,
                before=before,
                after=after,
            )
        )

    def concat(self, inputs: Sequence[Op]) -> Op:
        first = inputs[0].out
        channels = sum(op.out.channels for op in inputs)
        spec = TensorSpec(shape=(*first.shape[:-1], channels), type=first.type, scale=first.scale)
        return self.add(Concat(name=self.fresh("concat"), inputs=tuple(op.name for op in inputs), out=spec))

    def flatten(self, op: Op) -> Op:
        spec = TensorSpec(shape=(op.out.size,), type=op.out.type, scale=op.out.scale)
        return self.add(Flatten(name=self.fresh("flatten"), inputs=(op.name,), out=spec))

    # -- steps: one or a few ops each; a step that does not fit adds nothing
    def step_conv(self) -> None:
        op = self.pick(self._feeds_conv)
        made = self.conv(op) if op else None
        if made:
            self.requantize([made])

    def step_batch_norm(self) -> None:
        """A requantisation of codes to codes."""
        op = self.pick()
        assert op is not None
        self.requantize([op])

    def step_residual(self) -> None:
        """Accumulator and codes (or another accumulator) into one rounding."""
        op = self.pick(self._feeds_conv)
        if op is None:
            return
        branch = self.conv(op, op.out.channels, same_size=True)
        if branch is None:
            return
        terms = [branch, op]
        if self.often(30):
            other = self.conv(op, op.out.channels, same_size=True)
            terms = [branch, other] if other else terms
        if self.often(50):
            terms.reverse()
        self.requantize(terms)

    def step_add(self) -> None:
        """Two to four terms of one shape, the same op twice when there is no other."""
        op = self.pick()
        assert op is not None
        same = [o for o in self.ops if o.out.shape == op.out.shape]
        count = self.source.integer(1, 3)
        self.requantize([op, *(self.source.choice(same) for _ in range(count))])

    def step_concat(self) -> None:
        op = self.pick()
        assert op is not None
        if self.often(25):
            self.concat([op] * self.source.integer(2, 3))
            return
        near = [o for o in self.ops if o.out.shape[:-1] == op.out.shape[:-1]]
        kind, scale = self.code_type(), self.scale()
        count = self.source.integer(2, 3)
        parts = [self.requantize([self.source.choice(near)], kind, scale) for _ in range(count)]
        self.concat(parts)

    def step_pool(self) -> None:
        total = self.often(50)
        narrow = MAX_BITS - 6 if total else MAX_BITS
        op = self.pick(lambda o: len(o.out.shape) == 3 and o.out.type.bits <= narrow)
        if op is None:
            return
        made = self.pool(op, total=total)
        if total and self.often(60):
            self.requantize([made])

    def step_pad(self) -> None:
        """Alone, or before what could pad itself."""
        op = self.pick(lambda o: len(o.out.shape) == 3 and o.out.size <= MAX_SIZE // 2)
        made = None if op is None else self.pad(op)
        if made is None:
            return
        match self.source.integer(0, 3):
            case 0 if self._feeds_conv(made):
                sums = self.conv(made)
            case 1 if made.out.type.bits <= MAX_BITS - 6:
                sums = self.pool(made, total=True)
            case 2:
                sums = self.pool(made, total=False)
            case _:
                return
        if sums is not None and not isinstance(sums, MaxPool):
            self.requantize([sums])

    def step_flatten(self) -> None:
        op = self.pick(lambda o: len(o.out.shape) == 3 or not isinstance(o, Linear))
        if op is None:
            return
        if len(op.out.shape) == 3:
            op = self.flatten(op)
        if not isinstance(self._producer(op), Conv2d | Linear) and self.often(70):
            made = self.linear(op)
            if made:
                self.requantize([made])

    def _feeds_conv(self, op: Op) -> bool:
        return len(op.out.shape) == 3 and not isinstance(self._producer(op), Conv2d)

    def _producer(self, op: Op) -> Op:
        """What computed the codes that shape-only ops pass on."""
        while isinstance(op, Flatten | Pad | Concat | MaxPool):
            op = next(o for o in self.ops if o.name == op.inputs[0])
        return op

    def finish(self) -> Graph:
        last = self.ops[-1]
        if isinstance(last, Input) or self.often(50):
            last = self.requantize(
                [last], IntType(bits=self.source.choice([8, 16, 32]), signed=True), 2.0**-9
            )
        self.add(Output(name="logits", inputs=(last.name,), out=last.out))
        wanted = {"logits", "pixels"}
        for op in reversed(self.ops):
            if op.name in wanted:
                wanted.update(op.inputs)
        graph = Graph(name=self.name, ops=tuple(op for op in self.ops if op.name in wanted))
        verify(graph)
        return graph


STEPS = (
    GraphMaker.step_conv,
    GraphMaker.step_conv,
    GraphMaker.step_residual,
    GraphMaker.step_batch_norm,
    GraphMaker.step_add,
    GraphMaker.step_concat,
    GraphMaker.step_pool,
    GraphMaker.step_pool,
    GraphMaker.step_pad,
    GraphMaker.step_flatten,
)


def make_graph(source: Source, name: str = "net", max_steps: int = 7) -> Graph:
    """A random graph of legal ops, a dozen or so."""
    maker = GraphMaker(source, name)
    maker.start()
    for _ in range(source.integer(2, max_steps)):
        if len(maker.ops) >= 11:
            break
        step = source.choice(STEPS)
        newest_is_vector = len(maker.ops[-1].out.shape) == 1
        if newest_is_vector and maker.often(70):
            step = source.choice((GraphMaker.step_add, GraphMaker.step_concat, GraphMaker.step_flatten))
        step(maker)
    return maker.finish()


def seeded_graph(seed: int, name: str | None = None) -> Graph:
    """The random graph of a seed: the same on every machine with the same numpy."""
    return make_graph(SeededSource(seed), name or f"net{seed}")


@st.composite
def graphs(draw: Callable[[st.SearchStrategy[object]], object]) -> Graph:
    """Hypothesis strategy of `make_graph`."""
    return make_graph(DrawnSource(draw))


def random_pixels(graph: Graph, count: int, seed: int) -> npt.NDArray[np.uint8]:
    """(count, H, W, C) uint8: noise, then all black and all white among the first images."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, (count, *graph.input.out.shape), dtype=np.uint8, endpoint=True)
    if count > 2:
        pixels[0], pixels[1] = 0, 255
    return pixels


def random_folding(graph: Graph, source: Source) -> dict[str, Folding]:
    """Any legal folding for some of the layers; the default folding does the others."""
    found: dict[str, Folding] = {}
    for op in graph:
        if isinstance(op, Conv2d | Linear) and source.integer(0, 3):
            pe, simd = (source.choice(divisors(whole)) for whole in limits(op))
            found[op.name] = Folding(pe, simd)
    return found


def changed_weight(graph: Graph) -> Graph:
    """The same graph with one weight code of its first convolution changed by 1, still legal."""
    op = next(op for op in graph if isinstance(op, Conv2d))
    weight = op.weight.copy()
    at = (0, weight.shape[1] // 2, weight.shape[2] // 2, 0)
    weight[at] += 1 if weight[at] < op.weight_type.hi else -1
    fields = {f.name: getattr(op, f.name) for f in dataclasses.fields(op)}
    changed = Conv2d(**{**fields, "weight": weight})
    return Graph(name=graph.name, ops=tuple(changed if o is op else o for o in graph.ops))
