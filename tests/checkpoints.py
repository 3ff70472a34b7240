"""Checkpoints written anew with other content and right digests, as a stranger could."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import torch as safetensors
from torch import Tensor

from hwq.train.checkpoint.digests import digests, text_digest

Change = Callable[[Any], object]


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(description, tensors), unchecked."""
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    text = header["__metadata__"]["hwq"]
    return json.loads(text[text.index("{") :]), safetensors.load(content)


def rewrite(
    path: Path, *, header: Change | None = None, tensors: Change | None = None, version: int = 2
) -> None:
    """Change the description or the tensors in place. version 1: as hwq once wrote them, without digests."""
    about, held = read(path)
    if tensors is not None:
        tensors(held)
    about |= {"format": version, "tensors": digests(held)}
    if version == 1:
        about = {k: v for k, v in about.items() if k not in ("tensors", "code")}
    if header is not None:
        header(about)
    text = json.dumps(about)
    seal = f"{text_digest(text)} " if version > 1 else ""
    path.write_bytes(safetensors.save(held, {"hwq": seal + text}))
