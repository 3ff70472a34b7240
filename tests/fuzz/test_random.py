"""Random graphs and random torch networks: Python == ap == native at every op. `make fuzz` runs more."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwq.cosim.build import Build
from hwq.ir import Conv2d, MaxPool, Pad, SumPool
from tests.fuzz.check import case_graph, check_graph

GRAPHS = (3, 8, 23, 40)
NETS = (2, 6)
"""Few, as each is compiled twice; `make fuzz` has the breadth, `make test-slow` its first cases."""


@pytest.mark.slow
@pytest.mark.parametrize("case", range(40))
def test_many_random_cases(case: int, tmp_path: Path) -> None:
    assert check_graph(case_graph(case), case, tmp_path / "hls") is None


@pytest.mark.parametrize("case", GRAPHS)
def test_random_graph(case: int, tmp_path: Path) -> None:
    assert check_graph(case_graph(case, "graph"), case, tmp_path / "hls") is None


@pytest.mark.parametrize("case", NETS)
def test_random_torch_network(case: int, tmp_path: Path) -> None:
    assert check_graph(case_graph(case, "torch"), case, tmp_path / "hls") is None


def test_every_op_class_is_covered() -> None:
    from hwq.ir.verify import RULES

    ops = [op for case in GRAPHS for op in case_graph(case, "graph")]
    assert {type(op) for op in ops} == set(RULES)
    windows = [op for op in ops if isinstance(op, Conv2d | MaxPool | SumPool)]
    assert {type(op) for op in windows if not op.padding.is_even} == {Conv2d, MaxPool, SumPool}
    assert any(isinstance(op, Pad) and op.padding for op in ops)


def test_a_wrong_kernel_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness itself: the same project against a reference with one weight changed."""
    import tests.fuzz.check as module
    from tests.graphs import changed_weight

    graph = case_graph(1, "torch")
    monkeypatch.setattr(module, "load", lambda folder: changed_weight(graph))
    problem = check_graph(graph, 1, tmp_path / "hls", builds=(Build.NATIVE,))
    assert problem is not None
    assert "native build differs" in problem
