"""Jinja, strictly: a name that is missing is an error, filters are listed here."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import jinja2

from hwq import assets
from hwq.emit.names import c_string


def _comment(text: str) -> str:
    """Text that may stand in a C comment: one line of plain characters, the others as underscores."""
    return "".join(ch if ch.isascii() and (ch.isalnum() or ch in " _.,:+=<>[]()-") else "_" for ch in text)


def _tcl(text: str) -> str:
    """A Tcl word that stands for itself: braces around plain characters only."""
    if not all(ch.isascii() and (ch.isalnum() or ch in "_-./,: ") for ch in text):
        raise ValueError(f"not a plain Tcl word: {text!r}")
    return "{" + text + "}"


def _wrap(text: str) -> str:
    return textwrap.fill(text, 100)


FILTERS = {"c_string": c_string, "comment": _comment, "tcl": _tcl, "wrap": _wrap}


def environment() -> jinja2.Environment:
    """The templates of a project."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(assets.folder("templates") / "project"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    env.filters.update(FILTERS)
    return env


def render(env: jinja2.Environment, template: str, context: Mapping[str, object]) -> bytes:
    """One file's content."""
    return env.get_template(template).render(context).encode("utf-8")
