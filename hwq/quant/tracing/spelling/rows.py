"""What the passes that respell a network share: a row of their tables, and a call's arguments by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """One way to write an operation. what: the operation. when: the condition on its arguments, or ''.

    target: a class of layers, a function, or the name of a Tensor method.
    """

    what: str
    target: Any
    when: str = ""

    @property
    def text(self) -> str:
        """As a user writes it: 'nn.ReLU6', 'F.relu6', 'torch.clamp', 'x.clamp'."""
        return spelled(self.target)


def spelled(target: Any) -> str:
    """'nn.ReLU6', 'F.relu6', 'torch.clamp', 'x.clamp' or 'operator.add'."""
    if isinstance(target, str):
        return f"x.{target}"
    name = str(target.__name__)
    if isinstance(target, type) and issubclass(target, nn.Module):
        return f"nn.{name}"
    for home, prefix in ((torch, "torch"), (functional, "F")):
        for own, value in vars(home).items():
            if value is target and not own.startswith("_") and own.rstrip("_") == name.strip("_"):
                return f"{prefix}.{own}"
    return f"{target.__module__.lstrip('_')}.{name}"


def arguments(node: fx.Node, names: tuple[str, ...]) -> dict[str, Any] | None:
    """A call's arguments by name, its tensor as 'input'; None for what is not written for these names."""
    known = ("input", *names)
    if len(node.args) > len(known):
        return None
    given = {**dict(zip(known, node.args, strict=False)), **node.kwargs}
    if "self" in given:
        given["input"] = given.pop("self")
    return given if isinstance(given.get("input"), fx.Node) and set(given) <= set(known) else None
