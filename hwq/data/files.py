"""A split that is decoded while it is used, in worker processes: sets larger than memory, random crops."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hwq.data.decode import Pixels, RandomView, View, read, read_random
from hwq.data.images import Images, spread
from hwq.data.listing import Listing
from hwq.errors import InputError, ToolError

_MOST_WORKERS = 8

Position = tuple[int, int]
"""(epoch, index) of an image: all that its random view depends on, besides the seed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Files:
    """The interface of `Images` over files. shape: (H, W, C) of every image.

    limit: bytes that `pixels` and `head` may decode at once. workers: processes; 0: in this one; None:
    one a CPU, at most 8. How many there are changes no pixel.
    """

    listing: Listing
    view: View
    shape: tuple[int, int, int]
    limit: int
    workers: int | None = None
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.listing)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """int64 (N,)."""
        return self.listing.labels

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""
        return self.listing.classes

    @property
    def pixels(self) -> Pixels:
        """All of them, decoded now. Raises InputError when they would not fit."""
        return self.head(len(self)).pixels

    def head(self, count: int) -> Images:
        """A sample of `count` images spread evenly over the split, decoded now."""
        index = spread(len(self), min(count, len(self)))
        taken = len(index) * int(np.prod(self.shape))
        if taken > self.limit:
            need, have = (f"{n / (1 << 30):.1f} GiB" for n in (taken, self.limit))
            raise InputError(
                f"{len(index):,} images of {self.shape[0]} x {self.shape[1]} take {need} of memory, {have} "
                "are allowed: take a sample (--images)"
            )
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            pixels = np.stack(list(pool.map(self.read, index)))
        return Images(pixels=pixels, labels=self.labels[index], classes=self.classes, left_out=self.left_out)

    def batches(
        self, size: int, first: int = 0, step: int = 1
    ) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]:
        """(pixels, labels) in order, `size` at a time: every `step`-th batch from number `first` on."""
        starts = range(first * size, len(self), step * size)
        chosen = ([(0, k) for k in range(i, min(i + size, len(self)))] for i in starts)
        for pixels, labels in Loader(self).load(chosen):
            yield pixels.numpy(), labels.numpy()

    def read(self, index: int) -> Pixels:
        """One image as it is tested, (H, W, C)."""
        path = self.listing.path(index)
        return self._checked(path, read(path, self.view))

    def read_random(self, view: RandomView, position: Position) -> Pixels:
        """One image as it is trained on in an epoch, (H, W, C)."""
        epoch, index = position
        path = self.listing.path(index)
        return self._checked(path, read_random(path, view, epoch, index))

    def _checked(self, path: str, image: Pixels) -> Pixels:
        if image.shape != self.shape:
            raise InputError(
                f"{path}: is {image.shape[1]} x {image.shape[0]} pixels, but the first is {self.shape[1]} x "
                f"{self.shape[0]}; all images must have one size, or set size (--size) to scale them"
            )
        return image


class Loader:
    """Worker processes that decode the batches they are asked for, in order.

    random: views to train on, instead of the centre; its workers stay from epoch to epoch.
    """

    def __init__(self, files: Files, random: RandomView | None = None, *, pin: bool = False) -> None:
        self.queue = _Queue()
        workers = files.workers
        if workers is None:
            workers = min(_MOST_WORKERS, len(os.sched_getaffinity(0)), len(files))
        with _any_number_of_processes():
            self.loader: DataLoader[Any] = DataLoader(
                _Decoder(files, random),
                batch_sampler=self.queue,
                num_workers=workers,
                persistent_workers=workers > 0 and random is not None,
                collate_fn=_stack,
                worker_init_fn=_ignore_ctrl_c,
                pin_memory=pin,
                # its own: torch's global random state stays out of it, and runs stay repeatable
                generator=torch.Generator().manual_seed(0),
            )

    def load(self, batches: Iterable[list[Position]]) -> Iterator[tuple[Tensor, Tensor]]:
        """(pixels uint8 (B, H, W, C), labels int64 (B,)) of each batch. Raises InputError, ToolError."""
        self.queue.batches = batches
        try:
            with _any_number_of_processes(), _told_only_where_it_waits():
                results = iter(self.loader)
            for found in results:
                if isinstance(found, str):
                    raise InputError(found)
                yield found
        except RuntimeError as error:
            if "worker" not in str(error):
                raise
            raise ToolError(
                f"a process that decodes images died ({str(error).splitlines()[0]}); too little memory, or "
                "shared memory (/dev/shm)? Fewer --workers need less, --workers 0 needs none"
            ) from error


@contextmanager
def _any_number_of_processes() -> Iterator[None]:
    """More than there are CPUs are the user's choice: torch's warning would not help."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        yield


@contextmanager
def _told_only_where_it_waits() -> Iterator[None]:
    """No handler of SIGCHLD: torch's raises in whatever the training happens to do when a worker dies.

    Without it the loader finds the same out within 5 seconds, where it waits for a batch.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # where torch sets none
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if before is not None:  # one that is not Python's cannot be set anew
            signal.signal(signal.SIGCHLD, before)


class _Queue:
    """What the loader's workers are to decode next; renewed for every pass."""

    batches: Iterable[list[Position]] = ()

    def __iter__(self) -> Iterator[list[Position]]:
        return iter(self.batches)


class _Decoder(Dataset[tuple[Pixels, int] | str]):
    """Runs in the workers. An error travels as its text: torch would wrap it in a traceback."""

    def __init__(self, files: Files, random: RandomView | None) -> None:
        self.files, self.random = files, random

    def __getitem__(self, position: Position) -> tuple[Pixels, int] | str:
        try:
            if self.random is None:
                pixels = self.files.read(position[1])
            else:
                pixels = self.files.read_random(self.random, position)
        except InputError as error:
            return str(error)
        return pixels, int(self.files.labels[position[1]])


def _stack(items: list[tuple[Pixels, int] | str]) -> tuple[Tensor, Tensor] | str:
    pixels, labels = list[Pixels](), list[int]()
    for item in items:
        if isinstance(item, str):
            return item
        pixels.append(item[0])
        labels.append(item[1])
    return torch.from_numpy(np.stack(pixels)), torch.tensor(labels, dtype=torch.int64)


def _ignore_ctrl_c(worker: int) -> None:
    """The terminal sends it to every process; the training process decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
