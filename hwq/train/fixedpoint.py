"""The last part of a training in which constants are what hardware stores: [fixed] in a recipe."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import fx

from hwq.errors import InputError
from hwq.fixed import Rounding, parse_edge, parse_format
from hwq.lower import Formats
from hwq.quant import Policy, estimate_norms
from hwq.quant.calibration.align import Aligned, align, settle
from hwq.quant.calibration.bias import fitting
from hwq.quant.fixedpoint.folded import FoldedNetwork
from hwq.quant.methods.observing import ObservingAct
from hwq.quant.placing.steps import own_steps, with_steps
from hwq.train.batches import Batches
from hwq.train.checkpoint import Meta
from hwq.train.schedule import EPOCHS, IMAGES, short


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPoint:
    """format, edge, round: as `hwq export` has them. epochs: the last so many train like that.

    epochs None: all of them where the run starts from one with the same [quant], else a third. align:
    first choose scales that suit the format. images: of the training split, for that.
    """

    format: str
    edge: str = "32,16"
    round: str = "rnd"
    epochs: int | None = None
    align: bool = True
    images: int = 256

    def __post_init__(self) -> None:
        self.formats()
        if self.epochs is not None and not 0 <= self.epochs <= EPOCHS:
            raise InputError(f"[fixed] epochs must be 0 to {EPOCHS:,}, not {short(self.epochs)}")
        if not 2 <= self.images <= IMAGES:
            raise InputError(f"[fixed] images must be 2 to {IMAGES:,}, not {short(self.images)}")

    def formats(self) -> Formats:
        """Raises InputError for what is no format."""
        if self.round not in ("rnd", "trn"):
            raise InputError(f"[fixed] round must be rnd or trn, not '{self.round}'")
        rounding = Rounding(self.round.upper())
        return Formats(body=parse_format(self.format), edge=parse_edge(self.edge), rounding=rounding)

    def first_epoch(self, epochs: int, *, trained: bool) -> int:
        """How many epochs of `epochs` are over when it begins. trained: the start was quantised already."""
        own = self.epochs
        if own is None:
            own = epochs if trained else math.ceil(epochs / 3)
        return max(0, epochs - own)

    def policy(self, policy: Policy) -> Policy:
        """That of the network from then on."""
        return with_steps(policy) if self.align else policy

    def __str__(self) -> str:
        return self.format + (", floor" if self.round == "trn" else "")


def folded(model: fx.GraphModule, fixed: FixedPoint, meta: Meta) -> FoldedNetwork:
    """The network as the format has it, with the parameters of `model`."""
    return FoldedNetwork(model, fixed.formats(), meta.mean, meta.std)


def begin(
    model: fx.GraphModule,
    fixed: FixedPoint,
    meta: Meta,
    batches: Batches,
    *,
    bn_estimate: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[FoldedNetwork, Aligned | None]:
    """Turn a quantised network into one to train at the format; in place. Batch norms stay as they are,
    or as `bn_estimate` images have them. Raises InputError, before anything changed.
    """
    network = folded(model, fixed, meta)
    with torch.no_grad():
        if bn_estimate:
            estimate_norms(model, batches.sample(bn_estimate))
    for module in model.modules():
        if isinstance(module, ObservingAct):
            module.settle()
    if not fixed.align:
        return network, None
    sample = batches.sample(fixed.images)
    if not sample:
        raise InputError("[fixed] needs at least 2 training images")
    own_steps(model)
    network = folded(model, fixed, meta)
    done = align(network, fitting(network.graph_module, sample), progress=progress)
    settle(network)
    return network, done


def go_on(model: fx.GraphModule, fixed: FixedPoint, meta: Meta) -> FoldedNetwork:
    """What `begin` returned, for a network that a checkpoint of later has filled or will fill."""
    network = folded(model, fixed, meta)
    if fixed.align:
        settle(network)
    return network


def changed(meta: Meta, fixed: FixedPoint) -> Meta:
    """The description of the network that `begin` made."""
    return replace(meta, policy=fixed.policy(meta.policy))
