"""Batches from a whole data set on the device: order, crops and flips depend only on seed and position."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from hwq.data import Images
from hwq.train.recipe import Schedule
from hwq.train.restore import Normalise


class Batches:
    """Training batches as (images (B, C, H, W) float32, labels (B,)).

    Epoch e's order and step i's augmentation come from generators seeded by (seed, e, i), so that a
    resumed run sees exactly the batches that the interrupted one would have seen.
    """

    def __init__(
        self, images: Images, schedule: Schedule, normalise: Normalise, device: torch.device | str
    ) -> None:
        self.pixels = torch.from_numpy(images.pixels).to(device)
        self.labels = torch.from_numpy(images.labels).to(device)
        self.schedule, self.normalise, self.device = schedule, normalise, device
        count = len(images)
        # a last batch of a few images would disturb BN: left out, its images come in another epoch
        self.batch = min(schedule.batch, count)
        self.steps = count // self.batch

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch from step `first` on."""
        order = torch.randperm(len(self.labels), generator=self._generator(epoch, 0))
        for step in range(first, self.steps):
            chosen = order[step * self.batch : (step + 1) * self.batch].to(self.device)
            pixels = self._augment(self.pixels[chosen], self._generator(epoch, step + 1))
            yield self.normalise(pixels), self.labels[chosen]

    def sample(self, count: int, size: int = 256) -> list[Tensor]:
        """About `count` images spread over the set, not augmented, in batches."""
        total = len(self.labels)
        count = min(count, total)
        index = torch.arange(count, device=self.device) * total // max(count, 1)
        # classes lie one after another in a folder: shuffle, or each batch shows one class
        order = torch.randperm(count, generator=self._generator(0, 0)).to(self.device)
        parts = torch.split(index[order], size)
        return [self.normalise(self.pixels[part]) for part in parts if len(part) > 1]

    def _generator(self, epoch: int, position: int) -> torch.Generator:
        mixed = (self.schedule.seed * 1_000_003 + epoch) * 1_000_003 + position
        return torch.Generator().manual_seed(mixed % (1 << 63))

    def _augment(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Random crops after padding with black, and horizontal flips, in one gather. (B, H, W, C)."""
        if self.schedule.augment == "none":
            return pixels
        count, height, width, _ = pixels.shape
        pad = self.schedule.pad
        draw = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator)
        rows = draw[0] + torch.arange(height)
        columns = draw[1] + torch.arange(width)
        if self.schedule.augment == "crop-flip":
            flip = torch.rand(count, 1, generator=generator) < 0.5
            columns = torch.where(flip, columns.flip(1), columns)
        padded = functional.pad(pixels, (0, 0, pad, pad, pad, pad))
        which = torch.arange(count)[:, None, None]
        return padded[
            which.to(self.device), rows[:, :, None].to(self.device), columns[:, None, :].to(self.device)
        ]
