"""A project: files in memory, written to disk in one step."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwq.errors import InputError, ToolError
from hwq.files import dead_folders, fresh_folder, install, json_digest, name_lock, read_json, recover

MANIFEST = "project.json"
GRAPH = "graph.json"
"""The one file that states the manifest's digest."""


@dataclass(frozen=True, slots=True)
class Project:
    """Generated files: path relative to the project -> content."""

    files: Mapping[str, bytes]

    def digest(self) -> str:
        """SHA-256 over names and contents."""
        key = hashlib.sha256()
        for name in sorted(self.files):
            key.update(f"{name}\0{hashlib.sha256(self.files[name]).hexdigest()}\n".encode())
        return key.hexdigest()

    def write(self, folder: Path, *, replace: bool = True) -> None:
        """Write all files, or none: into a folder beside `folder` first, which then takes its place.

        An older project there is replaced (unless `replace` is False), anything else is refused:
        InputError. ToolError when the disk refuses; what stood there before is untouched then.
        """
        folder = Path(os.path.abspath(folder))  # noqa: PTH100 -- keeps symbolic links as they are
        _check_target(folder, replace)
        target = folder.resolve()
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with name_lock(target), fresh_folder(target.parent, target.name) as staging:
                recover(target.parent, target.name)
                self._fill(staging / "new" / target.name)
                install(staging, target.parent, old=[target.name])
        except OSError as error:
            raise ToolError(f"cannot write the project to {folder}: {error.strerror}") from None

    def _fill(self, folder: Path) -> None:
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of everything a manifest says, but `digest` itself and the SHA-256 of graph.json.

    graph.json states the same digest: whoever changes one of the two files has to change the other.
    """
    files = {name: digest for name, digest in manifest["files"].items() if name != GRAPH}
    return json_digest({**{k: v for k, v in manifest.items() if k != "digest"}, "files": files})


def _check_target(folder: Path, replace: bool) -> None:
    try:
        if folder.is_symlink() and not folder.exists():
            raise InputError(f"{folder} is a link to nowhere; remove it or choose another --out")
        if not folder.exists():
            return
        if not folder.is_dir():
            raise InputError(f"{folder} is a file; choose another --out")
        if not any(folder.iterdir()):
            return
        ours = is_project(folder)
    except OSError as error:
        raise ToolError(f"cannot look into {folder}: {error.strerror}") from None
    if not ours:
        raise InputError(f"{folder} holds something that is no hwq project; choose another --out or empty it")
    if not replace:
        raise InputError(f"{folder} holds a project already")


def is_project(folder: Path) -> bool:
    """Whether hwq wrote this folder: its manifest says so."""
    try:
        manifest = read_json(folder / MANIFEST, dict)
    except InputError:
        return False
    return "hwq" in manifest and "files" in manifest


def recover_project(folder: Path) -> None:
    """Put the project back that an export left beside `folder` when it was killed. Never raises."""
    target = folder.resolve()
    with suppress(OSError, InputError):
        if dead_folders(target.parent, target.name):
            with name_lock(target):
                recover(target.parent, target.name)
