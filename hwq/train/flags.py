"""Recipe file + command-line flags -> Recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hwq.data import DataSpec
from hwq.errors import InputError
from hwq.models import MODELS
from hwq.quant import Policy
from hwq.train.recipe import Recipe, default_recipe, read_recipe

_POLICY = ("weight_method", "act_method", "weight_bits", "act_bits", "first_bits", "last_bits")
_SCHEDULE = ("epochs", "lr", "batch", "seed")


def recipe_from_flags(path: str | None, given: dict[str, Any]) -> Recipe:
    """`given`: flags that the user set. Paths in flags count from the working directory."""
    spec: DataSpec | None = None
    if "data" in given:
        spec = DataSpec.parse(given["data"], download=bool(given.get("download")))
    model = given.get("model")
    if model is not None and model not in MODELS and ":" in model:
        file, _, factory = model.rpartition(":")
        model = f"{Path(file).expanduser().resolve()}:{factory}"
    if path is not None:
        recipe = read_recipe(Path(path))
        if spec is not None:
            recipe = replace(recipe, data=spec)
        elif given.get("download"):
            recipe = replace(recipe, data=replace(recipe.data, download=True))
        recipe = replace(recipe, model=model) if model else recipe
    else:
        recipe = default_recipe(spec or DataSpec(name="digits"), model)
    if given.get("floating"):
        clash = [k for k in _POLICY if k in given]
        if clash:
            raise InputError("--float trains without quantisation: leave out the bits and methods")
        recipe = replace(recipe, policy=Policy.floating())
    recipe = replace(
        recipe,
        policy=replace(recipe.policy, **{k: given[k] for k in _POLICY if k in given}),
        train=replace(recipe.train, **{k: given[k] for k in _SCHEDULE if k in given}),
    )
    if "mean" in given or "std" in given:
        recipe = replace(recipe, mean=_numbers(given, "mean"), std=_numbers(given, "std"))
    if "init_from" in given:
        recipe = replace(recipe, init_from=str(Path(given["init_from"]).expanduser().resolve()))
    return recipe


def _numbers(given: dict[str, Any], name: str) -> tuple[float, ...] | None:
    if name not in given:
        return None
    try:
        return tuple(float(v) for v in given[name].split(","))
    except ValueError:
        raise InputError(f"--{name} takes numbers, one a channel, not '{given[name]}'") from None
