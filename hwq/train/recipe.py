"""What a training run is: a frozen recipe, read from TOML and flags, stored in every checkpoint."""

from __future__ import annotations

import math
import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

from hwq.data import DataSpec
from hwq.errors import InputError
from hwq.models import MODELS
from hwq.quant import OFF, Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How to train. Rates are per iteration; `warmup` is in epochs.

    schedule: 'cosine' (from lr to final_lr) or 'onecycle' (up to lr in the first 30%, then down).
    augment: 'crop-flip', 'crop' or 'none' (random crop after padding `pad` black pixels). alpha_decay:
    weight of sum alpha^2 in the loss. quant_lr: learning rate of quantiser parameters, relative to lr.
    calibrate: images that set activation ranges and BN statistics before the first step; 0 leaves the
    methods' own starts. bn_freeze: last epochs with frozen BN statistics. bn_estimate: images that
    re-estimate BN statistics at the end; 0 = none.
    """

    epochs: int = 30
    batch: int = 128
    lr: float = 0.05
    final_lr: float = 0.0
    schedule: str = "cosine"
    warmup: float = 0.0
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    augment: str = "crop-flip"
    pad: int = 4
    alpha_decay: float = 2e-4
    quant_lr: float = 1.0
    calibrate: int = 1024
    bn_freeze: int = 0
    bn_estimate: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        _choose("schedule", self.schedule, ("cosine", "onecycle"))
        _choose("augment", self.augment, ("crop-flip", "crop", "none"))
        for name in ("batch",):
            _atleast(name, getattr(self, name), 1)
        for name in ("epochs", "lr", "final_lr", "warmup", "momentum", "weight_decay", "label_smoothing"):
            _atleast(name, getattr(self, name), 0)
        for name in ("pad", "alpha_decay", "quant_lr", "calibrate", "bn_freeze", "bn_estimate"):
            _atleast(name, getattr(self, name), 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """model: a name in `hwq.models.MODELS`, or module.py:factory. mean, std: None = from the data.

    init_from: a checkpoint whose float parameters are the start.
    """

    model: str
    data: DataSpec
    policy: Policy = field(default_factory=Policy)
    train: Schedule = field(default_factory=Schedule)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    init_from: str | None = None

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise InputError("a recipe gives both mean and std, or neither")
        if not all(math.isfinite(v) for v in (*(self.mean or ()), *(self.std or ()))):
            raise InputError("mean and std must be finite numbers")
        if self.std is not None and min(self.std, default=0) <= 0:
            raise InputError("std must be positive")

    @property
    def floating(self) -> bool:
        """True when nothing is quantised."""
        p = self.policy
        return p.weight_bits == p.act_bits == p.input_bits == OFF and p.pool_bits == OFF

    def to_dict(self) -> dict[str, Any]:
        """The recipe as nested dictionaries in the layout of the TOML file."""
        data = {**asdict(self.data), "mean": self.mean, "std": self.std}
        top: dict[str, Any] = _plain(
            {
                "model": self.model,
                "init_from": self.init_from,
                "data": data,
                "quant": asdict(self.policy),
                "train": asdict(self.train),
            }
        )
        return top

    def to_toml(self) -> str:
        """Text that `read_recipe` reads back as an equal recipe."""
        top = self.to_dict()
        lines = [f"{k} = {_toml(v)}" for k, v in top.items() if not isinstance(v, dict)]
        for name, section in top.items():
            if isinstance(section, dict):
                lines += ["", f"[{name}]", *(f"{k} = {_toml(v)}" for k, v in section.items())]
        return "\n".join(lines) + "\n"


def default_recipe(data: DataSpec, model: str | None = None) -> Recipe:
    """What `hwq train --data X` does: W8A8, a model that fits the data."""
    name = model or ("digits" if data.name == "digits" else "resnet20")
    small = Schedule(
        epochs=12, batch=64, lr=0.05, augment="crop", pad=1, weight_decay=1e-4, schedule="onecycle"
    )
    return Recipe(model=name, data=data, train=small if data.name == "digits" else Schedule())


def recipe_from_dict(top: dict[str, Any], base: Path | None = None, source: str = "recipe") -> Recipe:
    """Nested dictionaries -> Recipe; strict about keys and types. `base`: folder of relative paths."""
    top = {k: dict(v) if isinstance(v, dict) else v for k, v in top.items()}
    unknown = set(top) - {"model", "init_from", "data", "quant", "train", "float"}
    if unknown:
        raise InputError(f"{source}: unknown key '{min(unknown)}' (sections: data, quant, train)")
    for section in ("data", "quant", "train"):
        if not isinstance(top.get(section, {}), dict):
            raise InputError(f"{source}: '{section}' must be a table: [{section}]")
    data = top.get("data", {})
    if "name" not in data:
        raise InputError(f'{source}: [data] needs a name, as in name = "digits"')
    mean, std = (_channels(source, k, data.pop(k, None)) for k in ("mean", "std"))
    spec = _typed(source, "data", DataSpec, data, None)
    if spec.root is not None:
        spec = replace(spec, root=_path(spec.root, base))
    start = default_recipe(spec, top.get("model"))
    policy = Policy.floating() if top.get("float") else start.policy
    model, init = start.model, top.get("init_from")
    if model not in MODELS and ":" in model:
        path, _, factory = model.rpartition(":")
        model = f"{_path(path, base)}:{factory}"
    return Recipe(
        model=model,
        data=spec,
        policy=_typed(source, "quant", Policy, top.get("quant", {}), policy),
        train=_typed(source, "train", Schedule, top.get("train", {}), start.train),
        mean=mean,
        std=std,
        init_from=_path(init, base) if isinstance(init, str) else None,
    )


def read_recipe(path: Path) -> Recipe:
    """A TOML file; relative paths in it count from its folder. Raises InputError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise InputError(f"{path}: {reason}") from error
    try:
        top = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from error
    return recipe_from_dict(top, path.resolve().parent, str(path))


