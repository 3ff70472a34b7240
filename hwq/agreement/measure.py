"""A trained network against its integers, on some images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from hwq.agreement.answers import compare_answers
from hwq.agreement.facts import Agreement
from hwq.agreement.layers import Normalise, Pixels, code_agreement
from hwq.errors import HwqError
from hwq.ir import Graph
from hwq.lower import Lowered
from hwq.passes import run_passes
from hwq.serde import dump
from hwq.simulate import Runner
from hwq.train import Normalise as Normalisation
from hwq.train import restore
from hwq.train.checkpoint import LAST, Meta
from hwq.train.fixedpoint import FixedPoint, folded
from hwq.train.trust import Trust

IMAGES = 250
"""Images for the answers, where nobody says otherwise."""
CODE_IMAGES = 100
"""Most images for the codes of layers: millions of codes, and a second's work for a ResNet-20."""
BATCH = 50
UNKNOWN = "not compared with the trained network"

Lower = Callable[[fx.GraphModule, Meta], Lowered]
"""Lowers a restored network, also where constants saturate or vanish."""


def trained_network(model: fx.GraphModule, meta: Meta) -> tuple[nn.Module, str]:
    """(what training evaluated, in words): with fixed-point constants where it was trained for them."""
    if "fixed" in meta.accuracy and meta.recipe.get("fixed"):
        return folded(model, FixedPoint(**meta.recipe["fixed"]), meta), "fixed-point trained"
    return model, "float" if meta.policy.floats else "fake-quantised"


def predictions(network: nn.Module, pixels: Pixels, normalise: Normalise) -> npt.NDArray[np.int64]:
    """Classes (N,) in float32, eval mode; ties take the lowest."""
    network.eval()
    found = []
    with torch.inference_mode():
        for first in range(0, len(pixels), BATCH):
            part = torch.from_numpy(np.ascontiguousarray(pixels[first : first + BATCH]))
            logits = network(normalise(part)).flatten(1).numpy()
            found.append(logits.argmax(axis=1).astype(np.int64))
    return np.concatenate(found)


def measure(
    model: fx.GraphModule,
    meta: Meta,
    lowered: Lowered,
    runner: Runner,
    pixels: Pixels,
    integers: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64] | None,
    *,
    code_images: int = CODE_IMAGES,
) -> Agreement:
    """Answers on all images (N, H, W, C), codes on `code_images` spread over them.

    integers: the classes (N,) that the integers gave. runner: an engine of `lowered.graph`, of `model`.
    """
    network, name = trained_network(model, meta)
    normalise = Normalisation(meta.mean, meta.std, "cpu")
    few = some(len(pixels), code_images)
    layers = code_agreement(model, lowered, runner, pixels[few], normalise) if len(few) else ()
    return Agreement(
        trained=name,
        answers=compare_answers(predictions(network, pixels, normalise), integers, labels),
        layers=layers,
        code_images=len(few),
    )


def some(total: int, wanted: int) -> npt.NDArray[np.int64]:
    """`wanted` of `total` indices, spread evenly; all where there are fewer."""
    count = min(total, wanted)
    return np.arange(count, dtype=np.int64) * total // max(1, count)


def of_project(
    project: Path,
    graph: Graph,
    lower: Lower,
    make: Callable[[Graph], Runner],
    pixels: Pixels,
    integers: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64] | None,
    *,
    images: int = IMAGES,
    trust: Trust | None = None,
) -> Agreement | str:
    """Of an exported project, on `images` of those run; or why not, in words.

    project: RUN/hls, whose graph is `graph`, beside a checkpoint that lowers to that very graph. make: an
    engine. trust: of the model file that the checkpoint names.
    """
    checkpoint = project.resolve().parent / LAST
    if not checkpoint.is_file():
        return f"{UNKNOWN}: no {LAST} in {project.parent}, and a project has integers only"
    try:
        model, meta = restore(checkpoint, trust)
        lowered = lower(model, meta)
    except HwqError as error:
        return f"{UNKNOWN}: {error}"
    if dump(run_passes(lowered.graph)) != dump(graph):
        return (
            f"{UNKNOWN}: {checkpoint} is not what this project was exported from "
            "(trained since, or by another version of hwq?); export again"
        )
    few = some(len(pixels), images)
    chosen = None if labels is None else labels[few]
    return measure(model, meta, lowered, make(lowered.graph), pixels[few], integers[few], chosen)
