"""The package as a stranger gets it: a wheel, installed elsewhere, used from `/`."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KINDS = ("templates", "hls", "sim")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without network: the build back end is in the dev extras."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-index",
        "--no-deps",
        "--target",
        str(folder),
    ]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    return folder


def _sources(kind: str) -> set[str]:
    return {
        path.relative_to(ROOT / kind).as_posix()
        for path in (ROOT / kind).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def _run(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd="/", env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_wheel_holds_every_asset(wheel: Path, kind: str) -> None:
    prefix = f"hwq/_assets/{kind}/"
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.removeprefix(prefix) for n in names if n.startswith(prefix)} == _sources(kind) != set()


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"hwq/py.typed", "hwq/__init__.py", "hwq/cli/__init__.py"} <= set(names)
    assert {n.split("/")[0].split("-")[0] for n in names} == {"hwq"}
    assert not [n for n in names if n.endswith((".pyc", ".so", ".o"))]
    assert any(n.endswith("licenses/LICENSE") for n in names)


@pytest.mark.parametrize("kind", KINDS)
def test_an_installed_copy_finds_its_own_assets_from_the_root_folder(site: Path, kind: str) -> None:
    code = f"import hwq, hwq.assets; print(hwq.__file__); print(hwq.assets.folder({kind!r}))"
    done = _run(site, "-c", code)
    assert done.returncode == 0, done.stderr
    module, folder = done.stdout.split()
    assert Path(module).is_relative_to(site)
    assert Path(folder).is_relative_to(site)
    found = {p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file()}
    assert {n for n in found if "__pycache__" not in n} == _sources(kind)


def test_an_installed_copy_runs_its_commands_from_the_root_folder(site: Path) -> None:
    done = _run(site, "-m", "hwq", "--version")
    assert (done.returncode, done.stderr) == (0, "")
    version = {}
    exec((ROOT / "hwq" / "__init__.py").read_text(encoding="utf-8"), version)
    assert done.stdout.strip().endswith(str(version["__version__"]))
    assert "report" in _run(site, "-m", "hwq", "demo", "--help").stdout


def test_declared_dependencies_cover_the_imports() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {line.split(">=")[0].lower() for line in project["dependencies"]}
    aliases = {"PIL": "pillow", "sklearn": "scikit-learn", "markupsafe": "jinja2"}
    imported = set()
    for path in (ROOT / "hwq").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).split(".")[0])
    outside = {name for name in imported if name not in sys.stdlib_module_names and name != "hwq"}
    assert {aliases.get(name, name) for name in outside} <= declared | {"jinja2"}
