"""`project.json`: what a project holds, and whether its files are still the generated ones."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hwq.emit.project import GRAPH, MANIFEST, manifest_digest
from hwq.errors import InputError
from hwq.files import Missing, digest, read_json
from hwq.serde import GRAPH_TENSORS, read_seal

ABI = 1
_CODE = (".c", ".cc", ".cpp", ".cxx", ".h", ".hpp")
_SOURCES = (".c", ".cc", ".cpp", ".cxx")
_READ = (GRAPH, GRAPH_TENSORS, "issues.json", "tb_data/pixels.dat")
"""Files that hwq reads wherever they are there."""
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")
"""No `..`, no absolute path, no option and no @file of a compiler, nothing that a shell knows."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A file that is not as generated: `what` happened, in a word or a few; `op` owns its constants."""

    path: str
    what: str
    op: str | None = None

    def __str__(self) -> str:
        return f"{self.path} ({self.what}" + (f"; constants of op '{self.op}')" if self.op else ")")


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checked project.json. `raw` holds every field as written."""

    folder: Path
    files: Mapping[str, str]
    constants: Mapping[str, str]
    ops: tuple[Mapping[str, Any], ...]
    sources: tuple[str, ...]
    includes: tuple[str, ...]
    raw: Mapping[str, Any]

    def edits(self) -> list[Edit]:
        """What is not as it was exported: the manifest, its files, and files that hwq or a compiler would
        read beside them.
        """
        found = [Edit(MANIFEST, how)] if (how := self._edited()) else []
        for name, wanted in self.files.items():
            path = self.folder / name
            if not path.is_file():
                found.append(Edit(name, "missing", self.constants.get(name)))
            elif digest(path) != wanted:
                found.append(Edit(name, "edited", self.constants.get(name)))
        beside = [*self.build_files(), *(name for name in _READ if os.path.lexists(self.folder / name))]
        return [*found, *(Edit(name, "added") for name in beside if name not in self.files)]

    def _edited(self) -> str:
        """How the manifest differs from the one that was written together with graph.json; "" if not."""
        if "digest" not in self.raw:
            return "without its digest"
        digest = manifest_digest(self.raw)
        stated = [self.raw["digest"], *([read_seal(self.folder).project] if GRAPH in self.files else [])]
        return "" if all(text == digest for text in stated) else "edited"

    def build_files(self) -> list[str]:
        """Everything in the folders that a compiler looks into, listed or not, sorted."""
        code = {PurePosixPath(name).parent for name in self.files if PurePosixPath(name).suffix in _CODE}
        folders = {str(folder) for folder in code if folder.parts} | set(self.includes)
        return sorted({name for folder in folders for name in _below(self.folder, folder)})


def _below(root: Path, folder: str) -> Iterator[str]:
    """Files below root/folder and links to anything, as paths from root."""
    for where, folders, files in os.walk(root / folder):
        here = Path(where)
        for path in (*(here / name for name in files), *(here / name for name in folders)):
            if path.is_symlink() or not path.is_dir():
                yield path.relative_to(root).as_posix()


def listed(edits: Sequence[Edit], shown: int = 3) -> list[str]:
    """One line an edit; missing files, of which a whole folder may be gone, in one line of their own."""
    missing = [edit for edit in edits if edit.what == "missing"]
    if len(missing) <= shown:
        return [str(edit) for edit in edits]
    first = ", ".join(edit.path for edit in missing[:shown])
    others = [str(edit) for edit in edits if edit.what != "missing"]
    return [f"{len(missing)} files missing: {first}, ...", *others]


def read_manifest(folder: Path) -> Manifest:
    """Read and check FOLDER/project.json. Raises InputError.

    Its paths are plain ones inside the folder, links resolved; its sources are C++ files that it lists.
    """
    path = folder / MANIFEST
    try:
        raw = read_json(path, dict, advice="export the project again")
    except Missing:
        raise InputError(f"{folder} is not an exported project: it has no {MANIFEST}") from None
    if raw.get("abi") != ABI:
        abi = f"{raw.get('abi')!r:.20}"
        raise InputError(f"{path} has ABI {abi}, this hwq knows {ABI}; export the project again")
    files, constants = _table(path, raw, "files"), _table(path, raw, "constants")
    ops = _items(path, raw, "ops", dict)
    sources, includes = (_items(path, raw, key, str) for key in ("sources", "includes"))
    if not all({"name", "kind"} <= set(op) for op in ops):
        raise _damaged(path, "ops")
    for name in (*files, *sources, *includes):
        _check_inside(path, name)
    if not set(sources) <= set(files):
        raise InputError(f"{path} compiles files that it does not list; export the project again")
    if not all(PurePosixPath(name).suffix in _SOURCES for name in sources):
        raise _damaged(path, "sources: not C++")
    if not all(any(name.startswith(f"{include}/") for name in files) for include in includes):
        raise _damaged(path, "includes: folders of none of its files")
    return Manifest(folder, files, constants, ops, sources, includes, raw)


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path} is damaged ({what}); export the project again")


def _table(path: Path, raw: Mapping[str, Any], key: str) -> dict[str, str]:
    value = raw.get(key)
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise _damaged(path, key)
    if key == "files" and not value:
        raise _damaged(path, key)
    return value


def _items(path: Path, raw: Mapping[str, Any], key: str, kind: type[Any]) -> tuple[Any, ...]:
    """A list of `kind` that is not empty."""
    value = raw.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(v, kind) for v in value):
        raise _damaged(path, key)
    return tuple(value)


def _check_inside(path: Path, name: str) -> None:
    """Raises InputError unless `name` is a plain path, and what it leads to lies in the project's folder."""
    if not _PLAIN.fullmatch(name):
        raise InputError(f"{path} names {name[:80]!a}: not a plain path inside the project")
    try:
        inside = (path.parent / name).resolve().is_relative_to(path.parent.resolve())
    except (OSError, RuntimeError):  # a name that is too long, a link to itself
        inside = False
    if not inside:
        raise InputError(f"{path} names '{name[:80]}', which leads outside the project")
