"""`project.json`: what a project holds, and whether its files are still the generated ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hwq.errors import InputError
from hwq.files import Missing, digest, read_json

ABI = 1
MANIFEST = "project.json"
_CODE = (".c", ".cc", ".cpp", ".cxx", ".h", ".hpp")


@dataclass(frozen=True, slots=True)
class Edit:
    """A file that is not as generated: `what` is edited, missing or added; `op` owns its constants."""

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
        """Every generated file that changed or is gone, and C++ files that were added beside them."""
        found: list[Edit] = []
        for name, wanted in self.files.items():
            path = self.folder / name
            if not path.is_file():
                found.append(Edit(name, "missing", self.constants.get(name)))
            elif digest(path) != wanted:
                found.append(Edit(name, "edited", self.constants.get(name)))
        folders = {PurePosixPath(name).parent for name in self.files if PurePosixPath(name).suffix in _CODE}
        for folder in sorted(folders):
            for path in sorted((self.folder / folder).glob("*")):
                name = str(folder / path.name)
                if path.suffix in _CODE and path.is_file() and name not in self.files:
                    found.append(Edit(name, "added"))
        return found


def listed(edits: Sequence[Edit], shown: int = 3) -> list[str]:
    """One line an edit; missing files, of which a whole folder may be gone, in one line of their own."""
    missing = [edit for edit in edits if edit.what == "missing"]
    if len(missing) <= shown:
        return [str(edit) for edit in edits]
    first = ", ".join(edit.path for edit in missing[:shown])
    others = [str(edit) for edit in edits if edit.what != "missing"]
    return [f"{len(missing)} files missing: {first}, ...", *others]


def read_manifest(folder: Path) -> Manifest:
    """Read and check FOLDER/project.json. Raises InputError."""
    path = folder / MANIFEST
    try:
        raw = read_json(path, dict, advice="export the project again")
    except Missing:
        raise InputError(f"{folder} is not an exported project: it has no {MANIFEST}") from None
    if raw.get("abi") != ABI:
        raise InputError(f"{path} has ABI {raw.get('abi')!r}, this hwq knows {ABI}; export the project again")
    files, constants = _table(path, raw, "files"), _table(path, raw, "constants")
    ops = _items(path, raw, "ops", dict)
    sources, includes = (_items(path, raw, key, str) for key in ("sources", "includes"))
    if not all({"name", "kind"} <= set(op) for op in ops):
        raise _damaged(path, "ops")
    for name in (*files, *sources, *includes):
        if not _inside(name):
            raise InputError(f"{path} names '{name}', outside the project")
    if not set(sources) <= set(files):
        raise InputError(f"{path} compiles files that it does not list; export the project again")
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


def _inside(name: str) -> bool:
    """A path within the project that no compiler takes for an option."""
    pure = PurePosixPath(name)
    return not pure.is_absolute() and ".." not in pure.parts and not name.startswith("-") and name != ""
