"""What a training run is: a frozen recipe, read from TOML and flags, stored in every checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from hwq.data import DataSpec
from hwq.errors import InputError
from hwq.files import read_toml
from hwq.models import located
from hwq.quant import LayerRule, Policy
from hwq.train.checkpoint import Meta
from hwq.train.checkpoint.meta import unusable
from hwq.train.fixedpoint import FixedPoint
from hwq.train.schedule import RANDOM_VIEWS, Schedule
from hwq.train.trust import Trust, allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """model: a name that `hwq.models.build` knows. mean, std: None = from the data.

    init_from: a checkpoint whose float parameters are the start. pretrained: the same, of a network that
    may have been trained on other classes; its last layer is then made new. fixed: how it ends, None =
    with real-valued constants.
    """

    model: str
    data: DataSpec
    policy: Policy = field(default_factory=Policy)
    train: Schedule = field(default_factory=Schedule)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    init_from: str | None = None
    pretrained: str | None = None
    fixed: FixedPoint | None = None

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise InputError("a recipe gives both mean and std, or neither")
        if self.mean is not None and self.std is not None and (fault := unusable(self.mean, self.std)):
            raise InputError(fault)
        if self.init_from is not None and self.pretrained is not None:
            raise InputError("give init_from or pretrained, not both: each is the start")
        if self.fixed is not None and self.floating:
            raise InputError("fixed-point training needs a quantised network: leave out [fixed] or --float")
        if self.train.augment == RANDOM_VIEWS and self.data.view.size is None:
            raise InputError(f"augment = '{RANDOM_VIEWS}' needs a folder of images with a size (--size)")

    @property
    def floating(self) -> bool:
        """True when nothing is quantised."""
        return self.policy.floats

    def to_dict(self) -> dict[str, Any]:
        """The recipe as nested dictionaries in the layout of the TOML file."""
        data = {**asdict(self.data), "mean": self.mean, "std": self.std}
        top: dict[str, Any] = _plain(
            {
                "model": self.model,
                "init_from": self.init_from,
                "pretrained": self.pretrained,
                "data": data,
                "quant": self.policy.to_dict(),
                "train": asdict(self.train),
                "fixed": None if self.fixed is None else asdict(self.fixed),
            }
        )
        return top

    def to_toml(self) -> str:
        """Text that `read_recipe` reads back as an equal recipe."""
        top = self.to_dict()
        lines = [f"{k} = {_toml(v)}" for k, v in top.items() if not isinstance(v, dict)]
        for name, section in top.items():
            if isinstance(section, dict):
                lines += _section(name, section)
        return "\n".join(lines) + "\n"


def default_recipe(data: DataSpec, model: str | None = None) -> Recipe:
    """What `hwq train --data X` does: W8A8, a model that fits the data."""
    small = Schedule(
        epochs=12, batch=64, lr=0.05, augment="crop", pad=1, weight_decay=1e-4, schedule="onecycle"
    )
    large = Schedule(epochs=90, batch=256, lr=0.01, weight_decay=1e-4, augment=RANDOM_VIEWS)
    if data.name == "digits":
        return Recipe(model=model or "digits", data=data, train=small)
    if data.view.size is not None:
        return Recipe(model=model or "resnet18", data=data, train=large)
    return Recipe(model=model or "resnet20", data=data, train=Schedule())


def recipe_from_dict(top: dict[str, Any], base: Path | None = None, source: str = "recipe") -> Recipe:
    """Nested dictionaries -> Recipe; strict about keys and types. `base`: folder of relative paths."""
    top = {k: dict(v) if isinstance(v, dict) else v for k, v in top.items()}
    unknown = set(top) - {"model", "init_from", "pretrained", "data", "quant", "train", "fixed", "float"}
    if unknown:
        raise InputError(f"{source}: unknown key '{min(unknown)}' (sections: data, quant, train, fixed)")
    for section in ("data", "quant", "train", "fixed"):
        if not isinstance(top.get(section, {}), dict):
            raise InputError(f"{source}: '{section}' must be a table: [{section}]")
    for key in ("model", "init_from", "pretrained"):
        if not isinstance(top.get(key, ""), str):
            raise InputError(f"{source}: {key} must be a text in quotes, not {top[key]!r}")
    if not isinstance(top.get("float", False), bool):
        raise InputError(f"{source}: float must be true or false, not {top['float']!r}")
    data = top.get("data", {})
    if "name" not in data:
        raise InputError(f'{source}: [data] needs a name, as in name = "digits"')
    mean, std = (None if k not in data else _numbers(source, "data", k, data.pop(k)) for k in ("mean", "std"))
    spec = _typed(source, "data", DataSpec, data, None)
    if spec.root is not None:
        spec = replace(spec, root=_path(spec.root, base))
    start = default_recipe(spec, top.get("model"))
    if top.get("float") and "quant" in top:
        raise InputError(f"{source}: float = true trains without quantisation: leave out [quant]")
    policy = Policy.floating() if top.get("float") else start.policy
    starts = {key: top.get(key) for key in ("init_from", "pretrained")}
    schedule = _typed(source, "train", Schedule, top.get("train", {}), start.train)
    if schedule.teacher is not None:
        schedule = replace(schedule, teacher=_path(schedule.teacher, base))
    if schedule.teacher_model is not None:
        schedule = replace(schedule, teacher_model=located(schedule.teacher_model, base))
    fixed = None
    if "fixed" in top:
        if "format" not in top["fixed"]:
            raise InputError(f'{source}: [fixed] needs a format, as in format = "16,8"')
        fixed = _typed(source, "fixed", FixedPoint, top["fixed"], None)
    return Recipe(
        model=located(start.model, base),
        data=spec,
        policy=_policy(source, top.get("quant", {}), policy),
        train=schedule,
        mean=mean,
        std=std,
        fixed=fixed,
        **{key: None if value is None else _path(value, base) for key, value in starts.items()},
    )


def recipe_of(meta: Meta, source: Path | str, trust: Trust | None = None) -> Recipe:
    """The recipe that a checkpoint holds, to train by: its model files are those that it was trained with, or
    `trust` allows them. Raises InputError.
    """
    recipe = recipe_from_dict(meta.recipe, None, str(source))
    trust = trust or Trust()
    teacher = recipe.train.teacher_model
    if teacher is not None:
        allowed(teacher, meta.code, source, trust.others)
    return replace(recipe, model=allowed(recipe.model, meta.code, source, trust))


def read_recipe(path: Path) -> Recipe:
    """A TOML file; relative paths in it count from its folder. Raises InputError."""
    return recipe_from_dict(read_toml(path), path.resolve().parent, str(path))


def _policy(source: str, given: dict[str, Any], start: Policy) -> Policy:
    """[quant] over `start`: bit lists, [quant.layers], and plain keys."""
    plain = {k: v for k, v in given.items() if k not in ("weight_list", "act_list", "layers")}
    found: dict[str, Any] = {}
    for key in ("weight_list", "act_list"):
        if key in given:
            value = given[key]
            if not isinstance(value, list | tuple) or not all(type(v) is int for v in value):
                raise InputError(f"{source}: [quant] {key} must be a list of whole numbers, not {value!r}")
            found[key] = tuple(value)
    rules = given.get("layers", {})
    if not isinstance(rules, dict):
        raise InputError(f"{source}: 'layers' must be a table: [quant.layers]")
    for pattern, keys in rules.items():
        if not isinstance(keys, dict) or "pattern" in keys:
            raise InputError(f'{source}: [quant.layers] takes "{pattern}" = {{ weight_bits = 6 }}')
    if "layers" in given:
        found["layers"] = tuple(
            _typed(source, f"quant.layers.{pattern!r}", LayerRule, {"pattern": pattern, **keys}, None)
            for pattern, keys in rules.items()
        )
    policy: Policy = _typed(source, "quant", Policy, plain, start)
    return replace(policy, **found)


def _typed(source: str, section: str, kind: Any, given: dict[str, Any], start: Any) -> Any:
    """`given` over `start` (or over the defaults of `kind`), each value checked against its field's type."""
    hints = get_type_hints(kind)
    known = {f.name for f in fields(kind)}
    checked: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known:
            raise InputError(f"{source}: [{section}] has no key '{key}'; known: {', '.join(sorted(known))}")
        hint = hints[key]
        if get_origin(hint) is tuple:
            checked[key] = _numbers(source, section, key, value)
            continue
        types = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        if float in types and type(value) is int:
            value = float(value)
        if type(value) not in types:
            names = " or ".join(t.__name__ for t in types if t is not type(None))
            raise InputError(f"{source}: [{section}] {key} must be {names}, not {value!r}")
        checked[key] = value
    return replace(start, **checked) if start is not None else kind(**checked)


def _numbers(source: str, section: str, key: str, value: Any) -> tuple[float, ...]:
    if not isinstance(value, list | tuple) or not all(type(v) in (int, float) for v in value):
        raise InputError(f"{source}: [{section}] {key} must be a list of numbers, not {value!r}")
    return tuple(float(v) for v in value)


def _path(text: str, base: Path | None) -> str:
    path = Path(text).expanduser()
    return str((path if base is None else base / path).resolve())


def _plain(value: Any) -> Any:
    """Without None, tuples as lists: what TOML and JSON hold."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if v is not None}
    return list(value) if isinstance(value, tuple) else value


def _section(name: str, table: dict[str, Any]) -> list[str]:
    """[name] with its plain keys, then a section for every table in it, a line an entry."""
    inner = {k: v for k, v in table.items() if isinstance(v, dict)}
    lines = ["", f"[{name}]", *(f"{k} = {_toml(v)}" for k, v in table.items() if k not in inner)]
    for key, entries in inner.items():
        lines += ["", f"[{name}.{key}]", *(f"{_toml(k)} = {_toml(v)}" for k, v in entries.items())]
    return lines


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
        case dict():
            return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }"
        case _:
            return repr(value)
