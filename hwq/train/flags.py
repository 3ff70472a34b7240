"""Recipe file + command-line flags -> Recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hwq.data import DataSpec
from hwq.errors import InputError
from hwq.files import parse_toml
from hwq.models import located
from hwq.quant import OFF, LayerRule, Policy
from hwq.quant.placing.choices import IMAGE
from hwq.quant.placing.policy import DEFAULT_IMAGE_BITS
from hwq.train.checkpoint import read_meta
from hwq.train.fixedpoint import FixedPoint
from hwq.train.posttraining import POST_TRAINING
from hwq.train.recipe import Recipe, default_recipe, read_recipe, recipe_from_dict, recipe_of
from hwq.train.trust import Trust

_POLICY = (
    *("weight_method", "act_method", "weight_bits", "act_bits", "first", "last", "first_bits", "last_bits"),
    *("residual_bits", "branch", "per_channel"),
)
_SCHEDULE = ("epochs", "lr", "batch", "augment", "tensorboard", "seed")
TUNING_EPOCHS = 5
_DATA = ("download", "size", "resize", "skip_bad")
TEACHER_SHARE = 0.5
"""`distill` with --teacher, where the recipe does not say."""


def recipe_from_flags(
    path: str | None,
    given: dict[str, Any],
    *,
    start: Recipe | None = None,
    policy: Policy | None = None,
    trust: Trust | None = None,
) -> Recipe:
    """`given`: flags that the user set. Paths in flags count from the working directory.

    Without a recipe file flags change `start`, or the default recipe with `policy`, where these are given.
    trust: of the model file that the run of --finetune names.
    """
    if "finetune" in given:
        if path is not None or "init_from" in given or "pretrained" in given:
            raise InputError(
                "--finetune takes recipe and start from a run: leave out RECIPE and other starts"
            )
        start = tuning_recipe(Path(given["finetune"]), trust)
    start = start if path is None else read_recipe(Path(path))
    spec: DataSpec | None = None
    if "data" in given:
        spec = DataSpec.parse(
            given["data"],
            download=bool(given.get("download")),
            like=None if start is None else start.data,
        )
    model = located(given["model"]) if "model" in given else None
    if start is not None:
        recipe = replace(start, data=_seen(spec or start.data, given), model=model or start.model)
    else:
        recipe = default_recipe(_seen(spec or DataSpec(name="digits"), given), model)
        recipe = replace(recipe, policy=policy or recipe.policy)
    if given.get("floating"):
        clash = [k for k in (*_POLICY, "quantize_input", "layer") if k in given]
        if clash or any(text.startswith("quant.") for text in given.get("set", ())):
            raise InputError("--float trains without quantisation: leave out the bits and methods")
        recipe = replace(recipe, policy=Policy.floating())
    recipe = replace(
        recipe,
        policy=_policy(recipe.policy, given),
        train=replace(recipe.train, **{k: given[k] for k in _SCHEDULE if k in given}),
    )
    if "teacher" in given:
        share = recipe.train.distill or TEACHER_SHARE
        taught = replace(recipe.train, teacher=_file(given, "teacher"), distill=share)
        recipe = replace(recipe, train=taught)
    if "mean" in given or "std" in given:
        recipe = replace(recipe, mean=_numbers(given, "mean"), std=_numbers(given, "std"))
    recipe = replace(recipe, fixed=_fixed(recipe, given))
    if "init_from" in given or "pretrained" in given:  # either takes the place of the recipe's start
        recipe = replace(recipe, init_from=_file(given, "init_from"), pretrained=_file(given, "pretrained"))
    return _with_keys(recipe, given["set"]) if "set" in given else recipe


def _with_keys(recipe: Recipe, texts: Sequence[str]) -> Recipe:
    """The recipe with SECTION.KEY=VALUE over it; VALUE is TOML, or else a word as it stands."""
    top = recipe.to_dict()
    for text in texts:
        name, equals, value = text.partition("=")
        section, dot, key = name.strip().partition(".")
        table = top.setdefault(section, {})
        if not (equals and dot and key and isinstance(table, dict)):
            raise InputError(f"--set takes SECTION.KEY=VALUE, as in train.weight_decay=1e-4, not '{text}'")
        try:
            (read,) = parse_toml(f"value = {value}", where="--set").values()
        except (InputError, ValueError):  # ValueError: more than one line
            read = value.strip()
        table[key] = read
    return recipe_from_dict(top, None, "--set")


def tuning_recipe(run: Path, trust: Trust | None = None) -> Recipe:
    """A run's own recipe to go on from it: few epochs, a tenth of the learning rate. Raises InputError.

    The float network that taught the run, or that it started from, stays the teacher of a distillation.
    """
    meta = read_meta(run)
    if meta is None:
        raise InputError(f"{run}: not a run of hwq; --finetune goes on from one")
    start = recipe_of(meta, run, trust)
    schedule = replace(start.train, epochs=TUNING_EPOCHS, lr=start.train.lr / 10, warmup=0.0)
    if schedule.distill and schedule.teacher is None:
        schedule = replace(schedule, teacher=start.init_from or start.pretrained, teacher_model=start.model)
    source = str(run.expanduser().resolve())
    return replace(
        start,
        policy=meta.policy,
        mean=meta.mean,
        std=meta.std,
        train=schedule,
        init_from=source,
        pretrained=None,
        fixed=None,
    )


def _fixed(recipe: Recipe, given: dict[str, Any]) -> FixedPoint | None:
    """The recipe's [fixed] with flags over it."""
    names = {"fixed": "format", "edge_fixed": "edge", "rounding": "round"}
    changes = {key: given[flag] for flag, key in names.items() if flag in given}
    if not changes:
        return recipe.fixed
    if recipe.fixed is not None:
        return replace(recipe.fixed, **changes)
    if "format" not in changes:
        raise InputError("--edge-fixed and --round belong to fixed-point training: add --fixed FORMAT")
    return FixedPoint(**changes)


