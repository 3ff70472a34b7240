"""Runs passes and holds each to its contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hwq.errors import HwqError, VerifyError
from hwq.ir import Graph, verify
from hwq.passes.rewrite import (
    absorb_padding,
    drop_exact_requantize,
    drop_identity,
    drop_unread,
    tighten_sums,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """A function Graph -> Graph.

    Its contract: a legal graph becomes a legal graph of the same name, input and result, every output
    code unchanged for every image. With `dead_code` it may be given ops that nothing reads.
    """

    run: Callable[[Graph], Graph]
    dead_code: bool = False

    @property
    def name(self) -> str:
        return self.run.__name__


PIPELINE: tuple[Pass, ...] = (
    Pass(run=drop_unread, dead_code=True),
    Pass(run=drop_identity),
    Pass(run=absorb_padding),
    Pass(run=drop_exact_requantize),
    Pass(run=tighten_sums),
)


def run_passes(graph: Graph, passes: Sequence[Pass] = PIPELINE) -> Graph:
    """Run every pass in order; verify before and after each.

    Raises VerifyError naming the pass that broke its contract and those that ran before it.
    """
    done: list[str] = []
    for step in passes:
        if not step.dead_code:
            _check(graph, f"before pass '{step.name}'", done)
        try:
            made = step.run(graph)
        except HwqError:
            raise
        except Exception as error:  # a pass is our code: say which one failed, on top of the traceback
            raise VerifyError(
                f"pass '{step.name}' failed{_after(done)}: {type(error).__name__}: {error}"
            ) from error
        _check(made, f"pass '{step.name}' broke its contract", done)
        for what, was, now in (
            ("name", graph.name, made.name),
            ("input", graph.input.out, made.input.out),
            ("result", graph.output.out, made.output.out),
        ):
            if was != now:
                raise VerifyError(
                    f"pass '{step.name}' broke its contract{_after(done)}: {what} was {was}, is {now}"
                )
        graph = made
        done.append(step.name)
    return graph


def _check(graph: Graph, what: str, done: Sequence[str]) -> None:
    try:
        verify(graph)
    except VerifyError as error:
        raise VerifyError(f"{what}{_after(done)}: {error}") from None


def _after(done: Sequence[str]) -> str:
    return f" (after {', '.join(done)})" if done else " (first pass)"
