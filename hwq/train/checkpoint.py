"""Checkpoints: one safetensors file, tensors plus JSON in the header. Loading runs no pickled code."""

from __future__ import annotations

import json
import math
import pickle
import re
import struct
import warnings
import zipfile
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor, nn

from hwq.data import DataSpec
from hwq.data.spec import used
from hwq.errors import InputError
from hwq.files import write_atomically
from hwq.quant import Policy
from hwq.quant.methods.dorefa import Rescale
from hwq.quant.methods.table import ACT_METHODS, WEIGHT_METHODS, make_act, make_weight

FORMAT = 1
LAST, BEST = "checkpoint.safetensors", "best.safetensors"
_OPTIONAL = ("num_batches_tracked", "_quant.seen")
"""What older files lack; their modules know what that means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """What a checkpoint says about itself.

    image_shape: (H, W, C). mean, std: per channel on the 0..1 scale. epoch, step: epochs done and
    iterations done in the next one. accuracy: percent on the test split by stage ('float', 'calibrated',
    'fake_quant'). recipe: the recipe as nested dictionaries. progress: the loop's own notes.
    """

    model: str
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    data: DataSpec
    mean: tuple[float, ...]
    std: tuple[float, ...]
    policy: Policy
    recipe: dict[str, Any]
    epoch: int = 0
    step: int = 0
    accuracy: dict[str, float] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """model: the network's state dict. state: optimiser and random states, empty in best.safetensors."""

    meta: Meta
    model: dict[str, Tensor]
    state: dict[str, Tensor]


def save_checkpoint(path: Path, meta: Meta, model: nn.Module, state: dict[str, Tensor]) -> None:
    """Write atomically: a temporary file beside, flushed to disk, renamed."""
    tensors = {f"model.{k}": v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    tensors |= {f"state.{k}": v.detach().cpu().contiguous() for k, v in state.items()}
    header = {"hwq": json.dumps({"format": FORMAT, **asdict(meta), "policy": meta.policy.to_dict()})}
    write_atomically(path, safetensors.save(tensors, header))


def find(path: Path) -> Path:
    """The checkpoint file of a run folder, or the file itself. Raises InputError."""
    if path.is_dir():
        inner = path / LAST
        if not inner.is_file():
            raise InputError(f"{path}: no {LAST} in this folder; is it a run of `hwq train`?")
        return inner
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder")
    return path


def load(path: Path) -> Checkpoint:
    """Read a checkpoint (a file, or a run folder). Raises InputError unless it is a whole hwq one."""
    path = find(path)
    header, tensors = _read(path)
    if header is None:
        raise InputError(f"{path}: a safetensors file, but not a checkpoint of hwq")
    return _checkpoint(path, header, tensors)


def _read(path: Path) -> tuple[str | None, dict[str, Tensor]]:
    """(hwq's description, tensors) of a safetensors file; None for the file of another program."""
    try:
        # opened once: a training may replace it at any moment, and safetensors' reader of files opens twice
        content = path.read_bytes()
        tensors = safetensors.load(content)
        facts = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        header = (facts.get("__metadata__") or {}).get("hwq")
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable checkpoint (truncated or damaged): {error}") from error
    return header, tensors


def _checkpoint(path: Path, header: str, tensors: dict[str, Tensor]) -> Checkpoint:
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "state": {}}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind not in parts:
            raise InputError(f"{path}: unknown tensor '{name}'")
        parts[kind][rest] = tensor
    return Checkpoint(meta=_meta(path, header), model=parts["model"], state=parts["state"])


def _meta(path: Path, header: str) -> Meta:
    try:
        raw = json.loads(header)
        found = raw.pop("format")
        if found != FORMAT:
            raise InputError(f"{path}: checkpoint format {found}, this hwq reads {FORMAT}")
        raw["data"] = DataSpec(**used(raw["data"]))
        raw["policy"] = Policy.from_dict(raw["policy"])
        for name in ("image_shape", "classes", "mean", "std"):
            raw[name] = tuple(raw[name])
        meta = Meta(**raw)
    except InputError as error:  # of the data or the policy: they know no file
        raise InputError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: its description is damaged ({error})") from error
    fault = _wrong(meta, Meta) or _impossible(meta)
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


