"""Writes docs/cli.md from the commands' own --help; `make docs` runs it, a test holds the page to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hwq.cli import COMMANDS, group

HEAD = """# Command reference

Written from `hwq COMMAND --help` by `make docs`.

Exit codes: 0 done; 1 C++ and Python disagree, or a file changed since export; 2 a path, file or option that
cannot be used as given; 3 a network that hwq cannot lower; 4 a missing or failing tool (compiler, headers,
disk); 5 a graph that breaks hwq's own rules; 6 training diverged; 130 interrupted.
"""


def page() -> str:
    """The whole page as text."""
    parts = [HEAD, _section("hwq", group, None)]
    root = click.Context(group, info_name="hwq", **group.context_settings)
    for name in COMMANDS:
        command = group.get_command(root, name)
        assert command is not None
        parts.append(_section(f"hwq {name}", command, root))
    return "\n".join(parts)


def _section(title: str, command: click.Command, parent: click.Context | None) -> str:
    settings: dict[str, Any] = {**group.context_settings, "terminal_width": 100}
    context = click.Context(command, info_name=title.split()[-1], parent=parent, **settings)
    return f"## {title}\n\n```\n{command.get_help(context)}\n```\n"


if __name__ == "__main__":
    Path(__file__).with_name("cli.md").write_text(page(), encoding="utf-8")
