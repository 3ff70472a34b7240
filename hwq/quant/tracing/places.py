"""Where in the user's code a node of a traced network comes from."""

from __future__ import annotations

import os
import re
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import fx


def owner(node: fx.Node) -> str:
    """Path of the module whose forward made the node: 'layer1.0', or '' for the network itself."""
    stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
    return str(next(reversed(stack.values()))[0]) if stack else ""


_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


def where(node: fx.Node) -> str:
    """'layer1.0.act (net.py:12)': module path and source line, as far as they are known."""
    path = owner(node) or (str(node.target) if node.op == "call_module" else node.name)
    return place(path, _FRAME.findall(node.stack_trace or ""))


def frames(error: BaseException) -> list[tuple[str, str]]:
    """(file, line) of every call that led to the error."""
    return [(f.filename, str(f.lineno)) for f in traceback.extract_tb(error.__traceback__)]


def place(path: str, frames: list[tuple[str, str]]) -> str:
    """The path, and the innermost line that is neither torch's nor of the tracing."""
    others = (str(Path(torch.__file__).parent) + os.sep, str(Path(__file__).parent) + os.sep, "<")
    own = [(name, line) for name, line in frames if not name.startswith(others)]
    return f"'{path}' ({Path(own[-1][0]).name}:{own[-1][1]})" if own else f"'{path}'"
