"""Training batches: order, crops and flips depend only on seed and position, wherever pixels come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from hwq.data import Files, Images, Loader, RandomView, Split
from hwq.errors import InputError
from hwq.train.distributed import World
from hwq.train.restore import Normalise
from hwq.train.schedule import RANDOM_VIEWS, Schedule

_SMALL, _LARGE = 32, 256
_PIXELS = 1 << 20
"""Of a batch that is sampled, unless it has fewer than `_SMALL` images: bounds the activations' memory."""


class _Source(Protocol):
    def load(self, epoch: int, chosen: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """(pixels uint8 (B, H, W, C), labels (B,)) on the device, for each tensor of indices."""


class Batches:
    """Training batches as (images (B, C, H, W) float32, labels (B,)).

    Epoch e's order and step i's augmentation come from generators seeded by (seed, e, i), random views
    from (seed, e, index of the image), so that a resumed run sees exactly the batches that the interrupted
    one would have seen, with any number of workers. `Images` live on the device as a whole; `Files` are
    decoded ahead by processes.

    world: processes that train together; each takes its share of every batch. Augmentation is drawn for
    the whole batch, so that together they see what one would.
    """

    def __init__(
        self,
        images: Split,
        schedule: Schedule,
        normalise: Normalise,
        device: torch.device | str,
        world: World | None = None,
    ) -> None:
        self.schedule, self.normalise = schedule, normalise
        self.device = torch.device(device)
        self.count, self.shape = len(images), images.shape
        if schedule.augment in ("crop", "crop-flip") and schedule.pad > max(images.shape[:2]):
            size = " x ".join(map(str, images.shape[:2]))
            raise InputError(f"pad must be at most the images' side, not {schedule.pad} for {size} pixels")
        self.plain: _Source
        self.random: _Source
        if isinstance(images, Files):
            self.plain = self.random = _Streamed(images, None, self.device)
            if schedule.augment == RANDOM_VIEWS:
                view = RandomView(
                    size=images.shape[0],
                    channels=images.shape[2],
                    jitter=schedule.jitter,
                    seed=schedule.seed,
                )
                self.random = _Streamed(images, view, self.device)
        else:
            self.plain = self.random = _Resident(images, self.device)
        # a last batch of a few images would disturb BN: left out, its images come in another epoch
        self.batch = min(schedule.batch, self.count)
        self.steps = self.count // self.batch
        self.part = (world or World()).share(self.batch)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch from step `first` on."""
        order = torch.randperm(self.count, generator=self._generator(epoch, 0))
        steps = range(first, self.steps)
        chosen = (order[step * self.batch : (step + 1) * self.batch][self.part] for step in steps)
        for step, (pixels, labels) in zip(steps, self.random.load(epoch, chosen), strict=True):
            augmented = self._augment(pixels, self._generator(epoch, step + 1))
            yield self.normalise(augmented), labels

    def sample(self, count: int, size: int | None = None) -> list[Tensor]:
        """About `count` images spread over the set, not augmented; small batches of large images."""
        count = min(count, self.count)
        size = size or max(_SMALL, min(_LARGE, _PIXELS // (self.shape[0] * self.shape[1])))
        index = torch.arange(count) * self.count // max(count, 1)
        # classes lie one after another in a folder: shuffle, or each batch shows one class
        order = torch.randperm(count, generator=self._generator(0, 0))
        parts = [part for part in torch.split(index[order], size) if len(part) > 1]
        return [self.normalise(pixels) for pixels, _ in self.plain.load(0, parts)]

    def _generator(self, epoch: int, position: int) -> torch.Generator:
        mixed = (self.schedule.seed * 1_000_003 + epoch) * 1_000_003 + position
        return torch.Generator().manual_seed(mixed % (1 << 63))

    def _augment(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Random crops after padding with black, and horizontal flips, in one gather. (B, H, W, C)."""
        if self.schedule.augment in ("none", RANDOM_VIEWS):
            return pixels
        _, height, width, _ = pixels.shape
        pad = self.schedule.pad
        draw = torch.randint(0, 2 * pad + 1, (2, self.batch, 1), generator=generator)[:, self.part]
        rows = draw[0] + torch.arange(height)
        columns = draw[1] + torch.arange(width)
        if self.schedule.augment == "crop-flip":
            flip = torch.rand(self.batch, 1, generator=generator)[self.part] < 0.5
            columns = torch.where(flip, columns.flip(1), columns)
        padded = functional.pad(pixels, (0, 0, pad, pad, pad, pad))
        which = torch.arange(len(pixels), device=self.device)[:, None, None]
        return padded[which, onto(rows[:, :, None], self.device), onto(columns[:, None, :], self.device)]


def onto(index: Tensor, device: torch.device) -> Tensor:
    """The same on the device, without waiting for the step that the device is still at."""
    return index.to(device, non_blocking=True)


class _Resident:
    """The whole set on the device."""

    def __init__(self, images: Images, device: torch.device) -> None:
        self.pixels = torch.from_numpy(images.pixels).to(device)
        self.labels = torch.from_numpy(images.labels).to(device)

    def load(self, epoch: int, chosen: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        for index in chosen:
            where = onto(index, self.pixels.device)
            yield self.pixels[where], self.labels[where]


class _Streamed:
    """Decoded by worker processes, a few batches ahead."""

    def __init__(self, files: Files, view: RandomView | None, device: torch.device) -> None:
        self.loader = Loader(files, view, pin=device.type == "cuda")
        self.device = device

    def load(self, epoch: int, chosen: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        positions = ([(epoch, i) for i in index.tolist()] for index in chosen)
        for pixels, labels in self.loader.load(positions):
            yield pixels.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
