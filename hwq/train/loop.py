"""The training loop: float or quantisation-aware, resumable to the bit, interruptible at any step.

    train()  ─►  start: data, network, ranges  ─►  epochs of steps  ─►  checkpoints, metrics.jsonl

A step: the batch's share of this process, forward, `Objective`, backward, update, `State`. What a step
changes is in `State`, and nowhere else.
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, fx, nn

from hwq.data import Images
from hwq.errors import InputError
from hwq.files import write_atomically
from hwq.quant import estimate_norms
from hwq.quant.fixedpoint.folded import FoldedNetwork
from hwq.terminal import argument
from hwq.train.checkpoint import BEST, LAST, load
from hwq.train.distill import fingerprint
from hwq.train.distributed import World
from hwq.train.diverged import Diverged, culprit
from hwq.train.ema import Average
from hwq.train.fixedpoint import begin, changed, folded, go_on
from hwq.train.interrupt import Interrupted, stop_flag
from hwq.train.meter import Meter
from hwq.train.objective import Objective
from hwq.train.optimise import make_optimiser, set_rate
from hwq.train.precision import Precision
from hwq.train.progress import Reporter, Silent
from hwq.train.recipe import Recipe, recipe_of
from hwq.train.restore import evaluate
from hwq.train.runfolder import BOARD, RECIPE, add_metrics, tidy, writing_run
from hwq.train.schedule import learning_rate
from hwq.train.shared import Shared
from hwq.train.start import start, usable_device
from hwq.train.state import State, check_recipe, has_begun
from hwq.train.tensorboard import EXAMINED, Board, check_installed
from hwq.train.trust import Trust


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
    world: World | None = None,
    workers: int | None = None,
    trust: Trust | None = None,
) -> Result:
    """Run a recipe into folder `out`: checkpoint.safetensors, best.safetensors, metrics.jsonl, recipe.toml.

    resume: go on from `out`'s checkpoint with exactly the batches and states of an uninterrupted run.
    test_images: evaluate on these instead of the whole test split. world: the processes that train
    together, see `hwq.train.distributed.joined`. workers: processes that decode images, see `load_split`.
    trust: of model files that checkpoints name.
    Raises InputError, Interrupted (state saved), Diverged (last good checkpoint kept). 'best' is chosen on
    the test split, as is usual for these benchmarks, and so is a little optimistic.
    """
    world = world or World()
    with ExitStack() as held:
        # the first process holds the folder for all
        world.main_first(lambda: held.enter_context(writing_run(out, resume=resume)) if world.main else None)
        loop = _Loop(recipe, out, device, reporter or Silent(), resume, test_images, world, workers, trust)
        return loop.run()


def resume_recipe(out: Path, trust: Trust | None = None) -> Recipe:
    """The recipe stored in a run folder's checkpoint. Raises InputError, also where its code may not run."""
    return recipe_of(load(out).meta, out, trust)


