"""The training loop: float or quantisation-aware, resumable to the bit, interruptible at any step."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hwq.data import DataSpec, Images, load_split, measure, normalisation
from hwq.errors import HwqError, InputError
from hwq.files import check_writable, write_atomically
from hwq.models import build
from hwq.quant import INPUT_QUANT, ActQuantizer, calibrate, estimate_norms, output_shape, prepare
from hwq.train.batches import Batches
from hwq.train.checkpoint import (
    BEST,
    LAST,
    Meta,
    fill,
    load,
    load_weights,
    save_checkpoint,
)
from hwq.train.optimise import alpha_penalty, learning_rate, make_optimiser, set_rate
from hwq.train.progress import Reporter, Silent
from hwq.train.recipe import Recipe, recipe_from_dict
from hwq.train.restore import Normalise, evaluate

METRICS, RECIPE = "metrics.jsonl", "recipe.toml"


class Interrupted(HwqError):
    """Ctrl-C; the message says how to go on."""

    exit_code = 130


class Diverged(HwqError):
    """The loss is no longer a number."""

    exit_code = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Accuracies in percent on the test split."""

    out: Path
    epochs: int
    accuracy: float
    best: float
    stages: dict[str, float]


def train(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    reporter: Reporter | None = None,
    test_images: Images | None = None,
) -> Result:
    """Run a recipe into folder `out`: checkpoint.safetensors, best.safetensors, metrics.jsonl, recipe.toml.

    resume: go on from `out`'s checkpoint with exactly the batches and states of an uninterrupted run.
    test_images: evaluate on these instead of the whole test split. Raises InputError, Interrupted (state
    saved), Diverged (last good checkpoint kept). 'best' is chosen on the test split, as is usual for these
    benchmarks, and so is a little optimistic.
    """
    return _Run(recipe, out, device, reporter or Silent(), resume, test_images).run()


def resume_recipe(out: Path) -> Recipe:
    """The recipe stored in a run folder's checkpoint."""
    return recipe_from_dict(load(out).meta.recipe, None, str(out))


