"""The two files of a graph: writing them whole, reading them with distrust."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors import numpy as tensors

from hwq.errors import InputError, VerifyError
from hwq.files import (
    DOCUMENT,
    TENSORS,
    Missing,
    digest,
    json_digest,
    parse_json,
    read_bytes,
    read_json,
    write_atomically,
)
from hwq.ir import Graph, verify
from hwq.serde.format import FormatError, decode, encode

GRAPH_JSON = "graph.json"
GRAPH_TENSORS = "graph.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """What graph.json says of itself. intact: both files are as they were written. project: the digest of
    the project's manifest; "" where it states none.
    """

    intact: bool
    project: str


def dump(graph: Graph, project: str = "") -> dict[str, bytes]:
    """The files of a graph, by name. The same graph gives the same bytes.

    project: the digest of the manifest of the project that they are part of.
    """
    document, arrays = encode(graph)
    content = tensors.save(arrays)
    if project:
        document["project"] = project
    document["digest"] = _digest(document, hashlib.sha256(content).hexdigest())
    text = json.dumps(document, indent=1, ensure_ascii=True, allow_nan=False) + "\n"
    return {GRAPH_JSON: text.encode(), GRAPH_TENSORS: content}


def _digest(document: Mapping[str, Any], tensors: str) -> str:
    """SHA-256 of all that the two files say, whatever the layout of the JSON. tensors: that of the second."""
    said = {key: value for key, value in document.items() if key != "digest"}
    return json_digest({"graph": said, "tensors": tensors})


def read_seal(folder: Path | str) -> Seal:
    """Of a folder's graph; not intact, too, where the files cannot be read."""
    try:
        document = read_json(Path(folder) / GRAPH_JSON, dict)
    except InputError:
        return Seal(intact=False, project="")
    try:
        intact = document.get("digest") == _digest(document, digest(Path(folder) / GRAPH_TENSORS))
    except InputError:
        intact = False
    project = document.get("project")
    return Seal(intact=intact, project=project if isinstance(project, str) else "")


def save(graph: Graph, folder: Path | str) -> None:
    """Write both files into `folder` (made when missing); each replaces an older one in one step."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for name, content in dump(graph).items():
        write_atomically(target / name, content)


def load(folder: Path | str) -> Graph:
    """The verified graph of a folder. Raises InputError for anything missing, damaged or illegal."""
    files = {}
    for name, limit in ((GRAPH_JSON, DOCUMENT), (GRAPH_TENSORS, TENSORS)):
        try:
            files[name] = read_bytes(Path(folder) / name, limit=limit, advice="export again")
        except Missing as error:
            raise InputError(f"{error}; is {folder} a folder that hwq export wrote?") from None
    return loads(files, where=str(folder))


def loads(files: Mapping[str, bytes], where: str = "graph") -> Graph:
    """The verified graph of `dump`'s files; `where` names their source in error messages."""
    for name in (GRAPH_JSON, GRAPH_TENSORS):
        if name not in files:
            raise InputError(f"{where}: {name} is missing")
    document = parse_json(files[GRAPH_JSON], dict, where=f"{where}/{GRAPH_JSON}", advice="export again")
    try:
        arrays = tensors.load(files[GRAPH_TENSORS])
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError):
        raise InputError(
            f"{where}/{GRAPH_TENSORS}: not a safetensors file: damaged or cut short; export again"
        ) from None
    try:
        graph = decode(document, arrays)
        verify(graph)
    except (FormatError, VerifyError) as error:
        raise InputError(f"{where}/{GRAPH_JSON}: {error}; export again") from None
    return graph
