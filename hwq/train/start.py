"""What a run begins with: its data, and its network with ranges and statistics that fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import fx, nn

from hwq.data import Split, known, load_split, measure
from hwq.errors import InputError
from hwq.models import build, code_of
from hwq.quant import (
    INPUT_QUANT,
    ActQuantizer,
    Policy,
    calibrate,
    estimate_norms,
    logits_network,
    notes,
    output_shape,
    prepare,
)
from hwq.train.batches import Batches
from hwq.train.checkpoint import Meta, fill, impossible, load, load_weights, read_meta
from hwq.train.distill import load_teacher
from hwq.train.distributed import World
from hwq.train.exportable import check_exportable
from hwq.train.opening import opening
from hwq.train.pretrained import fit_classes
from hwq.train.progress import Reporter
from hwq.train.recipe import Recipe
from hwq.train.restore import Normalise, evaluate
from hwq.train.schedule import RANDOM_VIEWS
from hwq.train.trust import Trust


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """model, teacher: on the device. meta: with the accuracies measured so far. kept: the network began as
    a quantised one with the same [quant] and the same images. See `start`.
    """

    meta: Meta
    batches: Batches
    test: Split
    model: fx.GraphModule
    teacher: nn.Module | None
    kept: bool


def start(
    recipe: Recipe,
    device: torch.device,
    world: World,
    reporter: Reporter,
    *,
    fresh: bool,
    policy: Policy | None = None,
    test_images: Split | None = None,
    workers: int | None = None,
    trust: Trust | None = None,
) -> Start:
    """Load, build, prepare and, when `fresh`, calibrate: what is before the first step.

    Not `fresh`: a checkpoint will fill the network, which has `policy` instead of the recipe's where that
    is given. workers: processes that decode images, see `load_split`. trust: of the teacher's model file.
    Raises InputError.
    """
    meta, batches, test = open_data(recipe, device, world, reporter, test_images=test_images, workers=workers)
    torch.manual_seed(recipe.train.seed)  # the network's first weights
    network = build(recipe.model, meta.image_shape, len(meta.classes))
    began = recipe.init_from or recipe.pretrained
    measured, kept = False, None
    if fresh and began is not None:
        weights, theirs = load_weights(Path(began), network)
        replaced = None
        if recipe.pretrained is not None:
            replaced = fit_classes(network, weights, began)
        fill(network, weights, began, recipe.model)
        if replaced:
            reporter.note(replaced)
        # BN statistics of a quantised run belong to the scale of its quantised weights
        measured = replaced is None
        if not recipe.floating and theirs is None and measured:
            place(network, device)
            meta.accuracy["float"] = _measure(
                "float", logits_network(network, meta.image_shape), test, meta, world, reporter
            )
        same = theirs == recipe.policy and _same_pixels(Path(began), meta)
        kept = began if measured and same else None
    model = prepared(network, recipe, meta, policy)
    for line in notes(model):
        reporter.note(line)
    if kept is not None:
        fill(model, load(Path(kept)).model, kept, recipe.model, own=True)
        reporter.note(f"ranges and batch norms kept from {kept}, which has the same [quant]")
    place(model, device)
    reporter.opening(*opening(recipe, model, meta, batches.count))
    if fresh:
        if kept is None:
            _warm(model, recipe, meta, batches)
        if measured and recipe.train.calibrate and not recipe.floating:
            meta.accuracy["calibrated"] = _measure("calibrated", model, test, meta, world, reporter)
    teacher = load_teacher(recipe, meta, trust)
    if teacher is not None:
        place(teacher, device)
        if fresh:
            _measure("teacher", teacher, test, meta, world, reporter)
    return Start(meta=meta, batches=batches, test=test, model=model, teacher=teacher, kept=kept is not None)


def _same_pixels(run: Path, meta: Meta) -> bool:
    """Whether a run's network saw images as this one will: else its ranges are those of other numbers."""
    theirs = read_meta(run)
    return theirs is not None and (theirs.mean, theirs.std, theirs.image_shape) == (
        meta.mean,
        meta.std,
        meta.image_shape,
    )


