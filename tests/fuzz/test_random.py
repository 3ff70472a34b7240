"""Random graphs and random torch networks: Python == ap == native at every op. `make fuzz` runs more."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwq.cosim.build import Build
from tests.fuzz.check import case_graph, check_graph

GRAPHS = (3, 11, 12, 13)
NETS = (0, 2)
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

    seen = {type(op) for case in GRAPHS for op in case_graph(case, "graph")}
    assert seen == set(RULES)


def test_a_wrong_kernel_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness itself: the same project against a reference with one weight changed."""
    import tests.fuzz.check as module
    from tests.graphs import changed_weight

    graph = case_graph(1, "torch")
    monkeypatch.setattr(module, "load", lambda folder: changed_weight(graph))
    problem = check_graph(graph, 1, tmp_path / "hls", builds=(Build.NATIVE,))
    assert problem is not None
    assert "native build differs" in problem
