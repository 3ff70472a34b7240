"""Which engine runs a graph: the native one where it can, else torch, with a note that says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from hwq.engine.engine import Engine
from hwq.errors import ToolError
from hwq.ir import Graph
from hwq.simulate import Runner, Simulator

Preference = Literal["auto", "native", "torch"]


def simulator(
    graph: Graph,
    threads: int | None = None,
    prefer: Preference = "auto",
    *,
    earlier: Runner | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Runner:
    """An exact engine for `graph`. All give the same integers.

    prefer: `auto` takes the native engine and falls back to torch, telling `note` why; the others insist.
    earlier: an engine of the same network with other constants, whose packed weights may be used again.
    Raises ToolError for `native` where there is no compiler or a value is too wide for it.
    """
    if prefer == "torch":
        return Simulator(graph, threads=threads)
    try:
        if isinstance(earlier, Engine):
            return earlier.with_constants(graph)
        return Engine(graph, threads=threads)
    except ToolError as error:
        if prefer == "native":
            raise
        note(f"{error}; the torch engine runs instead, exact as well but slower")
        return Simulator(graph, threads=threads)