def open_data(
    recipe: Recipe,
    device: torch.device,
    world: World,
    reporter: Reporter,
    *,
    test_images: Split | None = None,
    workers: int | None = None,
) -> tuple[Meta, Batches, Split]:
    """(description of the run to be, training batches, test split). Raises InputError."""
    files = recipe.train.augment == RANDOM_VIEWS
    training = world.main_first(lambda: load_split(recipe.data, "train", files=files, workers=workers))
    test = test_images or world.main_first(lambda: load_split(recipe.data, "test", workers=workers))
    for name, split in (("training", training), ("test", test)):
        if split.left_out:
            count = len(split.left_out)
            reporter.note(f"{count} unreadable {name} images left out, the first: {split.left_out[0]}")
    if test.shape != training.shape:
        raise InputError(f"{recipe.data}: train images are {training.shape}, test images {test.shape}")
    mean, std = _normalisation(recipe, training)
    batches = Batches(training, recipe.train, Normalise(mean, std, device), device, world)
    if batches.batch < world.size:
        raise InputError(f"a batch of {batches.batch} images is too small for {world.size} processes")
    meta = Meta(
        model=recipe.model,
        image_shape=training.shape,
        classes=training.classes,
        data=recipe.data,
        mean=mean,
        std=std,
        policy=recipe.policy,
        recipe=recipe.to_dict(),
        code=code_of(recipe.model, recipe.train.teacher_model),
    )
    fault = impossible(meta)
    if fault:
        raise InputError(f"{recipe.data}: {fault}")
    return meta, batches, test


def _normalisation(recipe: Recipe, training: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, std = recipe.mean, recipe.std
    if mean is None or std is None:
        mean, std = known(recipe.data) or measure(training)
    channels = training.shape[2]
    if len(mean) != channels or len(std) != channels:
        raise InputError(f"mean and std need {channels} values, one a channel")
    return mean, std


def prepared(network: nn.Module, recipe: Recipe, meta: Meta, policy: Policy | None = None) -> fx.GraphModule:
    """The network with the quantisers of the recipe, or of `policy`.

    Raises InputError where it does not fit the classes, UnsupportedError where it is quantised and no export
    could take it.
    """
    model = prepare(network, policy or recipe.policy, meta.image_shape)
    shape, classes = output_shape(model), len(meta.classes)
    if shape[1:] != (classes,):
        raise InputError(
            f"{recipe.model} yields {' x '.join(map(str, shape[1:])) or 'no'} values an image, but "
            f"{recipe.data} has {classes} classes; a factory may take the argument `classes`"
        )
    if not recipe.floating:
        check_exportable(model, meta)
    return model


def place(network: nn.Module, device: torch.device) -> None:
    """Onto the device, in the layout that convolutions are quick in."""
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _warm(model: fx.GraphModule, recipe: Recipe, meta: Meta, batches: Batches) -> None:
    """Ranges and BN statistics that fit the quantised weights."""
    count = recipe.train.calibrate
    sample = batches.sample(count) if count and not recipe.floating else None
    if sample is not None:
        if not sample:
            raise InputError("calibrate needs at least 2 images (0 = no calibration)")
        estimate_norms(model, sample, floating=True)
        calibrate(model, sample)
    cover_pixels(model, meta)
    if sample is not None:
        estimate_norms(model, sample)


def cover_pixels(model: fx.GraphModule, meta: Meta) -> None:
    """Set the image's range to that of black and white, so that no pixel is clipped."""
    quantizer = getattr(model, INPUT_QUANT)
    assert isinstance(quantizer, ActQuantizer)
    if not quantizer.off:
        quantizer.set_bound(max(max(m, 1 - m) / s for m, s in zip(meta.mean, meta.std, strict=True)))


def _measure(
    stage: str, network: nn.Module, test: Split, meta: Meta, world: World, reporter: Reporter
) -> float:
    accuracy = evaluate(network, test, meta.mean, meta.std, world=world)
    reporter.note(f"{stage}: {accuracy:.2f}% on the test split")
    return accuracy


def usable_device(name: str) -> torch.device:
    """The device of that name. Raises InputError where it cannot be used."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device '{name}' cannot be used here: {str(error).splitlines()[0]}") from error
    return device
