"""Mean loss and share of hits over an epoch, of all processes, without waiting for the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hwq.train.distributed import World


class Meter:
    """`note` right after the forward pass, `read` once the backward pass is under way.

    On a GPU the numbers travel while the backward pass computes, so that reading them every step (a loss
    that is no number must stop the step) leaves the device busy.
    """

    def __init__(self, world: World, device: torch.device) -> None:
        self.world = world
        self.lost, self.right, self.seen = 0.0, 0, 0
        self._numbers = torch.zeros(4, dtype=torch.float64, pin_memory=device.type == "cuda")
        self._arrived = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def note(self, loss: Tensor, logits: Tensor, labels: Tensor, stop: bool) -> None:
        """loss: mean over this process's images. stop: whether this process was asked to stop."""
        count = len(labels)
        numbers = logits.new_empty(4, dtype=torch.float64)
        numbers[0].copy_(loss.double() * count)
        numbers[1].copy_((logits.argmax(1) == labels).sum())
        numbers[2].fill_(count)
        numbers[3].fill_(stop)
        self._numbers.copy_(self.world.sum(numbers), non_blocking=True)
        if self._arrived is not None:
            self._arrived.record()

    def read(self) -> tuple[float, bool]:
        """(mean loss of the step over all images, whether any process was asked to stop)."""
        if self._arrived is not None:
            self._arrived.synchronize()
        lost, right, count, stop = self._numbers.tolist()
        if math.isfinite(lost):
            self.lost, self.right, self.seen = (
                self.lost + lost,
                self.right + int(right),
                self.seen + int(count),
            )
        return lost / count, stop > 0

    @property
    def loss(self) -> float:
        """Mean of the epoch so far."""
        return self.lost / max(1, self.seen)

    @property
    def accuracy(self) -> float:
        """Percent right of the epoch so far, on the augmented images as they came."""
        return 100 * self.right / max(1, self.seen)

    def clear(self) -> None:
        """A new epoch."""
        self.lost, self.right, self.seen = 0.0, 0, 0
