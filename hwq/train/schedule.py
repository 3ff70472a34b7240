"""How to train: the numbers of a recipe's [train] table, and the learning-rate curves among them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hwq.errors import InputError

RANDOM_VIEWS = "resized-crop"
"""The augmentation that reads the files anew in every epoch."""
_SEEDS = (1 << 32) - 1
"""Torch's generators take 64 bits, which also hold the position in the run."""
EPOCHS, IMAGES = 1_000_000, 1_000_000_000
_WHOLE = {
    "epochs": (0, EPOCHS),
    "batch": (1, 1_000_000),
    "pad": (0, 1024),
    "calibrate": (0, IMAGES),
    "bn_freeze": (0, EPOCHS),
    "bn_estimate": (0, IMAGES),
    "seed": (-_SEEDS, _SEEDS),
}
_REAL = {
    **dict.fromkeys(("lr", "final_lr", "quant_lr"), (0.0, 1e6)),
    **dict.fromkeys(("weight_decay", "quant_decay", "alpha_decay", "jitter"), (0.0, 1e3)),
    **dict.fromkeys(("warmup", "checkpoint_every"), (0.0, float(EPOCHS))),
    "step_epochs": (1e-6, float(EPOCHS)),
    "gamma": (0.0, 1.0),
    "eps": (1e-30, 1.0),
    "temperature": (1e-3, 1e3),
    "distill": (0.0, 1.0),
}
"""Least and most: beyond them a number was meant otherwise, and would end in one of float32's infinities."""
_RISE = 0.3
"""Share of a one-cycle run in which the rate rises, where `warmup` does not say it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How to train. Rates are per iteration; times are in epochs, fractions allowed.

    optimiser: 'sgd' (momentum, nesterov), 'adam' or 'adamw' (beta1, beta2, eps). weight_decay acts on
    weights of two and more dimensions, quant_decay on quantiser parameters; BN and biases have none.
    quant_lr: learning rate of quantiser parameters, relative to lr.

    schedule, lr, final_lr, warmup, milestones, step_epochs, gamma: see `learning_rate`. ema: decay of the
    averaged network, 0 = none. distill: the teacher's share of the loss; temperature: its softness;
    teacher: a checkpoint, None = the float network of init_from; teacher_model: its network, where the
    checkpoint does not say it. alpha_decay: weight of sum alpha^2 in the loss.

    augment: 'crop-flip', 'crop' or 'none' (random crop after padding `pad` black pixels), 'resized-crop'
    (a random part of the file, scaled; folders with a size). jitter: of its brightness, contrast and
    saturation. calibrate: images that set activation ranges and BN statistics before the first step; 0
    leaves the methods' own starts. bn_freeze: last epochs with frozen BN statistics. bn_estimate: images
    that re-estimate BN statistics at the end; 0 = none. sync_bn: BN over the whole batch when several
    processes share it.

    amp: 'off', 'bf16' or 'fp16': layers in 16 bits, codes and losses in float32. compile: torch.compile
    for the training step. checkpoint_every: minutes between checkpoints inside an epoch, 0 = none.
    tensorboard: event files in the run folder.
    """

    epochs: int = 30
    batch: int = 128
    optimiser: str = "sgd"
    lr: float = 0.05
    final_lr: float = 0.0
    schedule: str = "cosine"
    warmup: float = 0.0
    milestones: tuple[float, ...] = ()
    step_epochs: float = 30.0
    gamma: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    ema: float = 0.0
    distill: float = 0.0
    temperature: float = 4.0
    teacher: str | None = None
    teacher_model: str | None = None
    augment: str = "crop-flip"
    pad: int = 4
    jitter: float = 0.0
    alpha_decay: float = 2e-4
    quant_lr: float = 1.0
    quant_decay: float = 0.0
    calibrate: int = 1024
    bn_freeze: int = 0
    bn_estimate: int = 0
    sync_bn: bool = True
    amp: str = "off"
    compile: bool = False
    checkpoint_every: float = 10.0
    tensorboard: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        _choose("optimiser", self.optimiser, ("sgd", "adam", "adamw"))
        _choose("schedule", self.schedule, ("cosine", "linear", "multistep", "step", "onecycle"))
        _choose("augment", self.augment, ("crop-flip", "crop", "none", RANDOM_VIEWS))
        _choose("amp", self.amp, ("off", "bf16", "fp16"))
        for name, (least, most) in _WHOLE.items():
            if not least <= getattr(self, name) <= most:
                raise InputError(f"{name} must be {least:,} to {most:,}, not {short(getattr(self, name))}")
        for name, (low, high) in _REAL.items():
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name} must be {low:g} to {high:g}, not {getattr(self, name)}")
        if self.bn_estimate == 1:
            raise InputError("bn_estimate must be 0 (none) or at least 2 images, not 1")
        for name in ("momentum", "beta1", "beta2", "ema", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 0 and below 1, not {getattr(self, name)}")
        if self.jitter and self.augment != RANDOM_VIEWS:
            raise InputError(f"jitter goes with augment = '{RANDOM_VIEWS}'")
        if not self.distill and (self.teacher or self.teacher_model):
            raise InputError("a teacher needs its share of the loss, as in distill = 0.5")
        if self.schedule == "multistep" and not self.milestones:
            raise InputError("schedule 'multistep' needs milestones: epochs, as in milestones = [80, 120]")
        if list(self.milestones) != sorted({m for m in self.milestones if 0 < m < math.inf}):
            raise InputError(f"milestones must be rising epochs above 0, not {list(self.milestones)}")


def learning_rate(schedule: Schedule, steps: int, done: int) -> float:
    """The rate of the iteration after `done` iterations, `steps` an epoch.

    The first `warmup` epochs rise evenly to lr. Then 'cosine' and 'linear' fall from lr to final_lr at
    the end of the run; 'step' is lr * gamma every `step_epochs` epochs, 'multistep' lr * gamma at each of
    the `milestones`, both counted from the run's start. 'onecycle' rises from lr/25 to lr in `warmup`
    epochs (0: 30% of the run) and falls to lr/10,000, both along half a cosine.
    """
    total, warm = max(1, schedule.epochs * steps), schedule.warmup * steps
    if schedule.schedule == "onecycle":
        share, rise = min(1.0, done / total), min(1.0, warm / total) or _RISE
        if share < rise:
            return _half_cosine(schedule.lr / 25, schedule.lr, share / rise)
        return _half_cosine(schedule.lr, schedule.lr / 10_000, (share - rise) / max(1 - rise, 1e-12))
    if done < warm:
        return schedule.lr * (done + 1) / (warm + 1)
    share = min(1.0, (done - warm) / max(1.0, total - warm))
    match schedule.schedule:
        case "cosine":
            return _half_cosine(schedule.lr, schedule.final_lr, share)
        case "linear":
            return schedule.lr + (schedule.final_lr - schedule.lr) * share
        case "step":
            drops = int(done / (schedule.step_epochs * steps))
        case _:
            drops = sum(done >= m * steps for m in schedule.milestones)
    return float(schedule.lr * schedule.gamma**drops)


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, share))) / 2


def _choose(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{name} must be {', '.join(known)}, not '{value}'")


def short(value: int) -> str:
    """A number as it was given, unless it has hundreds of digits."""
    return str(value) if abs(value) < 10**40 else "one of many digits"
