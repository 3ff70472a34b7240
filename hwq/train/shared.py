"""One network in several processes: gradients are averaged, batch norms see the whole batch."""

from __future__ import annotations

import warnings

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hwq.train.distributed import World
from hwq.train.syncnorm import SharedNorm1d, SharedNorm2d, share_norms


class Shared:
    """`network`: the model as a step runs it. Alone it is the model itself.

    Parameters and buffers start as rank 0's. sync_bn: batch norms over the whole batch; without it each
    process normalises its own part, and running statistics are averaged. frozen: no buffer ever changes.
    """

    def __init__(self, model: nn.Module, world: World, *, sync_bn: bool, frozen: bool = False) -> None:
        self.world = world
        self.network = model
        self._buffers: list[Tensor] = []
        if world.alone:
            return
        if sync_bn and not frozen:
            share_norms(model)
        alike = {
            id(b) for m in model.modules() if isinstance(m, SharedNorm1d | SharedNorm2d) for b in m.buffers()
        }
        if not frozen:
            self._buffers = [b for b in model.buffers() if b.is_floating_point() and id(b) not in alike]
        world.spread(list(model.buffers()))
        with warnings.catch_warnings():
            # buffers are settled after the step, so that every process holds what a checkpoint holds;
            # newer versions of torch have another word for this
            warnings.simplefilter("ignore", FutureWarning)
            self.network = DistributedDataParallel(model, broadcast_buffers=False)
        # of 1x1 convolutions, whose two memory layouts are the same
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")

    def settle(self) -> None:
        """After a step: what each process has noted about its own part becomes their mean."""
        self.world.average(self._buffers)
