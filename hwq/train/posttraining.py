"""Post-training quantisation: a float network to a run folder, with ranges from images and no training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from hwq.errors import InputError
from hwq.files import write_atomically
from hwq.models import build
from hwq.quant import Policy, Ranges, calibrate, estimate_norms
from hwq.quant.bias import MEMORY, bytes_per_image, channel_means, correct_biases
from hwq.quant.dorefa import DoReFa
from hwq.quant.modes import activations_floating, everything_floating
from hwq.train.checkpoint import LAST, fill, load_weights, save_checkpoint
from hwq.train.distributed import World
from hwq.train.progress import Silent
from hwq.train.recipe import Recipe
from hwq.train.restore import evaluate
from hwq.train.runfolder import RECIPE, check_out
from hwq.train.start import cover_pixels, open_data, place, prepared, usable_device

SUMMARY = "calibration.json"
POST_TRAINING = Policy(weight_method="uniform", act_method="uniform", per_channel=True)
"""Where nobody says otherwise: W8A8, plain uniform codes, a weight scale for each output channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """images: of the training split, not augmented. test_images: a sample for the accuracies; None = all.

    bn_estimate: BN statistics of the quantised network, from the same images; None = where a layer's
    weights are DoReFa's, whose scale is not that of the floats. bias_correction: channel means of the
    float network, as far as biases can restore them.
    """

    ranges: Ranges = field(default_factory=Ranges)
    images: int = 1024
    bn_estimate: bool | None = None
    bias_correction: bool = True
    test_images: int | None = None

    def __post_init__(self) -> None:
        if self.images < 2:
            raise InputError(f"calibration needs at least 2 images, not {self.images}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Accuracy in percent after a step."""

    name: str
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """test_images: behind each accuracy. bias_images: used for bias correction, 0 without it.

    uncorrected: layers that have neither a bias nor a BN behind them.
    """

    stages: Sequence[Stage]
    test_images: int
    bias_images: int
    uncorrected: Sequence[str]


class Watcher(Protocol):
    """Receives the events of a calibration."""

    def step(self, what: str, done: int, total: int) -> None:
        """`done` of `total` batches or steps of `what`."""

    def stage(self, stage: Stage) -> None:
        """One more accuracy is known."""


class Unwatched:
    """Tells nobody."""

    def step(self, what: str, done: int, total: int) -> None: ...
    def stage(self, stage: Stage) -> None: ...


def calibrate_run(
    recipe: Recipe,
    source: Path,
    out: Path,
    options: Calibration,
    *,
    device: str = "cpu",
    watcher: Watcher | None = None,
) -> Calibrated:
    """Quantise the float network in `source` by the recipe's policy, into run folder `out`.

    Writes checkpoint.safetensors, recipe.toml and calibration.json at the end, or nothing. Accuracies are
    those of the test split, or of a sample. Raises InputError.
    """
    return _Run(recipe, source, out, options, device, watcher or Unwatched()).run()


class _Run:
    def __init__(
        self,
        recipe: Recipe,
        source: Path,
        out: Path,
        options: Calibration,
        device: str,
        watcher: Watcher,
    ) -> None:
        if recipe.policy.floats:
            raise InputError("nothing to calibrate: the recipe quantises nothing")
        check_out(out, resume=False)
        self.recipe, self.out, self.options, self.watcher = recipe, out, options, watcher
        weights, policy = load_weights(source)
        if policy is not None:
            raise InputError(f"{source}: is quantised already; calibration starts from a float network")
        chosen = usable_device(device)
        self.meta, batches, test = open_data(recipe, chosen, World(), Silent())
        self.whole = options.test_images is None or options.test_images >= len(test)
        self.test = test if options.test_images is None else test.head(options.test_images)
        network = build(recipe.model, self.meta.image_shape, len(self.meta.classes))
        fill(network, weights, source, recipe.model)
        self.model = prepared(network, recipe, self.meta)
        place(self.model, chosen)
        self.model.eval()
        modules = list(self.model.modules())
        wish = options.bn_estimate
        if wish is None:
            wish = any(isinstance(m, DoReFa) and not m.off for m in modules)
        self.norms = wish and any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in modules)
        self.sample = batches.sample(options.images)
        self.stages: list[Stage] = []

    def run(self) -> Calibrated:
        model, options = self.model, self.options
        few: list[Tensor] = []
        wanted: dict[str, Tensor] = {}
        with everything_floating(model):
            self._measure("float")
            if options.bias_correction:
                few = self._fitting()
                wanted = channel_means(model, self._told(few, "float channel means"))
        with activations_floating(model):
            self._measure("weights quantised")
            if self.norms:
                estimate_norms(model, self._told(self.sample, "batch norms"))
                self._measure("batch norms")
        calibrate(model, self._told(self.sample, "activation ranges"), options.ranges)
        cover_pixels(model, self.meta)
        self._measure("activations quantised")
        if self.norms:
            estimate_norms(model, self._told(self.sample, "batch norms again"))
            self._measure("batch norms again")
        uncorrected: list[str] = []
        if options.bias_correction:
            tell = self._teller("bias correction")
            uncorrected = correct_biases(model, few, wanted, progress=tell)
            self._measure("bias correction")
        done = Calibrated(
            stages=self.stages,
            test_images=len(self.test),
            bias_images=sum(map(len, few)),
            uncorrected=uncorrected,
        )
        self._save(done)
        return done

    def _fitting(self) -> list[Tensor]:
        """As many of the calibration images as bias correction may hold at once."""
        room = max(1, MEMORY // bytes_per_image(self.model, self.sample[0][:1]))
        few = []
        for batch in self.sample:
            few.append(batch[:room])
            room -= len(few[-1])
            if not room:
                break
        return few

    def _measure(self, name: str) -> None:
        total = len(self.test)
        accuracy = evaluate(
            self.model,
            self.test,
            self.meta.mean,
            self.meta.std,
            progress=lambda done: self.watcher.step(f"{name}: testing", done, total),
        )
        self.stages.append(Stage(name=name, accuracy=accuracy))
        self.watcher.stage(self.stages[-1])

    def _teller(self, what: str) -> Callable[[int, int], None]:
        return lambda done, total: self.watcher.step(what, done, total)

    def _told(self, batches: Sequence[Tensor], what: str) -> Iterator[Tensor]:
        tell = self._teller(what)
        for number, batch in enumerate(batches):
            tell(number, len(batches))
            yield batch

    def _save(self, done: Calibrated) -> None:
        first, last = self.stages[0].accuracy, self.stages[-1].accuracy
        if self.whole:
            self.meta.accuracy.update(float=first, calibrated=last, fake_quant=last)
        summary = {**asdict(self.options), "bn_estimate": self.norms, **asdict(done)}
        self.out.mkdir(parents=True, exist_ok=True)
        write_atomically(self.out / RECIPE, self.recipe.to_toml())
        save_checkpoint(self.out / LAST, self.meta, self.model, {})
        write_atomically(self.out / SUMMARY, json.dumps(summary, indent=1) + "\n")
