"""Trained networks back from their checkpoints, and their accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from hwq.data import Split
from hwq.errors import InputError
from hwq.models import build
from hwq.quant import prepare
from hwq.train.checkpoint import Checkpoint, Meta, fill, load
from hwq.train.checkpoint.fill import misfit
from hwq.train.distributed import World
from hwq.train.trust import Trust, allowed, built_in


def rebuild(checkpoint: Checkpoint, source: Path | str, trust: Trust | None = None) -> fx.GraphModule:
    """The network of a checkpoint with its parameters, in eval mode on the CPU.

    Runs the user's module.py when the model came from one, if it is the file that trained it or `trust`
    allows it. Raises InputError.
    """
    meta = checkpoint.meta
    name = allowed(meta.model, meta.code, source, trust)
    of = f"{name} as its description says"
    if built_in(name):
        with torch.device("meta"):  # looked at first: a description can claim any size
            claimed = build(name, meta.image_shape, len(meta.classes)).state_dict()
        held = {k: v for k, v in checkpoint.model.items() if k in claimed}
        fault = misfit(claimed, held)
        if fault:
            raise InputError(f"{source}: a checkpoint of another model than {of}: {fault}")
    model = build(name, meta.image_shape, len(meta.classes))
    module = prepare(model, meta.policy, meta.image_shape)
    fill(module, checkpoint.model, source, of, own=True)
    return module.eval()


def restore(path: Path, trust: Trust | None = None) -> tuple[fx.GraphModule, Meta]:
    """(network in eval mode on the CPU, description) of a run folder or a checkpoint file.

    Raises InputError. Runs code where `rebuild` does.
    """
    checkpoint = load(path)
    meta, trust = checkpoint.meta, trust or Trust()
    return rebuild(checkpoint, path, trust), replace(meta, model=trust.model or meta.model)


class Normalise:
    """uint8 pixels (N, H, W, C) -> float32 (N, C, H, W), channels last in memory."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device | str) -> None:
        self.shift = torch.tensor(mean, dtype=torch.float32, device=device) * 255
        self.factor = 1 / (torch.tensor(std, dtype=torch.float32, device=device) * 255)

    def __call__(self, pixels: Tensor) -> Tensor:
        return pixels.float().sub_(self.shift).mul_(self.factor).permute(0, 3, 1, 2)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    images: Split,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    batch: int = 250,
    world: World | None = None,
    progress: Callable[[int], object] | None = None,
) -> float:
    """Accuracy in percent, 0..100, of the network as it stands (fake-quantised or float), eval mode.

    world: processes that evaluate every so-manyth batch each; all get the whole set's accuracy.
    progress: told after each batch how many images this process has done.
    """
    world = world or World()
    device = next(model.parameters(), torch.zeros(())).device
    channels = images.shape[2]
    if len(mean) != channels or len(std) != channels:
        raise InputError(f"mean and std have {len(mean)} and {len(std)} values, images {channels} channels")
    normalise = Normalise(mean, std, device)
    training = model.training
    model.eval()
    right = torch.zeros((), dtype=torch.int64, device=device)
    done = 0
    for pixels, labels in images.batches(batch, world.rank, world.size):
        logits = model(normalise(torch.from_numpy(pixels).to(device)))
        right += (logits.argmax(1) == torch.from_numpy(labels).to(device)).sum()
        done += len(labels)
        if progress is not None:
            progress(done)
    model.train(training)
    return 100 * int(world.sum(right)) / len(images)