def calibration_recipe(
    source: Path, path: str | None, given: dict[str, Any], trust: Trust | None = None
) -> Recipe:
    """The recipe of a calibration of the float network in `source`, which becomes its `init_from`.

    Flags over the recipe file; without one over what a float run of hwq says about itself, or over the
    default recipe, both with the policy `POST_TRAINING`. Raises InputError.
    """
    start = None
    meta = read_meta(source) if path is None else None
    if meta is not None:
        start = recipe_of(meta, source, trust)
        start = replace(start, policy=POST_TRAINING, mean=meta.mean, std=meta.std)
    recipe = recipe_from_flags(path, given, start=start, policy=POST_TRAINING)
    return replace(recipe, init_from=str(source.expanduser().resolve()), pretrained=None, fixed=None)


def _file(given: dict[str, Any], name: str) -> str | None:
    return str(Path(given[name]).expanduser().resolve()) if name in given else None


def _seen(spec: DataSpec, given: dict[str, Any]) -> DataSpec:
    """The data set with the flags that say how its images are seen."""
    return replace(spec, **{k: given[k] for k in _DATA if k in given})


def _policy(policy: Policy, given: dict[str, Any]) -> Policy:
    """Flags over the recipe's policy. A flag takes back what the recipe says about the same thing elsewhere.

    Rules of --layer come after the recipe's; one with the pattern of an earlier one replaces it.
    """
    changes = {k: given[k] for k in _POLICY if k in given}
    if "weight_bits" in given:
        changes["weight_list"] = None
    if "act_bits" in given:
        changes["act_list"] = None
    for edge in ("first", "last"):
        if edge in given:
            changes.setdefault(f"{edge}_bits", None)
    if "first" in given:
        changes["input_bits"] = None
    policy = replace(policy, **changes)
    if given.get("quantize_input") is False:
        policy = replace(policy, input_bits=OFF)
    elif given.get("quantize_input") and policy.image_bits == OFF:
        policy = replace(policy, input_bits=DEFAULT_IMAGE_BITS)
    rules = {rule.pattern: rule for rule in policy.layers}
    if "quantize_input" in given and (image := rules.pop(IMAGE, None)) and set(image.given()) != {"act_bits"}:
        rules[IMAGE] = replace(image, act_bits=None)
    for rule in map(LayerRule.parse, given.get("layer", ())):
        rules.pop(rule.pattern, None)
        rules[rule.pattern] = rule
    return replace(policy, layers=tuple(rules.values()))


def _numbers(given: dict[str, Any], name: str) -> tuple[float, ...] | None:
    if name not in given:
        return None
    try:
        return tuple(float(v) for v in given[name].split(","))
    except ValueError:
        raise InputError(f"--{name} takes numbers, one a channel, not '{given[name]}'") from None
