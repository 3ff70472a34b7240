"""hwq's own file: safetensors, with a description and digests in the header."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor, nn

from hwq.errors import InputError, note
from hwq.files import open_regular, parse_json, write_atomically
from hwq.train.checkpoint.digests import changed, digests, text_digest
from hwq.train.checkpoint.kinds import TAKES, Kind, kind_of
from hwq.train.checkpoint.meta import Meta, decode, encode
from hwq.train.checkpoint.values import check_values

FORMAT = 2
"""1 had no digests."""
LAST, BEST = "checkpoint.safetensors", "best.safetensors"
LARGEST = 16 << 30
"""Bytes of a file that is read at all."""
_KEY, _TENSORS = "hwq", "tensors"
"""Of the header: 'SHA-256 of the description, description'; in the description: the digests of the tensors.
One text, since safetensors writes several in any order, and the same run should give the same file."""
_SEALED = re.compile(r"([0-9a-f]{64}) (\{.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """model: the network's state dict. state: optimiser and random states, empty in best.safetensors."""

    meta: Meta
    model: dict[str, Tensor]
    state: dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stored:
    """A safetensors file as it is. metadata: the texts of its header."""

    metadata: dict[str, str]
    tensors: dict[str, Tensor]

    @property
    def own(self) -> bool:
        """Whether hwq wrote it; also where that very word is damaged."""
        return _KEY in self.metadata or any(map(_SEALED.match, self.metadata.values()))


def save_checkpoint(path: Path, meta: Meta, model: nn.Module, state: dict[str, Tensor]) -> None:
    """Write atomically: a temporary file beside, flushed to disk, renamed.

    With the SHA-256 of every tensor (`tensor_digest`) and of the description, which holds those.
    """
    tensors = {f"model.{k}": v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    tensors |= {f"state.{k}": v.detach().cpu().contiguous() for k, v in state.items()}
    about = {**encode(meta, FORMAT), _TENSORS: digests(tensors)}
    text = json.dumps(about, separators=(",", ":"))  # unsorted: of rules for layers the later win
    write_atomically(path, safetensors.save(tensors, {_KEY: f"{text_digest(text)} {text}"}))


def named_key(path: Path) -> tuple[Path, str]:
    """(file, key) of FILE:KEY, which names one of several networks in a file; else (path, "")."""
    name, colon, key = str(path).rpartition(":")
    if colon and "/" not in key and not path.exists() and Path(name).is_file():
        return Path(name), key
    return path, ""


def find(path: Path) -> Path:
    """The checkpoint file of a run folder, or the file itself, without a key. Raises InputError."""
    path = named_key(path)[0]
    if path.is_dir():
        inner = path / LAST
        if not inner.is_file():
            other = "a TensorFlow SavedModel; " + TAKES if (path / "saved_model.pb").is_file() else ""
            raise InputError(f"{path}: {other or f'no {LAST} in this folder; is it a run of `hwq train`?'}")
        return inner
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    open_regular(path).close()
    return path


def load(path: Path) -> Checkpoint:
    """Read a checkpoint (a file, or a run folder). Raises InputError unless it is a whole hwq one, with every
    tensor as it was written and every number one that can be.
    """
    path = find(path)
    stored = read_safetensors(path) if kind_of(path) is Kind.SAFETENSORS else None
    if stored is None or not stored.own:
        raise InputError(
            f"{path}: weights alone, not a checkpoint of hwq; `hwq calibrate` and `hwq train --init-from` "
            "take them"
        )
    return checkpoint_of(path, stored)


def read_safetensors(path: Path) -> Stored:
    """Header and tensors of a safetensors file of anybody. Raises InputError."""
    try:
        # opened once: a training may replace it at any moment, and safetensors' reader of files opens twice
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > LARGEST:
                raise InputError(f"{path}: holds {size:,} bytes, at most {LARGEST:,} are read")
            content = stream.read()
        tensors = safetensors.load(content)
        facts = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata = facts.get("__metadata__") or {}
    except (SafetensorError, OSError, ValueError, KeyError, RecursionError, MemoryError) as error:
        raise InputError(f"{path}: not a readable checkpoint (truncated or damaged): {error}") from error
    if tensors and not any(tensor.is_floating_point() for tensor in tensors.values()):
        raise InputError(f"{path}: holds integers alone, as the graph of an exported project does; {TAKES}")
    return Stored(metadata=metadata, tensors=tensors)


def checkpoint_of(path: Path, stored: Stored) -> Checkpoint:
    """A checkpoint of what `own` says is one. Raises InputError."""
    meta = _checked(path, stored)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "state": {}}
    for name, tensor in stored.tensors.items():
        kind, _, rest = name.partition(".")
        if kind not in parts:
            raise InputError(f"{path}: unknown tensor '{name}'")
        parts[kind][rest] = tensor
    check_values(path, {**parts["model"], **parts["state"]})
    return Checkpoint(meta=meta, model=parts["model"], state=parts["state"])


def _checked(path: Path, stored: Stored) -> Meta:
    """The description, once it and all tensors are found to be as they were written."""
    raw = _description(path, stored.metadata)
    given = raw.pop(_TENSORS, None)
    if not _SEALED.fullmatch(stored.metadata[_KEY]):
        note(f"{path}: of an earlier version of hwq, without digests: damage to its numbers cannot be seen")
    else:
        fault = "no digests" if not isinstance(given, dict) else changed(stored.tensors, given)
        if fault:
            raise InputError(f"{path}: damaged: {fault} (SHA-256); take another copy, or train again")
    return decode(path, raw)


def _description(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """The JSON of the header, its version known and its digest right. Raises InputError."""
    text = metadata.get(_KEY, "")
    sealed = _SEALED.fullmatch(text)
    if sealed:
        text = sealed[2]
    if not text.startswith("{") or (sealed and text_digest(text) != sealed[1]):
        raise InputError(
            f"{path}: damaged: its description is not as it was written (SHA-256); take another copy, or "
            "train again"
        )
    try:
        raw: dict[str, Any] = parse_json(text, dict, where="its description")
    except InputError as error:
        raise InputError(f"{path}: is damaged: {error}") from None
    version = raw.pop("format", None)
    if type(version) is not int or version != (FORMAT if sealed else 1):
        raise InputError(f"{path}: checkpoint format {version!r}, this hwq reads up to {FORMAT}")
    return raw


def read_meta(path: Path) -> Meta | None:
    """What a checkpoint of hwq says about itself; None for a file of weights alone. Raises InputError."""
    path = find(path)
    if kind_of(path) is not Kind.SAFETENSORS:
        return None
    stored = read_safetensors(path)
    return checkpoint_of(path, stored).meta if stored.own else None
