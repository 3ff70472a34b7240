"""What each of the processes in test_distributed.py does: python -m tests.train.pair FOLDER, in torchrun's
environment. Writes FOLDER/RANK.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hwq.data import load_split
from hwq.quant import Policy, estimate_norms
from hwq.train import Interrupted, Normalise, World, joined, loop, resume_recipe, state, train
from hwq.train.batches import Batches
from hwq.train.distill import fingerprint
from hwq.train.fixedpoint import FixedPoint
from hwq.train.syncnorm import share_norms
from tests.train.runs import DIGITS, FLOAT, W4, Watch, recipe, sample

RUN: dict[str, Any] = {"policy": FLOAT, "ema": 0.9, "optimiser": "adamw", "batch": 255}
UNEVEN: dict[str, Any] = {"policy": FLOAT, "batch": 15, "lr": 0.5, "momentum": 0.0}
FIXED: dict[str, Any] = {"policy": W4, "fixed": FixedPoint(format="12,5")}
OWN_NORMS: dict[str, Any] = {"sync_bn": False, "policy": Policy(weight_bits=4, act_bits=4), "epochs": 1}


def main(out: Path) -> None:
    torch.set_num_threads(1)
    with joined("cpu") as world:
        written, weights = _watch_files_and_weights()
        found = {
            "batches": _batches(world),
            "norms": _norms(world),
            "whole": _train(world, out / "whole", **RUN),
            # Ctrl-C reaches the second process alone
            "parts": _train(world, out / "parts", at=3 if world.rank == 1 else -1, **RUN),
            "rest": _train(world, out / "parts", resume=True, **RUN),
            "uneven": _train(world, out / "uneven", at=3, **UNEVEN),
            "own": _train(world, out / "own", **OWN_NORMS),
            "fixed": _train(world, out / "fixed", **FIXED),
            "written": written,
            "weights": weights,
        }
        (out / f"{world.rank}.json").write_text(json.dumps(found))


def _watch_files_and_weights() -> tuple[list[str], list[str]]:
    """Checkpoints that this process writes, and its network after every epoch."""
    written, weights = list[str](), list[str]()
    save, finish = state.save_checkpoint, loop._Loop._finish

    def saving(path: Path, *rest: Any) -> None:
        written.append(path.name)
        save(path, *rest)

    def finishing(self: Any, stage: str) -> None:
        finish(self, stage)
        weights.append(fingerprint(self.model))

    state.save_checkpoint = saving
    loop._Loop._finish = finishing  # type: ignore[method-assign]
    return written, weights


def _train(world: World, out: Path, *, at: int = -1, resume: bool = False, **changes: Any) -> dict[str, Any]:
    watch, said = Watch(at), ""
    chosen = resume_recipe(out) if resume else recipe(**changes)
    try:
        train(chosen, out, resume=resume, reporter=watch, test_images=sample(), world=world)
    except Interrupted as error:
        said = str(error)
    return {"losses": watch.losses, "said": said}


def _batches(world: World) -> bool:
    """Whether the processes' batches are together those of one, to the bit."""
    images, schedule = load_split(DIGITS, "train"), recipe(augment="crop-flip", batch=99).train
    normalise = Normalise((0.3,), (0.4,), "cpu")
    whole = Batches(images, schedule, normalise, "cpu").epoch(1, 7)
    mine = Batches(images, schedule, normalise, "cpu", world).epoch(1, 7)
    same = []
    for (pixels, labels), (own, named) in zip(whole, mine, strict=True):
        parts = world.gather((own, named))
        same.append(torch.equal(pixels, torch.cat([p for p, _ in parts])))
        same.append(torch.equal(labels, torch.cat([n for _, n in parts])))
    return len(same) == 2 * 7 and all(same)


def _norms(world: World) -> float:
    """Largest difference between a shared batch norm and one over the whole batch, in float64."""
    worst = 0.0
    cases: list[tuple[tuple[int, ...], type[nn.BatchNorm1d | nn.BatchNorm2d], float | None]] = [
        ((7, 3, 2, 2), nn.BatchNorm2d, 0.3),
        ((7, 3), nn.BatchNorm1d, 0.3),
        ((7, 3, 2, 2), nn.BatchNorm2d, None),
    ]
    for shape, kind, momentum in cases:
        torch.manual_seed(3)
        one, shared = (kind(3, momentum=momentum).double() for _ in range(2))
        assert one.num_batches_tracked is not None
        one.num_batches_tracked.fill_(2)
        for parameter in one.parameters():
            nn.init.normal_(parameter)
        shared.load_state_dict(one.state_dict())
        share_norms(shared)
        images, upstream = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
        part = world.share(len(images))
        whole, mine = images.clone().requires_grad_(), images[part].clone().requires_grad_()
        out, own = one(whole), shared(mine)
        out.backward(upstream)
        own.backward(upstream[part])
        assert whole.grad is not None
        assert mine.grad is not None
        pairs: list[tuple[Tensor, Tensor]] = [(out[part], own), (whole.grad[part], mine.grad)]
        pairs += _buffers(one, shared)
        for a, b in zip(one.parameters(), shared.parameters(), strict=True):
            assert a.grad is not None
            assert b.grad is not None
            pairs.append((a.grad, world.sum(b.grad)))
        # from the same images in every process, which need no message
        for norm in (one, shared):
            estimate_norms(norm, [images, 2 * images])
        pairs += _buffers(one, shared)
        worst = max(worst, *(float((a - b).abs().max()) for a, b in pairs))
    return worst


def _buffers(one: nn.Module, other: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Copies in float64."""
    pairs = zip(one.buffers(), other.buffers(), strict=True)
    return [(a.detach().clone().double(), b.detach().clone().double()) for a, b in pairs]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
