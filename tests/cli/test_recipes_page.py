"""docs/recipes.md names exactly the keys that recipes have."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from hwq.data import NAMES, DataSpec
from hwq.models import MODELS, VISION
from hwq.quant import ACT_METHODS, WEIGHT_METHODS, Policy
from hwq.train.recipe import Schedule, read_recipe

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")


def _section(title: str) -> str:
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def _keys(title: str) -> set[str]:
    rows = re.findall(r"^\| ([^|]+) \|", _section(title), re.MULTILINE)
    return {key for row in rows for key in re.findall(r"`([^`]+)`", row)}


@pytest.mark.parametrize(
    ("title", "kind", "more"),
    [("[data]", DataSpec, {"mean", "std"}), ("[quant]", Policy, set()), ("[train]", Schedule, set())],
)
def test_every_key_is_on_the_page(title: str, kind: type, more: set[str]) -> None:
    assert _keys(title) == {f.name for f in fields(kind)} | more


def test_names_on_the_page_exist() -> None:
    named = _keys("model") - {"b", "path/net.py:factory", "torchvision:NAME"}
    assert named <= {*MODELS, *VISION}
    assert {m.removesuffix("b") for m in MODELS} - {"mobilenetv2-identity"} | set(VISION) <= named
    data = _section("[data]")
    assert all(f"`{name}`" in data for name in NAMES)
    quant = _section("[quant]")
    assert all(f"`{name}`" in quant for name in (*WEIGHT_METHODS, *ACT_METHODS))


@pytest.mark.parametrize("path", sorted((ROOT / "examples").rglob("*.toml")), ids=lambda p: p.parent.name)
def test_example_recipes_are_valid(path: Path) -> None:
    assert read_recipe(path).train.epochs > 0