class _Run:
    def __init__(
        self, recipe: Recipe, out: Path, device: str, reporter: Reporter, resume: bool, test: Images | None
    ) -> None:
        self.recipe, self.out, self.reporter = recipe, out, reporter
        self.schedule = recipe.train
        self.device = _device(device)
        _check_out(out, resume)
        torch.manual_seed(self.schedule.seed)
        training = load_split(recipe.data, "train")
        self.test = test or load_split(recipe.data, "test")
        if self.test.shape != training.shape:
            raise InputError(
                f"{recipe.data}: train images are {training.shape}, test images {self.test.shape}"
            )
        mean, std = self._normalisation(training)
        normalise = Normalise(mean, std, self.device)
        self.batches = Batches(training, self.schedule, normalise, self.device)
        self.meta = Meta(
            model=recipe.model,
            image_shape=training.shape,
            classes=training.classes,
            data=recipe.data,
            mean=mean,
            std=std,
            policy=recipe.policy,
            recipe=recipe.to_dict(),
        )
        self.floating = recipe.floating
        self.model = self._start() if not resume else self._prepared(self._build())
        self.model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = make_optimiser(self.model, self.schedule)
        self.lost, self.right, self.seen = 0.0, 0, 0
        self.best = -1.0
        if resume:
            self._resume()
        else:
            self._warm_start()

    # -- start -----------------------------------------------------------------------------------

    def _normalisation(self, training: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
        mean, std = self.recipe.mean, self.recipe.std
        if mean is None or std is None:
            spec: DataSpec = self.recipe.data
            mean, std = measure(training) if spec.name in ("folder", "digits") else normalisation(spec)
        channels = training.shape[2]
        if len(mean) != channels or len(std) != channels:
            raise InputError(f"mean and std need {channels} values, one a channel")
        return mean, std

    def _build(self) -> nn.Module:
        return build(self.recipe.model, self.meta.image_shape, len(self.meta.classes))

    def _prepared(self, model: nn.Module) -> nn.Module:
        module = prepare(model, self.recipe.policy, self.meta.image_shape)
        shape, classes = output_shape(module), len(self.meta.classes)
        if shape[1:] != (classes,):
            raise InputError(
                f"{self.recipe.model} yields {' x '.join(map(str, shape[1:])) or 'no'} values an image, but "
                f"{self.recipe.data} has {classes} classes; a factory may take the argument `classes`"
            )
        return module

    def _start(self) -> nn.Module:
        model = self._build()
        source = self.recipe.init_from
        if source is not None:
            weights, quantised = load_weights(Path(source))
            fill(model, weights, source, self.recipe.model)
            # BN statistics of a quantised run belong to the scale of its quantised weights
            if not self.floating and not quantised:
                model.to(memory_format=torch.channels_last)
                self._accuracy("float", model.to(self.device))
        return self._prepared(model)

    def _warm_start(self) -> None:
        """Ranges and BN statistics that fit the quantised weights, before the first step."""
        bound = [
            max(m / s, (1 - m) / s) for m, s in zip(self.meta.mean, self.meta.std, strict=True)
        ]  # of black and white: no pixel is clipped
        quantizer = getattr(self.model, INPUT_QUANT)
        assert isinstance(quantizer, ActQuantizer)
        if self.schedule.calibrate and not self.floating:
            sample = self.batches.sample(self.schedule.calibrate)
            if not sample:
                raise InputError("calibrate needs at least 2 images (0 = no calibration)")
            estimate_norms(self.model, sample, floating=True)
            calibrate(self.model, sample)
            if not quantizer.off:
                quantizer.set_bound(max(bound))
            estimate_norms(self.model, sample)
            if self.recipe.init_from is not None:
                self._accuracy("calibrated", self.model)
        elif not quantizer.off:
            quantizer.set_bound(max(bound))

    def _accuracy(self, stage: str, model: nn.Module) -> float:
        value = evaluate(model, self.test, self.meta.mean, self.meta.std)
        self.meta.accuracy[stage] = value
        if stage in ("float", "calibrated"):
            self.reporter.note(f"{stage}: {value:.2f}% on the test split")
        return value

    def _resume(self) -> None:
        stored = load(self.out)
        mine, theirs = self.meta.recipe, stored.meta.recipe
        if mine != theirs:
            changed = [k for k in {**mine, **theirs} if mine.get(k) != theirs.get(k)]
            raise InputError(
                f"{self.out}: --resume goes on with the run's own recipe; '{changed[0]}' differs from it"
            )
        fill(self.model, stored.model, self.out, self.recipe.model)
        names = dict(self.model.named_parameters())
        for key, tensor in stored.state.items():
            if key.startswith("momentum.") and key.removeprefix("momentum.") in names:
                parameter = names[key.removeprefix("momentum.")]
                self.optimiser.state[parameter]["momentum_buffer"] = tensor.to(parameter.device)
        if "rng" in stored.state:
            torch.set_rng_state(stored.state["rng"])
        progress = stored.meta.progress
        self.lost, self.right, self.seen = progress["lost"], progress["right"], progress["seen"]
        self.best = progress["best"]
        self.meta = stored.meta
        _drop_metrics(self.out / METRICS, self.meta.epoch)
        self.reporter.note(f"going on after epoch {self.meta.epoch}, step {self.meta.step}")

    # -- run -------------------------------------------------------------------------------------

    def run(self) -> Result:
        self.out.mkdir(parents=True, exist_ok=True)
        write_atomically(self.out / RECIPE, self.recipe.to_toml().encode())
        if self.meta.epoch == 0 and self.meta.step == 0:
            (self.out / METRICS).unlink(missing_ok=True)
            self._save(LAST)
        steps = self.batches.steps
        self.reporter.begin(self.schedule.epochs * steps, self.meta.epoch * steps + self.meta.step)
        try:
            with _stop_flag() as stop:
                while self.meta.epoch < self.schedule.epochs:
                    self._epoch(stop)
        finally:
            self.reporter.end()
        stages = self.meta.accuracy
        key = "float" if self.floating else "fake_quant"
        if key not in stages:  # no epoch at all: export of a calibrated network
            self._accuracy(key, self.model)
            self._save(LAST)
            self._save(BEST)
        return Result(
            out=self.out,
            epochs=self.meta.epoch,
            accuracy=stages[key],
            best=max(self.best, stages[key]),
            stages=dict(stages),
        )

    def _epoch(self, stop: list[bool]) -> None:
        epoch, first = self.meta.epoch, self.meta.step
        last = self.schedule.epochs - epoch
        self.model.train()
        if last <= self.schedule.bn_freeze:
            for m in self.model.modules():
                if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
                    m.eval()
        started, seen_before = time.monotonic(), self.seen
        for step, (images, labels) in enumerate(self.batches.epoch(epoch, first), first):
            rate = learning_rate(self.schedule, self.batches.steps, epoch * self.batches.steps + step)
            self._step(images, labels, rate)
            speed = (self.seen - seen_before) / (time.monotonic() - started)
            self.reporter.step(self.lost / self.seen, speed)
            if stop[0]:
                self._interrupt(epoch, step + 1)
        self._finish(epoch, time.monotonic() - started, self.seen - seen_before)

    def _step(self, images: Tensor, labels: Tensor, rate: float) -> None:
        try:
            logits = self.model(images)
        except ValueError as error:
            if len(images) > 1:
                raise
            # a batch norm without spatial positions has nothing to average
            raise InputError(f"a batch of 1 image is too small for this network: {error}") from error
        loss = functional.cross_entropy(logits, labels, label_smoothing=self.schedule.label_smoothing)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise Diverged(
                f"the loss became {value} in epoch {self.meta.epoch + 1}; try a smaller --lr. "
                f"{self.out / LAST} holds the last finished epoch"
            )
        penalty = alpha_penalty(self.model) if self.schedule.alpha_decay and not self.floating else None
        total = loss if penalty is None else loss + self.schedule.alpha_decay * penalty
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        set_rate(self.optimiser, rate)
        self.optimiser.step()
        count = len(labels)
        self.lost += value * count
        self.right += int((logits.detach().argmax(1) == labels).sum())
        self.seen += count

    def _finish(self, epoch: int, seconds: float, count: int) -> None:
        done = epoch + 1
        if done == self.schedule.epochs and self.schedule.bn_estimate:
            estimate_norms(self.model, self.batches.sample(self.schedule.bn_estimate))
        accuracy = self._accuracy("float" if self.floating else "fake_quant", self.model)
        row = {
            "epoch": done,
            "loss": self.lost / self.seen,
            "train_accuracy": 100 * self.right / self.seen,
            "test_accuracy": accuracy,
            "lr": learning_rate(self.schedule, self.batches.steps, done * self.batches.steps - 1),
            "seconds": round(seconds, 3),
            "images_per_second": round(count / max(seconds, 1e-9), 1),
        }
        self.lost, self.right, self.seen = 0.0, 0, 0
        self.meta = replace(self.meta, epoch=done, step=0)
        improved = accuracy > self.best
        self.best = max(self.best, accuracy)
        if improved:
            self._save(BEST)
        self._save(LAST)
        with (self.out / METRICS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        self.reporter.note(
            f"epoch {done}/{self.schedule.epochs}  loss {row['loss']:.4f}  "
            f"train {row['train_accuracy']:.2f}%  test {accuracy:.2f}%  "
            f"{row['images_per_second']:.0f} images/s"
        )

    def _interrupt(self, epoch: int, step: int) -> None:
        self.meta = replace(self.meta, epoch=epoch, step=step)
        self._save(LAST)
        raise Interrupted(
            f"interrupted in epoch {epoch + 1} of {self.schedule.epochs}; go on with: "
            f"hwq train --resume --out {self.out}"
        )

    def _save(self, name: str) -> None:
        progress: dict[str, Any] = {
            "lost": self.lost,
            "right": self.right,
            "seen": self.seen,
            "best": self.best,
        }
        state: dict[str, Tensor] = {}
        if name == LAST:
            state["rng"] = torch.get_rng_state()
            for key, parameter in self.model.named_parameters():
                buffer = self.optimiser.state.get(parameter, {}).get("momentum_buffer")
                if buffer is not None:
                    state[f"momentum.{key}"] = buffer
        save_checkpoint(self.out / name, replace(self.meta, progress=progress), self.model, state)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device '{name}' cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def _check_out(out: Path, resume: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; --out takes a folder")
    check_writable(out)
    if resume:
        load(out)
        return
    if (out / LAST).exists():
        raise InputError(f"{out}: holds a run already; --resume goes on with it, or choose another --out")
    if out.is_dir() and any(p.name not in (METRICS, RECIPE) for p in out.iterdir()):
        raise InputError(f"{out}: is not empty and not a run of `hwq train`; choose another --out")


def _drop_metrics(path: Path, epochs: int) -> None:
    """Keep the lines of the first `epochs` epochs."""
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:epochs]
        write_atomically(path, "".join(lines).encode())


@contextmanager
def _stop_flag() -> Iterator[list[bool]]:
    """[False], which Ctrl-C turns to [True]; a second Ctrl-C interrupts at once."""
    flag = [False]

    def on_signal(signum: int, frame: FrameType | None) -> None:
        if flag[0]:
            raise KeyboardInterrupt
        flag[0] = True

    try:
        before = signal.signal(signal.SIGINT, on_signal)
    except ValueError:  # not the main thread: Ctrl-C goes elsewhere
        yield flag
        return
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)