def _typed(source: str, section: str, kind: Any, given: dict[str, Any], start: Any) -> Any:
    """`given` over `start` (or over the defaults of `kind`), each value checked against its field's type."""
    hints = get_type_hints(kind)
    known = {f.name for f in fields(kind)}
    checked: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known:
            raise InputError(f"{source}: [{section}] has no key '{key}'; known: {', '.join(sorted(known))}")
        hint = hints[key]
        types = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        if float in types and type(value) is int:
            value = float(value)
        if type(value) not in types:
            names = " or ".join(t.__name__ for t in types if t is not type(None))
            raise InputError(f"{source}: [{section}] {key} must be {names}, not {value!r}")
        checked[key] = value
    return replace(start, **checked) if start is not None else kind(**checked)


def _channels(source: str, key: str, value: Any) -> tuple[float, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not all(type(v) in (int, float) for v in value):
        raise InputError(f"{source}: [data] {key} must be a list of numbers, one a channel")
    return tuple(float(v) for v in value)


def _path(text: str, base: Path | None) -> str:
    path = Path(text).expanduser()
    return str((path if base is None else base / path).resolve())


def _choose(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{name} must be {', '.join(known)}, not '{value}'")


def _atleast(name: str, value: float, least: float) -> None:
    if not value >= least or value == float("inf"):
        raise InputError(f"{name} must be a finite number, at least {least}, not {value}")


def _plain(value: Any) -> Any:
    """Without None, tuples as lists: what TOML and JSON hold."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if v is not None}
    return list(value) if isinstance(value, tuple) else value


def _toml(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            escaped = "".join(
                f"\\u{ord(c):04x}" if ord(c) < 32 or c in '"\\' or ord(c) == 127 else c for c in value
            )
            return f'"{escaped}"'
        case list():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case _:
            return repr(value)
