"""Ops of earlier versions of graph.json, as today's."""

from __future__ import annotations

from typing import Any


def of_version_1(op: Any) -> Any:
    """Padding was (vertical, horizontal); channels alone had an op of their own. Checks nothing: what is
    no op of version 1 stays for `decode` to refuse."""
    match op:
        case {"kind": "ChannelPad"}:
            return {**op, "kind": "Pad", "padding": [0, 0, 0, 0]}
        case {"padding": [vertical, horizontal]}:
            return {**op, "padding": [vertical, vertical, horizontal, horizontal]}
    return op
