"""Writes the pages that follow from the code; `make docs` runs it, tests hold the pages to it.

cli.md from the commands' own --help, spellings.md from the tables of what respelling takes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hwq.cli import COMMANDS, group
from hwq.quant.tracing.spelling.respell import spellings

SPELLINGS_HEAD = """# Spellings

Written from the tables of the code by `make docs`. The same operation can be written in many ways; hwq
rewrites all of these to one before it quantises, so what counts is what the network computes. A rewritten
network is compared with the one before, in float64. In-place forms (`x.clamp_`,
`inplace=True`, `+=`) count as the others. `F` is `torch.nn.functional`, `x` a tensor.

Clamps may follow each other, a max pool or a concatenation. ReLU of codes are codes of the same scale; codes
that are clamped to another range get a quantiser of their own, since 6 need not be a code of theirs.

The result may stand in tuples, lists or dicts, if it is the only tensor there. The activation after the
logits is left out, with a note: the order of the classes stays, and the loss takes logits. weight_norm,
spectral_norm and other parametrizations of Conv2d and Linear are computed once, with a note: training then
learns the weight itself, and the layers of the network that was given stay as they are. A pruned layer is
refused: call `prune.remove` first.
"""

HEAD = """# Command reference

Written from `hwq COMMAND --help` by `make docs`.

Exit codes: 0 done; 1 C++ and Python disagree, or a file changed since export; 2 a path, file or option that
cannot be used as given; 3 a network that hwq cannot lower; 4 a missing or failing tool (compiler, headers,
disk); 5 a graph that breaks hwq's own rules; 6 training diverged; 129, 130, 143
ended by SIGHUP, Ctrl-C, SIGTERM.
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


def spellings_page() -> str:
    """The page of what may be written for what, as text."""
    rows = spellings()
    parts = [SPELLINGS_HEAD]
    for what in dict.fromkeys(row.what for row in rows):
        section = f"## {what[0].upper()}{what[1:]}\n\n| spelling | condition |\n|---|---|\n"
        own = [row for row in rows if row.what == what]
        for when in dict.fromkeys(row.when for row in own):
            texts = dict.fromkeys(f"`{row.text}`" for row in own if row.when == when)
            section += f"| {', '.join(texts)} | {when} |\n"
        parts.append(section)
    return "\n".join(parts)


def _section(title: str, command: click.Command, parent: click.Context | None) -> str:
    settings: dict[str, Any] = {**group.context_settings, "terminal_width": 100}
    context = click.Context(command, info_name=title.split()[-1], parent=parent, **settings)
    return f"## {title}\n\n```\n{command.get_help(context)}\n```\n"


if __name__ == "__main__":
    Path(__file__).with_name("cli.md").write_text(page(), encoding="utf-8")
    Path(__file__).with_name("spellings.md").write_text(spellings_page(), encoding="utf-8")
