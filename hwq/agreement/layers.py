"""Codes of the fake-quantised network against the integers', layer by layer, each on equal inputs.

The network runs node by node; every quantiser's result is compared with the integers' and then replaced by
them, so that each layer computes on what the integers computed on, and no difference reaches the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from hwq.agreement.facts import LayerCodes
from hwq.ir import Concat
from hwq.lower import Codes, Lowered
from hwq.quant import ActQuantizer
from hwq.simulate import Runner

BATCH = 50
"""Images whose codes are held at once."""

Pixels = npt.NDArray[np.uint8]
Normalise = Callable[[Tensor], Tensor]
"""uint8 pixels (N, H, W, C) -> float32 images (N, C, H, W)."""


def code_agreement(
    model: fx.GraphModule, lowered: Lowered, runner: Runner, pixels: Pixels, normalise: Normalise
) -> tuple[LayerCodes, ...]:
    """Of every quantiser that is on, in order. pixels: (N, H, W, C).

    lowered: of this very model. runner: an engine of its graph. Codes behind the pools that follow a
    quantiser in the graph are compared there, where torch has them, too.
    """
    places = _places(model, lowered)
    counts: dict[str, tuple[int, int]] = {}
    names = {codes.op for codes, _ in places.values()}
    for first in range(0, len(pixels), BATCH):
        part = pixels[first : first + BATCH]
        fed = _Fed(model, places, runner.run(part, keep=names).outputs, counts)
        with torch.inference_mode():
            fed.run(normalise(torch.from_numpy(np.ascontiguousarray(part))))
    return tuple(LayerCodes(op=op, values=values, differing=wrong) for op, (values, wrong) in counts.items())


def _places(model: fx.GraphModule, lowered: Lowered) -> dict[str, tuple[Codes, ActQuantizer | None]]:
    """By node: the integers to put in its place, and the quantiser whose codes are compared with them."""
    found: dict[str, tuple[Codes, ActQuantizer | None]] = {}
    for node in model.graph.nodes:
        codes = lowered.codes.get(node.name)
        if codes is None:
            continue
        module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, ActQuantizer):
            found[node.name] = codes, None if module.off else module
        elif isinstance(lowered.graph[codes.op], Concat):
            found[node.name] = codes, None  # its parts may have got a common scale
    return found


class _Fed(fx.Interpreter):
    def __init__(
        self,
        model: fx.GraphModule,
        places: Mapping[str, tuple[Codes, ActQuantizer | None]],
        integers: Mapping[str, npt.NDArray[Any]],
        counts: dict[str, tuple[int, int]],
    ) -> None:
        super().__init__(model)
        self.places, self.integers, self.counts = places, integers, counts

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name not in self.places:
            return result
        codes, quantizer = self.places[n.name]
        right = _as_torch(codes, self.integers[codes.op], result)
        scale = float(np.prod(codes.factors))
        if quantizer is None:
            return (right * scale).to(result.dtype)
        got = torch.floor(result.double() / scale + 0.5)
        wrong = got != right
        values, differing = self.counts.get(codes.op, (0, 0))
        self.counts[codes.op] = values + wrong.numel(), differing + int(wrong.sum())
        # where both agree the value stays as torch has it, to the last bit
        return torch.where(wrong, (right * scale).to(result.dtype), result)


def _as_torch(codes: Codes, integers: npt.NDArray[Any], like: Tensor) -> Tensor:
    """Codes (N, H, W, C) or (N, n) as float64 in torch's layout."""
    values = torch.from_numpy(integers.astype(np.float64))
    if values.dim() == 4:
        values = values.permute(0, 3, 1, 2)
    elif codes.order is not None:
        spread = torch.empty_like(values)
        spread[:, torch.from_numpy(codes.order)] = values
        values = spread
    return values.reshape(like.shape)
