"""TensorBoard's event files: losses, rates, accuracies, scales, and how the codes are used."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hwq.errors import InputError
from hwq.train.usage import code_usage

EVERY = 10
"""Iterations between two points of the loss."""
EXAMINED = 256
"""Images on which the codes of activations are counted."""


def check_installed() -> None:
    """Raise InputError where the package is missing."""
    if find_spec("tensorboard") is None:
        raise InputError(
            "tensorboard is not installed: pip install 'hwq[tensorboard]', or leave out --tensorboard"
        )


class Board:
    """Writes into a folder. done: iterations of the run so far; an earlier try's later points are dropped."""

    def __init__(self, folder: Path, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=done or None)

    def step(self, done: int, loss: float, rate: float) -> None:
        """After `done` iterations: the last one's loss and learning rate."""
        if done % EVERY == 0:
            self._writer.add_scalar("train/loss", loss, done)
            self._writer.add_scalar("train/lr", rate, done)

    def epoch(self, done: int, row: dict[str, Any], model: nn.Module, images: Tensor) -> None:
        """A line of metrics.jsonl, and every quantiser's scale, bound and share of codes used on images."""
        for name, value in row.items():
            self._writer.add_scalar(f"epoch/{name}", value, done)
        for usage in code_usage(model, images):
            for what in ("scale", "bound", "share"):
                name = f"{usage.kind}_{'codes_used' if what == 'share' else what}/{usage.name}"
                self._writer.add_scalar(name, getattr(usage, what), done)
        self._writer.flush()

    def close(self) -> None:
        """No more points."""
        self._writer.close()
