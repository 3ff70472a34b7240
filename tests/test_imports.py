"""The table of docs: which module of hwq may import which, and nothing upward."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from hwq.cli import COMMANDS

ROOT = Path(__file__).parents[1] / "hwq"

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "files": {"errors"},
    "terminal": set(),
    "children": set(),
    "compiler": {"children", "errors", "files"},
    "assets": {"errors"},
    "fixed": {"errors"},
    "ir": {"errors", "fixed"},
    "serde": {"files", "errors", "fixed", "ir"},
    "quant": {"errors", "fixed"},
    "models": {"errors", "quant"},
    "data": {"files", "errors", "terminal"},
    "train": {"files", "errors", "fixed", "quant", "models", "data", "lower", "terminal"},
    "lower": {"errors", "fixed", "ir", "quant"},
    "passes": {"errors", "fixed", "ir"},
    "simulate": {"errors", "fixed", "ir"},
    "engine": {"assets", "compiler", "errors", "fixed", "ir", "simulate"},
    "emit": {"assets", "errors", "files", "fixed", "ir"},
    "agreement": {"data", "errors", "fixed", "ir", "lower", "passes", "quant", "serde", "simulate", "train"},
    "cosim": {
        "agreement",
        "children",
        "compiler",
        "emit",
        "engine",
        "errors",
        "files",
        "ir",
        "serde",
        "simulate",
    },
    "onnx": {"errors", "fixed", "ir"},
    "estimate": {"errors", "fixed", "ir"},
    "report": {"assets", "errors", "files", "fixed", "ir"},
    "explain": {"data", "engine", "errors", "fixed", "ir", "lower", "simulate"},
    "sweep": {"engine", "errors", "files", "fixed", "ir", "lower", "simulate"},
}
ROOMS: dict[str, dict[str, set[str]]] = {
    "quant": {
        "methods": set(),
        "tracing": set(),
        "placing": {"methods", "tracing"},
        "fixedpoint": {"methods", "tracing", "placing"},
        "calibration": {"methods", "tracing", "placing", "fixedpoint"},
    },
    "train": {"checkpoint": set()},
}
"""Rooms of a module, and which of them each may import; none imports the front of its module."""
TORCH = {"agreement", "quant", "models", "data", "train", "lower", "simulate"}
"""Modules that may import torch; data only what torchvision's datasets need."""
LIGHT = {"children", "errors", "files", "assets", "fixed", "ir"}
"""Modules that need numpy at most."""


def _module(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _sources() -> list[Path]:
    return [p for p in sorted(ROOT.rglob("*.py")) if _module(p) not in ("__init__", "__main__", "_assets")]


def _imported(path: Path) -> set[str]:
    """Dotted names of everything the file imports, function bodies included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", _sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_table(path: Path) -> None:
    module = _module(path)
    names = _imported(path)
    if module == "cli":
        return
    assert module in MAY_IMPORT, f"module {module} is not in the table"
    # `from hwq import __version__` needs no row
    own = {n.split(".")[1] for n in names if n.startswith("hwq.")} - {module, "__version__"}
    assert own <= MAY_IMPORT[module], f"{module} may not import {sorted(own - MAY_IMPORT[module])}"
    outside = {n.split(".")[0] for n in names} - set(sys.stdlib_module_names) - {"hwq"}
    if module not in TORCH:
        assert not outside & {"torch", "torchvision"}, f"{module} may not import torch"
    if module in LIGHT:
        assert outside <= {"numpy"}, f"{module} may not import {sorted(outside)}"


@pytest.mark.parametrize("module", ROOMS)
def test_rooms_import_only_downwards(module: str) -> None:
    rooms = ROOMS[module]
    for room, below in rooms.items():
        for path in (ROOT / module / room).rglob("*.py"):
            own = {n.split(".")[2] for n in _imported(path) if n.startswith(f"hwq.{module}.")} - {room}
            assert own <= below, f"{path.relative_to(ROOT)} may not import {sorted(own - below)}"
    folders = {p.parent.name for p in (ROOT / module).glob("*/__init__.py")}
    assert folders == set(rooms), "a room without a row"


def test_the_table_has_no_cycle() -> None:
    seen: set[str] = set()
    while len(seen) < len(MAY_IMPORT):
        ready = {m for m, uses in MAY_IMPORT.items() if m not in seen and uses <= seen}
        assert ready, f"cycle among {sorted(set(MAY_IMPORT) - seen)}"
        seen |= ready


def test_the_command_line_starts_without_torch() -> None:
    """`hwq --help` is quick: heavy modules load when a command runs."""
    for name in ("__init__", *COMMANDS):
        path = ROOT / "cli" / f"{name}.py"
        if not path.exists():
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = {
            (n.module or "") if isinstance(n, ast.ImportFrom) else n.names[0].name
            for n in tree.body
            if isinstance(n, ast.Import | ast.ImportFrom)
        }
        assert not {t.split(".")[0] for t in top} & {"torch", "numpy", "torchvision"}, path.name
