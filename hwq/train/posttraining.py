"""Post-training quantisation: a float network to a run folder, with ranges from images and no training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, fx, nn

from hwq.data import load_split
from hwq.errors import InputError
from hwq.files import write_atomically
from hwq.models import build, code_of
from hwq.quant import Policy, Ranges, calibrate, estimate_norms, notes, prepare
from hwq.quant.calibration.bias import channel_means, correct_biases, fitting
from hwq.quant.methods.dorefa import DoReFa
from hwq.quant.methods.modes import activations_floating, everything_floating
from hwq.train.checkpoint import LAST, Meta, fill, load, load_weights, read_meta, save_checkpoint
from hwq.train.distributed import World
from hwq.train.progress import Silent
from hwq.train.recipe import Recipe
from hwq.train.restore import Normalise, evaluate
from hwq.train.runfolder import RECIPE, SUMMARY, writing_run
from hwq.train.start import cover_pixels, open_data, place, prepared, usable_device
from hwq.train.trust import Trust, allowed

POST_TRAINING = Policy(weight_method="uniform", act_method="uniform", per_channel=True)
"""Where nobody says otherwise: W8A8, plain uniform codes, a weight scale for each output channel."""
_BATCH_PIXELS = 250 * 32 * 32


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

    uncorrected: layers that have neither a bias nor a BN behind them. notes: see `hwq.quant.notes`.
    """

    stages: Sequence[Stage]
    test_images: int
    bias_images: int
    uncorrected: Sequence[str]
    notes: Sequence[str] = ()


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
    with writing_run(out, resume=False):
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
        self.recipe, self.out, self.options, self.watcher = recipe, out, options, watcher
        meta = read_meta(source)
        if meta is not None and not meta.policy.floats:
            raise InputError(f"{source}: is quantised already; calibration starts from a float network")
        chosen = usable_device(device)
        self.meta, batches, test = open_data(recipe, chosen, World(), Silent())
        self.whole = options.test_images is None or options.test_images >= len(test)
        self.test = test if options.test_images is None else test.head(options.test_images)
        network = build(recipe.model, self.meta.image_shape, len(self.meta.classes))
        fill(network, load_weights(source, network)[0], source, recipe.model)
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
        few, uncorrected = quantise(
            self.model,
            self.meta,
            self.sample,
            self.options.ranges,
            norms=self.norms,
            bias_correction=self.options.bias_correction,
            step=self.watcher.step,
            measure=self._measure,
        )
        done = Calibrated(
            stages=self.stages,
            test_images=len(self.test),
            bias_images=few,
            uncorrected=uncorrected,
            notes=notes(self.model),
        )
        self._save(done)
        return done

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

    def _save(self, done: Calibrated) -> None:
        first, last = self.stages[0].accuracy, self.stages[-1].accuracy
        if self.whole:
            self.meta.accuracy.update(float=first, calibrated=last, fake_quant=last)
        summary = {**asdict(self.options), "bn_estimate": self.norms, **asdict(done)}
        write_atomically(self.out / RECIPE, self.recipe.to_toml())
        write_atomically(self.out / SUMMARY, json.dumps(summary, indent=1) + "\n")
        save_checkpoint(self.out / LAST, self.meta, self.model, {})  # last: with it the folder is a run


def quantise(
    model: fx.GraphModule,
    meta: Meta,
    sample: Sequence[Tensor],
    ranges: Ranges,
    *,
    norms: bool,
    bias_correction: bool,
    step: Callable[[str, int, int], None] = lambda what, done, total: None,
    measure: Callable[[str], None] = lambda stage: None,
) -> tuple[int, list[str]]:
    """Set ranges, and where asked BN statistics and biases, of a prepared network with float parameters.

    sample: batches of normalised images (N, C, H, W). `measure` is called after each stage. Returns (images
    used for bias correction, layers left uncorrected).
    """

    def told(batches: Sequence[Tensor], what: str) -> Iterator[Tensor]:
        for number, batch in enumerate(batches):
            step(what, number, len(batches))
            yield batch

    few: list[Tensor] = []
    wanted: dict[str, Tensor] = {}
    uncorrected: list[str] = []
    with everything_floating(model):
        measure("float")
        if bias_correction:
            few = fitting(model, sample)
            wanted = channel_means(model, told(few, "float channel means"))
    with activations_floating(model):
        measure("weights quantised")
        if norms:
            estimate_norms(model, told(sample, "batch norms"))
            measure("batch norms")
    calibrate(model, told(sample, "activation ranges"), ranges)
    cover_pixels(model, meta)
    measure("activations quantised")
    if norms:
        estimate_norms(model, told(sample, "batch norms again"))
        measure("batch norms again")
    if bias_correction:
        tell = partial(step, "bias correction")
        uncorrected = correct_biases(model, few, wanted, progress=tell)
        measure("bias correction")
    return sum(map(len, few)), uncorrected


def requantise(
    source: Path,
    weight_bits: int,
    act_bits: int,
    *,
    images: int = 1024,
    step: Callable[[str, int, int], None] = lambda what, done, total: None,
    trust: Trust | None = None,
) -> tuple[fx.GraphModule, Meta]:
    """The float parameters of a run at other bit widths, without training; (network, its description).

    The rest of the run's policy stays: methods, first and last layer, rules by name; lists of bits do not. A
    float run gets `POST_TRAINING`'s. BN statistics are estimated anew under DoReFa weights, whose scale
    is not that of the floats; biases are corrected under all others. Raises InputError.
    """
    checkpoint = load(source)
    meta = checkpoint.meta
    name = allowed(meta.model, meta.code, source, trust)
    network = build(name, meta.image_shape, len(meta.classes))
    weights, policy = load_weights(source, network)
    policy = replace(
        policy or POST_TRAINING, weight_bits=weight_bits, act_bits=act_bits, weight_list=None, act_list=None
    )
    fill(network, weights, source, name)
    model = prepare(network, policy, meta.image_shape)
    dorefa = any(isinstance(m, DoReFa) and not m.off for m in model.modules())
    norms = any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in model.modules())
    normalise = Normalise(meta.mean, meta.std, "cpu")
    pixels = load_split(meta.data, "train").head(images).pixels
    # classes may lie one after another: each batch should show all of them
    pixels = pixels[np.random.default_rng(0).permutation(len(pixels))]
    height, width, _ = meta.image_shape
    parts = np.array_split(pixels, -(-len(pixels) * height * width // _BATCH_PIXELS))
    sample = [normalise(torch.from_numpy(part)) for part in parts]
    model.eval()
    quantise(model, meta, sample, Ranges(), norms=dorefa and norms, bias_correction=not dorefa, step=step)
    return model.eval(), replace(meta, model=name, code=code_of(name), policy=policy, accuracy={})