class _Loop:
    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        device: str,
        reporter: Reporter,
        resume: bool,
        test: Images | None,
        world: World,
        workers: int | None,
        trust: Trust | None,
    ) -> None:
        self.recipe, self.schedule, self.out = recipe, recipe.train, out
        self.world, self.reporter = world, reporter
        self.device = usable_device(world.device(device))
        if self.schedule.tensorboard:
            check_installed()
        stored = load(out) if resume else None
        if stored is not None:
            check_recipe(recipe, stored, out, trust)
        began = start(
            recipe,
            self.device,
            world,
            reporter,
            fresh=not resume,
            policy=stored.meta.policy if stored is not None and has_begun(stored) else None,
            test_images=test,
            workers=workers,
            trust=trust,
        )
        self.batches, self.test, self.model = began.batches, began.test, began.model
        precision = Precision(self.schedule.amp, self.device, self.model)
        self.objective = Objective(self.schedule, self.model, began.teacher)
        self.folded: FoldedNetwork | None = None
        if recipe.fixed is not None and has_begun(stored):
            self.folded = go_on(self.model, recipe.fixed, began.meta)
        elif recipe.fixed is not None:
            folded(self.model, recipe.fixed, began.meta)  # raises now what it would at the change-over
        self.shared, self.forward = self._shared()
        self.state = State(
            meta=began.meta,
            model=self.model,
            optimiser=make_optimiser(self.model, self.schedule),
            precision=precision,
            meter=Meter(world, self.device),
            average=Average(self.model, self.schedule.ema) if self.schedule.ema else None,
            teacher=fingerprint(began.teacher),
        )
        if recipe.fixed is not None:
            self.state.fixed_from = recipe.fixed.first_epoch(self.schedule.epochs, trained=began.kept)
        self.board: Board | None = None
        self.saved = time.monotonic()
        if stored is not None:
            self.state.fill(stored, out)
            reporter.note(f"going on after epoch {self.state.meta.epoch}, step {self.state.meta.step}")

    @property
    def done(self) -> int:
        """Iterations of the run so far."""
        return self.state.meta.epoch * self.batches.steps + self.state.meta.step

    @property
    def stage(self) -> str:
        """What the network is by now, as accuracies are filed."""
        return "float" if self.recipe.floating else "fixed" if self.state.fixed else "fake_quant"

    def run(self) -> Result:
        """From where the state stands to the last epoch."""
        schedule = self.schedule
        if self.world.main:
            write_atomically(self.out / RECIPE, self.recipe.to_toml().encode())
            tidy(self.out, self.state.meta.epoch)
            if self.done == 0:
                self.state.save(self.out / LAST)
            if schedule.tensorboard:
                self.board = Board(self.out / BOARD, self.done)
        self.reporter.begin(schedule.epochs * self.batches.steps, self.done)
        try:
            with stop_flag(patient=not self.world.alone) as stop:
                while self.state.meta.epoch < schedule.epochs:
                    self._maybe_begin_fixed()
                    self._epoch(stop)
                    self._finish(self.stage)
                self._maybe_begin_fixed()  # no epoch of it at all: aligned alone
        finally:
            self.reporter.end()
            if self.board is not None:
                self.board.close()
        stages, stage = self.state.meta.accuracy, self.stage
        if stage not in stages:  # no epoch at all: export of a calibrated network
            stages[stage] = self._accuracy(self.state.network)
            self._save(BEST, LAST)
        accuracy = stages[stage]
        best = max(self.state.best, accuracy)
        return Result(
            out=self.out, epochs=self.state.meta.epoch, accuracy=accuracy, best=best, stages=dict(stages)
        )

    def _shared(self) -> tuple[Shared, nn.Module]:
        """The network in training as all processes hold it, and as a step calls it."""
        if self.folded is not None:
            shared = Shared(self.folded, self.world, sync_bn=False, frozen=True)
            return shared, shared.network
        shared = Shared(self.model, self.world, sync_bn=self.schedule.sync_bn)
        if self.schedule.compile:
            return shared, torch.compile(shared.network)  # type: ignore[return-value]
        return shared, shared.network

    def _maybe_begin_fixed(self) -> None:
        """Where the recipe says so, go on with constants in fixed point, and an optimiser that is new."""
        fixed, state = self.recipe.fixed, self.state
        if fixed is None or state.fixed or state.meta.epoch < state.fixed_from:
            return
        if state.average is not None:
            self.model.load_state_dict(state.average.network.state_dict())
        self.reporter.note(
            f"fixed point, {fixed}: choosing scales" if fixed.align else f"fixed point, {fixed}"
        )
        del self.shared, self.forward  # with their hooks on the parameters
        self.folded, aligned = begin(
            self.model, fixed, state.meta, self.batches, bn_estimate=self.schedule.bn_estimate
        )
        state.meta, state.fixed, state.best = changed(state.meta, fixed), True, -1.0
        state.optimiser = make_optimiser(self.model, self.schedule)
        if state.average is not None:
            state.average = Average(self.model, self.schedule.ema)
        self.shared, self.forward = self._shared()
        if aligned is not None:
            self.reporter.note(
                f"steps of weights {aligned.coarser:.2f} times what they were, {aligned.scales} scales of "
                "activations changed"
            )
        self.reporter.note(f"fixed point, {fixed}: {self._accuracy(state.network):.2f}% on the test split")

    def _epoch(self, stop: list[bool]) -> None:
        """The steps that the epoch has left."""
        epoch, first, meter = self.state.meta.epoch, self.state.meta.step, self.state.meter
        self.model.train()
        if self.schedule.epochs - epoch <= self.schedule.bn_freeze:
            for module in self.model.modules():
                if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                    module.eval()
        self.began, self.before = time.monotonic(), meter.seen
        for step, (images, labels) in enumerate(self.batches.epoch(epoch, first), first):
            stopping = self._step(images, labels, stop[0])
            self._at(epoch, step + 1)
            self.reporter.step(meter.loss, self._speed())
            # together they agree in the step; alone nobody else is to be asked
            if stop[0] if self.world.alone else stopping:
                self._interrupt()
            if 0 < self.schedule.checkpoint_every * 60 <= time.monotonic() - self.saved:
                self._save(LAST)

    def _step(self, images: Tensor, labels: Tensor, stop: bool) -> bool:
        """One update; whether any process was asked to stop, given whether this one was."""
        state, schedule = self.state, self.schedule
        rate = learning_rate(schedule, self.batches.steps, self.done)
        # dropout depends on the position in the run alone, as order and augmentation do
        torch.manual_seed((schedule.seed * 1_000_003 + self.done) * 1_003 + self.world.rank)
        try:
            with state.precision.cast():
                logits = self.forward(images)
                loss = self.objective.loss(images, logits, labels)
        except ValueError as error:
            if len(images) > 1:
                raise
            # a batch norm without spatial positions has nothing to average
            raise InputError(f"a batch of 1 image is too small for this network: {error}") from error
        state.meter.note(loss, logits, labels, stop)
        penalty = self.objective.penalty()
        total = loss if penalty is None else loss + penalty
        state.optimiser.zero_grad(set_to_none=True)
        # the mean of the processes' gradients is that of the whole batch, whatever their parts are
        state.precision.backward(total * (len(labels) * self.world.size / self.batches.batch))
        value, stopping = state.meter.read()
        if not math.isfinite(value):
            raise self._diverged(value, images)
        set_rate(state.optimiser, rate)
        state.precision.step(state.optimiser)
        self.shared.settle()
        if state.average is not None:
            state.average.update(self.done)
        if self.board is not None:
            self.board.step(self.done + 1, value, rate)
        return stopping

    def _finish(self, stage: str) -> None:
        """The end of an epoch: accuracy, a line of metrics, checkpoints."""
        state, meter, schedule = self.state, self.state.meter, self.schedule
        epoch, seconds, speed = state.meta.epoch + 1, time.monotonic() - self.began, self._speed()
        networks = [self.model] if state.average is None else [self.model, state.network]
        if epoch == schedule.epochs and schedule.bn_estimate and self.folded is None:
            sample = self.batches.sample(schedule.bn_estimate)
            for network in networks:
                estimate_norms(network, sample)
        row: dict[str, float] = {
            "epoch": epoch,
            "loss": meter.loss,
            "train_accuracy": meter.accuracy,
            "test_accuracy": self._accuracy(state.network),
            "lr": learning_rate(schedule, self.batches.steps, epoch * self.batches.steps - 1),
            "seconds": round(seconds, 3),
            "images_per_second": round(speed, 1),
        }
        if state.average is not None:
            row["trained_accuracy"] = self._accuracy(self.model)
        accuracy = row["test_accuracy"]
        state.meta.accuracy[stage] = accuracy
        improved, state.best = accuracy > state.best, max(state.best, accuracy)
        meter.clear()
        self._at(epoch, 0)
        if self.world.main:
            if improved:
                self._save(BEST)
            add_metrics(self.out, row)
        self._save(LAST)
        if self.board is not None:
            self.board.epoch(self.done, row, state.network, self.batches.sample(EXAMINED)[0])
        self.reporter.note(
            f"epoch {epoch}/{schedule.epochs}  loss {row['loss']:.4f}  train {row['train_accuracy']:.2f}%  "
            f"test {accuracy:.2f}%  {speed:.0f} images/s"
        )

    def _accuracy(self, network: fx.GraphModule) -> float:
        """Of the network as training sees it: with constants in fixed point once that has begun."""
        meta, fixed = self.state.meta, self.recipe.fixed
        seen = network if fixed is None or self.folded is None else folded(network, fixed, meta)
        return evaluate(seen, self.test, meta.mean, meta.std, world=self.world)

    def _speed(self) -> float:
        """Images a second of all processes, since the epoch began or went on."""
        return (self.state.meter.seen - self.before) / max(time.monotonic() - self.began, 1e-9)

    def _at(self, epoch: int, step: int) -> None:
        self.state.meta = replace(self.state.meta, epoch=epoch, step=step)

    def _save(self, *names: str) -> None:
        if self.world.main:
            for name in names:
                self.state.save(self.out / name, whole=name == LAST)
        self.saved = time.monotonic()

    def _interrupt(self) -> NoReturn:
        self._save(LAST)
        self.world.wait()
        size = self.world.size
        command = "hwq" if self.world.alone else f"torchrun --nproc-per-node {size} -m hwq"
        raise Interrupted(
            f"interrupted in epoch {self.state.meta.epoch + 1} of {self.schedule.epochs}; go on with: "
            f"{command} train --resume --out {argument(self.out)}"
        )

    def _diverged(self, value: float, images: Tensor) -> Diverged:
        meta = self.state.meta
        with self.state.precision.cast():
            network = self.model if self.folded is None else self.folded.graph_module
            _, what = min(self.world.gather(culprit(network, images)))
        return Diverged(
            f"the loss became {value} in step {meta.step + 1} of epoch {meta.epoch + 1}: {what}. "
            f"Try a smaller --lr; {self.out / LAST} holds the last good state"
        )
