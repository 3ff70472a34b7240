"""Whether a project's code may run: nothing that hwq did not write itself does so unasked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hwq import __version__
from hwq.cosim.manifest import Edit, Manifest, listed
from hwq.emit import Folding, emit
from hwq.emit.project import MANIFEST
from hwq.errors import InputError, MismatchError
from hwq.files import TENSORS, canonical, read_bytes
from hwq.ir import Graph
from hwq.serde import load

FOREIGN = "not what hwq writes for graph.json"
_SAID = ("name", "top", "sources", "includes", "ops", "constants", "folding")
"""Fields of a manifest that follow from the graph and its folding."""
_SHOWN = 3


def examine(manifest: Manifest, *, accept: bool) -> tuple[Graph, list[Edit]]:
    """The graph, and all that is not as hwq wrote it: by the digests that the project states, and, since
    anyone can compute those anew, by writing the project's code once more.

    Compiles and runs nothing. Raises MismatchError where there are edits that nobody accepts, InputError
    (a damaged graph).
    """
    edits = manifest.edits()
    if edits and not accept:
        raise refusal(manifest, edits)
    graph = load(manifest.folder)
    known = {edit.path for edit in edits}
    edits += [edit for edit in foreign(manifest, graph) if edit.path not in known]
    if edits and not accept:
        raise refusal(manifest, edits)
    return graph, edits


def refusal(manifest: Manifest, edits: list[Edit]) -> MismatchError:
    """One line: what changed, that nothing of it ran, what to do."""
    lines = listed(edits)
    more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    by = manifest.raw.get("hwq")
    other = f" (by hwq {by!s:.20}, this is {__version__})" if by != __version__ else ""
    return MismatchError(
        f"{manifest.folder}: changed since export{other}, nothing of it was compiled: "
        f"{', '.join(lines[:_SHOWN])}{more}; export again, or run it as it is with --accept-edits"
    )


def foreign(manifest: Manifest, graph: Graph) -> list[Edit]:
    """Files of the C++ and fields of the manifest that are not what hwq writes for this graph."""
    try:
        fresh = emit(graph, folding=_folding(manifest)).files
    except InputError as error:
        raise InputError(f"{manifest.folder / MANIFEST}: {error}") from None
    said = json.loads(fresh[MANIFEST])
    same = all(canonical(said[key]) == canonical(manifest.raw.get(key)) for key in _SAID)
    found = [] if same else [Edit(MANIFEST, FOREIGN)]
    folders = {*said["includes"], *manifest.includes, "weights"}
    ours = {name: content for name, content in fresh.items() if name.partition("/")[0] in folders}
    for name in sorted({*ours, *manifest.build_files()}):
        if _content(manifest.folder / name) != ours.get(name):
            found.append(Edit(name, FOREIGN, manifest.constants.get(name)))
    return found


def _content(path: Path) -> bytes | None:
    return read_bytes(path, limit=TENSORS) if path.is_file() else None


def _folding(manifest: Manifest) -> Mapping[str, Folding]:
    said: Any = manifest.raw.get("folding")
    try:
        pairs = {name: tuple(pair) for name, pair in said.items()}
        if all(len(pair) == 2 and all(type(n) is int for n in pair) for pair in pairs.values()):
            return {name: Folding(*pair) for name, pair in pairs.items()}
    except (AttributeError, TypeError):
        pass
    raise InputError("its folding is damaged; export the project again")
