"""Several processes, one run: who they are, what they tell each other, how they end together.

Every process holds the whole network and works on its share of every batch. Rank 0 alone writes files and
speaks; the others follow it. Without torchrun there is one process, and every method here does nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from hwq.errors import HwqError, InputError, ToolError

_PATIENCE = timedelta(hours=1)
"""How long one process may keep the others waiting: for the first decoding of a large data set, say."""
_GRACE = 5.0
"""Seconds in which a process that failed may say why."""
_FAILED = f"failed {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
"""Where the processes count their failures; torchrun may start them again."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """This process among `size`: its rank 0..size-1, and its index on this machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def main(self) -> bool:
        """Whether this is the one process that writes and speaks."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    def device(self, name: str) -> str:
        """'cuda' becomes this process's own GPU."""
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        return f"cuda:{self.local}" if name == "cuda" and not self.alone else name

    def share(self, count: int) -> slice:
        """This process's part of a batch of `count` images; the parts of all make the batch, in order."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def sum(self, values: Tensor) -> Tensor:
        """Add up, in place, what every process holds."""
        if not self.alone:
            dist.all_reduce(values)
        return values

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace float tensors by their mean over the processes, in one message."""
        if self.alone or not tensors:
            return
        flat = self.sum(torch.cat([t.reshape(-1) for t in tensors])) / self.size
        for tensor, part in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def spread(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by rank 0's."""
        if not self.alone:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def gather(self, value: T) -> list[T]:
        """What every process holds, by rank. Any object that can be pickled."""
        found = [value] * self.size
        if not self.alone:
            dist.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Until every process is here."""
        if not self.alone:
            dist.barrier()

    def main_first(self, work: Callable[[], T]) -> T:
        """What `work` yields; rank 0 does it before the others do: it may fill a cache, or refuse."""
        if not self.main:
            self.wait()
            return work()
        result = work()
        self.wait()
        return result


@contextmanager
def joined(device: str) -> Iterator[World]:
    """The processes that torchrun started on `device`, or this one alone.

    Inside, an error of any process ends all: the first to fail raises it, the others exit without a word.
    A process that vanished is a ToolError of one of the others. Raises InputError.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        yield World()
        return
    world = World(
        rank=int(os.environ["RANK"]), size=size, local=int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
    )
    gpu = world.device(device).startswith("cuda") and torch.cuda.is_available()
    store, _, _ = next(rendezvous("env://", timeout=_PATIENCE))
    if gpu and world.local < torch.cuda.device_count():
        torch.cuda.set_device(world.local)
    try:
        if gpu and world.local >= torch.cuda.device_count():
            raise InputError(
                f"this machine has {torch.cuda.device_count()} GPUs, one a process: start fewer processes"
            )
        dist.init_process_group(
            "nccl" if gpu else "gloo",
            store=PrefixStore("hwq", store),
            rank=world.rank,
            world_size=size,
            timeout=_PATIENCE,
        )
        yield world
    except (Exception, KeyboardInterrupt) as error:
        _leave(error, store)
    dist.destroy_process_group()


def _leave(error: BaseException, store: Store) -> NoReturn:
    """Raise the error where this process is the first to fail, else exit: the user reads one line."""
    with suppress(ValueError):  # not the main thread
        # torchrun ends all as soon as one is gone: the line comes first
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if _is_lost(error):
        if _told(store):
            sys.exit(1)
        error = ToolError(
            "another process of this run ended without a word (killed, or out of memory?); "
            "--resume goes on from the last checkpoint"
        )
    if store.add(_FAILED, 1) == 1:
        raise error
    sys.exit(error.exit_code if isinstance(error, HwqError) else 1)


def _is_lost(error: BaseException) -> bool:
    """Whether a message to another process failed. Gloo raises plain RuntimeErrors."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _told(store: Store) -> bool:
    """Whether a process has said why the run ends; the news may take a moment."""
    end = time.monotonic() + _GRACE
    try:
        while store.add(_FAILED, 0) == 0:
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
    except RuntimeError:  # the store went with the process that failed
        return True
    return True
