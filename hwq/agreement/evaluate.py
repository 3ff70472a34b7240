"""A whole split through the trained network and through its integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import fx

from hwq.agreement.answers import compare_answers
from hwq.agreement.facts import Agreement
from hwq.agreement.layers import code_agreement
from hwq.agreement.measure import CODE_IMAGES, predictions, trained_network
from hwq.data import Split
from hwq.lower import Lowered
from hwq.simulate import LogitRange, LogitWatch, Runner
from hwq.train import Meta, Normalise

BATCH = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """Both accuracies and what differs, and the integers' logits against their type."""

    agreement: Agreement
    logits: LogitRange

    def lines(self) -> list[str]:
        """What was found, without what is wrong."""
        return [*([] if self.logits.clipped else [str(self.logits)]), *self.agreement.lines()]

    def warnings(self) -> list[str]:
        """Loud lines."""
        return [*self.logits.warnings(), *self.agreement.warnings()]


def evaluate_integers(
    model: fx.GraphModule,
    meta: Meta,
    lowered: Lowered,
    runner: Runner,
    images: Split,
    *,
    code_images: int = CODE_IMAGES,
    progress: Callable[[int], object] = lambda images: None,
) -> Evaluated:
    """Of all images; codes of layers on `code_images` spread over them. runner: an engine of `lowered.graph`,
    which is of `model`. Raises InputError for images of another shape.
    """
    network, name = trained_network(model, meta)
    normalise, watch = Normalise(meta.mean, meta.std, "cpu"), LogitWatch(lowered.graph)
    trained, integers, done = [], [], 0
    for pixels, _ in images.batches(BATCH):
        trace = runner.run(pixels)
        watch.add_run(runner, pixels, trace.logits)
        integers.append(trace.predictions)
        trained.append(predictions(network, pixels, normalise))
        done += len(pixels)
        progress(done)
    few = images.head(min(code_images, len(images))) if code_images else None
    agreement = Agreement(
        trained=name,
        answers=compare_answers(np.concatenate(trained), np.concatenate(integers), images.labels),
        layers=() if few is None else code_agreement(model, lowered, runner, few.pixels, normalise),
        code_images=0 if few is None else len(few),
    )
    return Evaluated(agreement=agreement, logits=watch.result())
