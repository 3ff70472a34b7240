"""Finds `templates/`, `hls/` and `sim/`: inside the installed package, else in the checkout."""

from __future__ import annotations

from pathlib import Path

from hwq.errors import ToolError

KINDS = ("templates", "hls", "sim")


def folder(kind: str) -> Path:
    """The folder of one kind of asset. Raises ToolError when the installation is incomplete."""
    if kind not in KINDS:
        raise ValueError(kind)
    here = Path(__file__).resolve().parent
    installed = here / "_assets" / kind
    if installed.is_dir():
        return installed
    checkout = here.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / kind).is_dir():
        return checkout / kind
    raise ToolError(
        f"the installation of hwq is incomplete: its folder '{kind}' is missing; install it again"
    )


def files(kind: str) -> dict[str, bytes]:
    """name -> content of the files directly in an asset folder, sorted by name."""
    paths = sorted(path for path in folder(kind).iterdir() if path.is_file())
    return {path.name: path.read_bytes() for path in paths if not path.name.startswith(".")}