def _impossible(meta: Meta) -> str:
    """What of a description has the right type and cannot be, in words; "" where all can."""
    channels = meta.image_shape[2]
    if min(meta.image_shape) < 1:
        return f"image_shape is {list(meta.image_shape)}"
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
        if len(values) != channels or not all(map(math.isfinite, values)):
            return f"{name} is {list(values)}, for {channels} channels"
    return "" if min(meta.std) > 0 else f"std is {list(meta.std)}"


def read_meta(path: Path) -> Meta | None:
    """What a checkpoint of hwq says about itself; None for a file of weights alone. Raises InputError."""
    path = find(path)
    header = _read(path)[0] if path.suffix == ".safetensors" else None
    return None if header is None else _meta(path, header)


def load_weights(path: Path) -> tuple[dict[str, Tensor], Policy | None]:
    """(float parameters for --init-from, the policy of a quantised run or None for a float network).

    From an hwq checkpoint, or a state dict in a safetensors file or saved by torch.

    Takes the dictionary under 'state_dict' or 'model' where there is one, and strips 'module.' prefixes.
    Quantiser tensors of hwq checkpoints are left out. Raises InputError.
    """
    path = find(path)
    if path.suffix == ".safetensors":
        header, tensors = _read(path)
        if header is None:
            return {k.removeprefix("module."): v for k, v in tensors.items()}, None
        run = _checkpoint(path, header, tensors)
        own = _of_quantizers()
        weights = {k: v for k, v in run.model.items() if not own.search(k)}
        return weights, None if run.meta.policy.floats else run.meta.policy
    stored = _torch_file(path)
    for key in ("state_dict", "model"):
        if isinstance(stored, dict) and isinstance(stored.get(key), dict):
            stored = stored[key]
    if not isinstance(stored, dict) or not all(isinstance(v, Tensor) for v in stored.values()):
        raise InputError(f"{path}: holds no state dict (names -> tensors)")
    return {str(k).removeprefix("module."): v for k, v in stored.items()}, None


def _of_quantizers() -> re.Pattern[str]:
    """Names of quantisers' tensors. `prepare` calls every quantiser something_quant; so may users a layer."""
    made = [make_weight(name, 4, rescale=Rescale.LEARNED.value) for name in WEIGHT_METHODS]
    tensors = {
        key for q in (*made, *(make_act(n, 4, signed=True) for n in ACT_METHODS)) for key in q.state_dict()
    }
    return re.compile(rf"_quant\.({'|'.join(sorted(tensors))})$")


def _torch_file(path: Path) -> Any:
    """What torch.save wrote, as far as it loads without running code. Raises InputError in words of
    our own: torch's advise to run it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files that are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        struct.error,
    ) as error:
        said = str(error)
        unpickled = isinstance(error, pickle.UnpicklingError) and zipfile.is_zipfile(path)
        if unpickled or "Unsupported global" in said or "TorchScript" in said:
            raise InputError(
                f"{path}: holds more than tensors (a whole module was pickled?), and none of "
                "its code is run: save model.state_dict() instead"
            ) from error
        why = f"{error.strerror} or " if isinstance(error, OSError) and error.strerror else ""
        raise InputError(f"{path}: {why}truncated, or not a file of torch.save") from error


def fill(model: nn.Module, weights: dict[str, Tensor], source: Path | str, name: str) -> None:
    """load_state_dict, strict, with one clear line for the first thing that does not fit."""
    own = model.state_dict()
    missing = [k for k in own if k not in weights and not k.endswith(_OPTIONAL)]
    extra = [k for k in weights if k not in own]
    wrong = [k for k in own if k in weights and own[k].shape != weights[k].shape]
    fault = ""
    if missing:
        fault = f"'{missing[0]}' is missing ({len(missing)} tensors are)"
    elif extra:
        fault = f"'{extra[0]}' is not part of it ({len(extra)} tensors are not)"
    elif wrong:
        k = wrong[0]
        fault = f"'{k}' has shape {tuple(weights[k].shape)}, not {tuple(own[k].shape)}"
    if fault:
        raise InputError(f"{source}: a checkpoint of another model than {name}: {fault}")
    model.load_state_dict(weights, strict=False)
