"""What a checkpoint says about itself, and what of it can be true."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from hwq.data import DataSpec
from hwq.data.spec import used
from hwq.errors import InputError
from hwq.quant import Policy

_FAR = 1e6
LARGEST_IMAGE = 1 << 24
"""Values of an image, H * W * C: what tracing a network and one batch can hold in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """What a checkpoint says about itself.

    image_shape: (H, W, C). mean, std: per channel on the 0..1 scale. epoch, step: epochs done and
    iterations done in the next one. accuracy: percent on the test split by stage ('float', 'calibrated',
    'fake_quant'). recipe: the recipe as nested dictionaries. code: SHA-256 of every file of the user's that
    was run to build a network, by path. progress: the loop's own notes.
    """

    model: str
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    data: DataSpec
    mean: tuple[float, ...]
    std: tuple[float, ...]
    policy: Policy
    recipe: dict[str, Any]
    code: dict[str, str] = field(default_factory=dict)
    epoch: int = 0
    step: int = 0
    accuracy: dict[str, float] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)


def encode(meta: Meta, version: int) -> dict[str, Any]:
    """What JSON can hold, the inverse of `decode`."""
    return {"format": version, **asdict(meta), "policy": meta.policy.to_dict()}


def decode(path: Path, raw: dict[str, Any]) -> Meta:
    """The description in `raw`, without its 'format'. Raises InputError for what cannot be one."""
    raw = {**raw}
    try:
        # what a stranger's file names is read, never fetched
        raw["data"] = DataSpec(**used({**raw["data"], "download": False}))
        raw["policy"] = Policy.from_dict(raw["policy"])
        for name in ("image_shape", "classes", "mean", "std"):
            raw[name] = tuple(raw[name])
        meta = Meta(**raw)
    except InputError as error:  # of the data or the policy: they know no file
        raise InputError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: its description is damaged ({error})") from error
    fault = _wrong(meta, Meta) or impossible(meta)
    if fault:
        raise InputError(f"{path}: its description is damaged ({fault})")
    return meta


def _wrong(value: Any, hint: Any, name: str = "") -> str:
    """What in `value` is of another type than its annotation says, in words; "" where nothing is.

    JSON holds anything, and what is not checked here fails as a traceback somewhere else.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return ""
    if isinstance(hint, UnionType):
        return "" if any(not _wrong(value, kind) for kind in inner) else f"{name} is {value!r}"
    if type(value) is hint and is_dataclass(hint):
        hints = get_type_hints(hint)
        parts = ((getattr(value, f.name), hints[f.name], f"{name}.{f.name}".strip(".")) for f in fields(hint))
    elif origin is tuple and isinstance(value, tuple):
        kinds = inner[:1] * len(value) if inner[1:] == (...,) else inner
        if len(kinds) != len(value):
            return f"{name} has {len(value)} entries, not {len(kinds)}"
        parts = ((v, kind, f"{name}[{i}]") for i, (v, kind) in enumerate(zip(value, kinds, strict=True)))
    elif origin is dict and isinstance(value, dict):
        parts = ((v, inner[1], f"{name}.{k}") for k, v in value.items())
    else:
        # bool is an int to isinstance, and an int as good as a float
        fits = type(value) in (int, float) if hint is float else type(value) is hint
        return "" if fits else f"{name} is {value!r}"
    return next((fault for part in parts if (fault := _wrong(*part))), "")


def impossible(meta: Meta) -> str:
    """What of a description has the right type and cannot be, in words; "" where all can."""
    channels = meta.image_shape[2]
    if min(meta.image_shape) < 1:
        return f"image_shape is {list(meta.image_shape)}"
    if math.prod(meta.image_shape) > LARGEST_IMAGE:
        return f"image_shape is {list(meta.image_shape)}; at most {LARGEST_IMAGE:,} values an image"
    if min(meta.epoch, meta.step) < 0:
        return f"epoch {meta.epoch}, step {meta.step}"
    if not meta.classes:
        return "no classes"
    if not isinstance(meta.recipe.get("model", ""), str):
        return f"recipe.model is {meta.recipe['model']!r}"
    fixed = meta.recipe.get("fixed")
    if fixed and not (isinstance(fixed, dict) and {"format", "round"} <= set(fixed)):
        return f"recipe.fixed is {fixed!r}"
    for name, values in (("mean", meta.mean), ("std", meta.std)):
        if len(values) != channels:
            return f"{name} is {list(values)}, for {channels} channels"
    for stage, percent in meta.accuracy.items():
        if not 0 <= percent <= 100:
            return f"accuracy.{stage} is {percent}"
    return unusable(meta.mean, meta.std) or _wrong_progress(meta.progress)


def unusable(mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    """Why pixels cannot be normalised like that in float32, in words; "" where they can."""
    if not all(abs(v) <= _FAR for v in mean):
        return f"mean must be finite numbers of {_FAR:g} in size at most, not {list(mean)}"
    if not all(1 / _FAR <= v <= _FAR for v in std):
        return f"std must be finite numbers from {1 / _FAR:g} to {_FAR:g}, not {list(std)}"
    return ""


_PROGRESS: dict[str, tuple[type, ...]] = {
    "lost": (int, float),
    "best": (int, float),
    "right": (int,),
    "seen": (int,),
    "fixed_from": (int,),
    "fixed": (bool,),
    "teacher": (str,),
    "scaler": (dict,),
}


def _wrong_progress(progress: dict[str, Any]) -> str:
    """What of the loop's notes is of another type than it wrote, or no finite number; "" where nothing is."""
    for name, types in _PROGRESS.items():
        value = progress.get(name, types[0]())
        if type(value) not in types or (float in types and not math.isfinite(value)):
            return f"progress.{name} is {value!r}"
    return ""
