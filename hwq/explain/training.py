"""The edges of a network on images of its training split: what an export says of them."""

from __future__ import annotations

from hwq.data import DataSpec, Split, load_split
from hwq.engine import simulator
from hwq.errors import InputError
from hwq.explain.edge import EdgeFacts, edge_facts
from hwq.fixed import LiteralFormat
from hwq.lower import Lowered
from hwq.simulate import logit_sources

IMAGES = 256
THRESHOLD = 0.01
"""Share of the input's codes that its constants may change, as `hwq explain` has it."""


def look_at_edges(
    lowered: Lowered,
    edge: LiteralFormat,
    spec: DataSpec,
    shape: tuple[int, int, int],
    test: Split | None,
) -> tuple[EdgeFacts | None, str]:
    """(what holds on `IMAGES` training images, a note where test ones took their place or there are none).

    lowered: with `edge`. shape: (H, W, C) of an image. test: what stands in where training's are not here.
    """
    images, note = _training(spec, shape), ""
    if images is None:
        note = "no training images here: logits are those of test images"
        images = test
    if images is None or not logit_sources(lowered.graph):
        return None, "no images here: the logits' range is not known"
    pixels = images.head(IMAGES).pixels
    outputs = simulator(lowered.graph).run(pixels, keep=logit_sources(lowered.graph)).outputs
    return edge_facts(lowered, edge, pixels, outputs, THRESHOLD), note


def _training(spec: DataSpec, shape: tuple[int, int, int]) -> Split | None:
    """The training split; folders are not decoded whole for a few images."""
    try:
        found = load_split(spec, "train", files=True, workers=0)
        # what a folder of grey images holds is known once all are decoded
        found = found if found.shape == shape else load_split(spec, "train")
    except InputError:
        return None
    return found if found.shape == shape else None
