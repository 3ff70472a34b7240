"""Everything that a step changes, into a checkpoint and back: what makes a resumed run the same run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from hwq.errors import InputError
from hwq.train.checkpoint import Checkpoint, Meta, bad_tensor, fill, save_checkpoint
from hwq.train.diverged import Diverged
from hwq.train.ema import Average
from hwq.train.meter import Meter
from hwq.train.optimise import fill_optimiser, optimiser_state
from hwq.train.precision import Precision
from hwq.train.recipe import Recipe, recipe_from_dict
from hwq.train.trust import Trust

_OPTIMISER, _TRAINED = "optimiser.", "trained."


@dataclass(kw_only=True, eq=False)
class State:
    """The network in training and all that belongs to it. Nothing else carries over from step to step:
    order, augmentation, dropout and learning rate follow from the position in the run, `meta.epoch` and
    `meta.step`.

    best: highest accuracy of an epoch, percent; since fixed-point training began, of its own epochs.
    teacher: its fingerprint. fixed_from: epochs done when fixed-point training begins, -1 = never; fixed:
    whether it has begun.
    """

    meta: Meta
    model: fx.GraphModule
    optimiser: torch.optim.Optimizer
    precision: Precision
    meter: Meter
    average: Average | None
    teacher: str
    best: float = -1.0
    fixed_from: int = -1
    fixed: bool = False

    @property
    def network(self) -> fx.GraphModule:
        """The network to use: the averaged one where there is one. A checkpoint's `model` is this one."""
        return self.model if self.average is None else self.average.network

    def save(self, path: Path, *, whole: bool = True) -> None:
        """A checkpoint; without `whole` one to use, but not to go on from.

        Raises Diverged, and keeps what is there, rather than store weights that are no numbers.
        """
        state: dict[str, Tensor] = {}
        if whole:
            state = _under(_OPTIMISER, optimiser_state(self.optimiser, self.model))
            if self.average is not None:
                state |= _under(_TRAINED, self.model.state_dict())
        # of the averaged network last: what it averages is where to look
        bad = bad_tensor({**self.model.state_dict(), **state}) or bad_tensor(self.network.state_dict())
        if bad is not None:
            epoch, step = self.meta.epoch, self.meta.step
            when = f"after step {step} of epoch {epoch + 1}" if step else f"at the end of epoch {epoch}"
            raise Diverged(
                f"'{bad}' holds inf or nan {when}; try a smaller --lr. {path.parent} keeps its last good "
                "checkpoint"
            )
        progress: dict[str, Any] = {
            "lost": self.meter.lost,
            "right": self.meter.right,
            "seen": self.meter.seen,
            "best": self.best,
            "scaler": self.precision.state(),
            "teacher": self.teacher,
            "fixed_from": self.fixed_from,
            "fixed": self.fixed,
        }
        save_checkpoint(path, replace(self.meta, progress=progress), self.network, state)

    def fill(self, stored: Checkpoint, source: Path) -> None:
        """The inverse of `save`. Raises InputError for a checkpoint of another network or teacher."""
        progress = stored.meta.progress
        if self.teacher != progress.get("teacher", ""):
            raise InputError(f"{source}: the teacher's weights are not those that the run began with")
        name = self.meta.model
        fill(self.network, stored.model, source, name, own=True)
        if self.average is not None:
            fill(self.model, _part(_TRAINED, stored.state), source, name, own=True)
        try:
            fill_optimiser(self.optimiser, self.model, _part(_OPTIMISER, stored.state))
            self.meter.lost, self.meter.right = progress["lost"], progress["right"]
            self.meter.seen, self.best = progress["seen"], progress["best"]
            self.precision.fill(progress["scaler"])
            self.fixed_from = progress.get("fixed_from", -1)
            self.fixed = has_begun(stored)
        except KeyError as error:
            raise InputError(f"{source}: no checkpoint to go on from; it lacks {error}") from error
        now = self.meta
        self.meta = replace(stored.meta, recipe=now.recipe, model=now.model, code=now.code)


def has_begun(stored: Checkpoint | None) -> bool:
    """Whether the checkpoint's network is in fixed-point training, and so has the scales of that."""
    return stored is not None and bool(stored.meta.progress.get("fixed"))


def check_recipe(recipe: Recipe, stored: Checkpoint, source: Path, trust: Trust | None = None) -> None:
    """Raise InputError, which names the first key that differs, unless the checkpoint has this recipe.

    But for the network's file, where the user has named another.
    """
    theirs = recipe_from_dict(stored.meta.recipe)
    if trust is not None and trust.model is not None:
        theirs = replace(theirs, model=recipe.model)
    changed = difference(recipe.to_dict(), theirs.to_dict())
    if changed is not None:
        raise InputError(f"{source}: --resume goes on with the run's own recipe, but {changed}")


def difference(mine: Any, theirs: Any, name: str = "") -> str | None:
    """'train.lr is 0.1, not 0.05' for the first key in which two recipes differ."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in [*theirs, *(k for k in mine if k not in theirs)]:
            found = difference(mine.get(key), theirs.get(key), f"{name}.{key}".lstrip("."))
            if found is not None:
                return found
        return None
    if mine == theirs:
        return None
    given, stored = ("absent" if v is None else repr(v) for v in (mine, theirs))
    return f"{name} is {given}, not {stored}"


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _part(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
