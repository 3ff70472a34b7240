"""The teacher of a distillation: a trained network that only looks."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn

from hwq.errors import InputError
from hwq.models import build
from hwq.quant import logits_network
from hwq.train.checkpoint import Meta, fill, find, load, load_weights, read_meta
from hwq.train.recipe import Recipe
from hwq.train.restore import rebuild
from hwq.train.trust import Trust


def load_teacher(recipe: Recipe, meta: Meta, trust: Trust | None = None) -> nn.Module | None:
    """The recipe's teacher in eval mode on the CPU; None without distillation.

    `teacher` is a checkpoint of hwq, which says itself what network it holds, or a state dict of
    `teacher_model` (None: the recipe's own model). Without it, the float network that the run starts from
    teaches.
    Raises InputError for one that cannot teach this data.
    """
    schedule = recipe.train
    if not schedule.distill:
        return None
    source = schedule.teacher or recipe.init_from or recipe.pretrained
    if source is None:
        raise InputError("distill needs a teacher: set teacher, or start from a float network (init_from)")
    name, path = schedule.teacher_model or recipe.model, find(Path(source))
    theirs = read_meta(path)
    if theirs is not None:
        _check(path, meta, theirs)
    if theirs is not None and schedule.teacher and schedule.teacher_model is None:
        network: nn.Module = rebuild(load(path), path, (trust or Trust()).others)
    else:
        network = build(name, meta.image_shape, len(meta.classes))
        weights, policy = load_weights(Path(source), network)
        if policy is not None:
            raise InputError(
                f"{source}: was trained quantised, and its float network teaches nothing; set teacher"
            )
        fill(network, weights, source, name)
    return logits_network(network, meta.image_shape).eval().requires_grad_(False)


def _check(path: Path, meta: Meta, theirs: Meta) -> None:
    """Raises InputError for a teacher that learned from images seen otherwise, or other classes."""
    for what, mine, other in (
        ("classes", meta.classes, theirs.classes),
        ("image shape", meta.image_shape, theirs.image_shape),
        ("mean", meta.mean, theirs.mean),
        ("std", meta.std, theirs.std),
    ):
        if mine != other:
            raise InputError(f"{path}: a teacher with another {what} ({_short(other)}, not {_short(mine)})")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def fingerprint(network: nn.Module | None) -> str:
    """A digest of every parameter: a resumed run must have the teacher it began with. '' for None."""
    if network is None:
        return ""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]
