"""A network of one depthwise layer with chosen real constants, stored in any format without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq.fixed import AutoFormat, ConstantFormat, IntType
from hwq.ir import (
    Conv2d,
    Graph,
    Input,
    Op,
    Output,
    Requant,
    Requantize,
    TensorSpec,
    accumulator_type,
    verify,
)
from hwq.lower import ConstantIssue, Formats, Lowered, LowerReport, RealConstants, constant_issues
from hwq.simulate.oracle import run_oracle

S8, U8, S12 = IntType(bits=8, signed=True), IntType(bits=8, signed=False), IntType(bits=12, signed=True)
BODY, SKIP = "act", "sum"


def network(
    multipliers: Sequence[float], biases: Sequence[float], weights: Sequence[int], skip: float | None = None
) -> Callable[[Formats], Lowered]:
    """pixels (1, 1, C) -> x = pixels - 128 -> w * x -> `act`, 12 signed bits -> logits.

    skip: multiplier of x in a second requantisation `sum` of (w * x, x), in place of `act`.
    """

    def lower(formats: Formats) -> Lowered:
        channels = len(weights)
        shape = (1, 1, channels)
        ops: list[Op] = [Input(name="pixels", inputs=(), out=TensorSpec(shape=shape, type=U8, scale=1.0))]
        real: dict[str, RealConstants] = {}
        names: dict[str, tuple[str, ...]] = {}
        issues: list[ConstantIssue] = []

        def requantize(
            name: str,
            inputs: tuple[str, ...],
            constants: RealConstants,
            form: ConstantFormat | None,
            kind: IntType,
        ) -> None:
            names[name] = (name, "layer") if form is None else (name,)
            used = form or formats.of(names[name])
            requant = Requant(
                terms=tuple(used.quantize(m, bias=False) for m in constants.terms),
                bias=used.quantize(constants.bias, bias=True),
                out=kind,
                lo=kind.lo,
                hi=kind.hi,
                rounding=formats.rounding,
            )
            real[name] = constants
            known = Graph(name="so far", ops=tuple(ops)).bounds
            bounds = tuple(known[i] for i in inputs)
            issues.extend(constant_issues(name, inputs, bounds, constants, requant, used))
            spec = TensorSpec(shape=shape, type=kind, scale=1.0)
            ops.append(Requantize(name=name, inputs=inputs, out=spec, requant=requant))

        def reals(*vectors: Any) -> RealConstants:
            *terms, bias = (np.array(v, dtype=np.float64) for v in vectors)
            return RealConstants(terms=tuple(terms), bias=bias)

        requantize("image", ("pixels",), reals([1.0], [-128.0]), formats.edge, S8)
        weight = np.array(weights, dtype=np.int64).reshape(channels, 1, 1, 1)
        out = TensorSpec(shape=shape, type=accumulator_type(weight, S8))
        ops.append(
            Conv2d(name="conv", inputs=("image",), out=out, weight=weight, weight_type=S8, groups=channels)
        )
        if skip is None:
            last = BODY
            requantize(last, ("conv",), reals(multipliers, biases), None, S12)
        else:
            last = SKIP
            requantize(last, ("conv", "image"), reals(multipliers, [skip], biases), None, S12)
        requantize("logits", (last,), reals([1.0], [0.0]), AutoFormat(40), S12)
        ops.append(Output(name="out", inputs=("logits",), out=ops[-1].out))
        graph = Graph(name="hand", ops=tuple(ops))
        verify(graph)
        report = LowerReport(issues=tuple(issues), real=real, names=names)
        return Lowered(graph=graph, report=report)

    return lower


def images(channels: int, count: int = 256) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Every pixel value in every channel, in another order each; labels of no meaning."""
    rng = np.random.default_rng(1)
    pixels = np.stack([rng.permutation(count) for _ in range(channels)], axis=-1).astype(np.uint8)
    return pixels.reshape(count, 1, 1, channels), rng.integers(0, channels, count)


def real_codes(pixels: npt.NDArray[np.uint8], lowered: Lowered, op: str = BODY) -> npt.NDArray[np.int64]:
    """Codes of the body's requantisation with real constants, straight from its equation."""
    values = run_oracle(lowered.graph, pixels)
    body = lowered.graph[op]
    real = lowered.report.real[op]
    total = sum(values[i] * m for i, m in zip(body.inputs, real.terms, strict=True)) + real.bias
    return np.clip(np.floor(total + 0.5), S12.lo, S12.hi).astype(np.int64)


def share_wrong(pixels: npt.NDArray[np.uint8], lowered: Lowered, op: str = BODY) -> float:
    """Share of the body's codes that differ from those, in the network as it was lowered."""
    return float(np.mean(run_oracle(lowered.graph, pixels)[op] != real_codes(pixels, lowered, op)))
