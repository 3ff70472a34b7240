"""Small graphs and runs that the sweep's tests share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hwq.data import DataSpec, load_split
from hwq.fixed import AutoFormat, ConstantFormat, IntType, parse_edge
from hwq.ir import Graph, Input, Output, Requant, Requantize, TensorSpec, verify
from hwq.lower import RealConstants
from hwq.models import build
from hwq.quant import Policy, calibrate, prepare
from hwq.sweep import Candidate, Network, Point
from hwq.train.checkpoint import Meta, save_checkpoint

S8, U8 = IntType(bits=8, signed=True), IntType(bits=8, signed=False)
EDGE = parse_edge("32,16")
REALS = [(1.0, -128.0), (0.61803, 0.3), (0.5, 0.0)]
"""(M, B) of three requantisations in a row: input, body, logits."""


def chain(
    reals: Sequence[tuple[float, float]], forms: Sequence[ConstantFormat], channels: int
) -> tuple[Graph, dict[str, RealConstants]]:
    """pixels (1, 1, channels) -> r0 -> r1 ... -> output, and each one's real (M, B)."""
    spec = TensorSpec(shape=(1, 1, channels), type=U8, scale=1.0)
    ops: list[Any] = [Input(name="pixels", inputs=(), out=spec)]
    real = {}
    for i, ((m, b), used) in enumerate(zip(reals, forms, strict=True)):
        name = f"r{i}"
        requant = Requant(
            terms=(used.quantize(np.array([m]), bias=False),),
            bias=used.quantize(np.array([b]), bias=True),
            out=S8,
            lo=S8.lo,
            hi=S8.hi,
        )
        out = TensorSpec(shape=spec.shape, type=S8, scale=1.0)
        ops.append(Requantize(name=name, inputs=(ops[-1].name,), out=out, requant=requant))
        real[name] = RealConstants(terms=(np.array([m]),), bias=np.array([b]))
    ops.append(Output(name="out", inputs=(ops[-1].name,), out=ops[-1].out))
    graph = Graph(name="chain", ops=tuple(ops))
    verify(graph)
    return graph, real


def three_steps(form: ConstantFormat, classes: int = 2) -> Candidate:
    """Three requantisations, the second in `form`."""
    graph, real = chain(REALS, (AutoFormat(40), form, AutoFormat(40)), classes)
    return Candidate(graph=graph, real=real, saturated=1, vanished=2, harmful=Counter(r1=3))


def lower_three(point: Point) -> Candidate:
    return three_steps(point.formats(EDGE).body)


def images(count: int = 150) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 1, 1, 2), dtype=np.uint8), rng.integers(0, 2, count)


def network(lower: Any = lower_three, checkpoint: str = "abc", error_images: int = 1000) -> Network:
    return Network.of(checkpoint, "random", EDGE, lower, *images(), error_images=error_images)


def digits_run(folder: Path, model_name: str = "digits") -> Path:
    """A run folder of an untrained network for digits."""
    torch.manual_seed(0)
    spec = DataSpec(name="digits")
    train = load_split(spec, "train")
    model: nn.Module = prepare(build(model_name, train.shape, 10), Policy(), train.shape)
    batch = torch.from_numpy(train.pixels[:64]).float().permute(0, 3, 1, 2) / 255 * 2 - 1
    calibrate(model, [batch])
    meta = Meta(
        model=model_name,
        image_shape=train.shape,
        classes=train.classes,
        data=spec,
        mean=(0.5,),
        std=(0.5,),
        policy=Policy(),
        recipe={},
    )
    save_checkpoint(folder / "checkpoint.safetensors", meta, model, {})
    return folder
