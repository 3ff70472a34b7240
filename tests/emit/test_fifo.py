"""FIFO depths: enough for every blocking execution, and on residual branches no less will do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from hwq.emit.fifo import SMALLEST, set_depths
from hwq.emit.folding import complete, parse_fold
from hwq.emit.kernels import KERNELS
from hwq.emit.plan import Network, Process, Step, Stream
from hwq.ir import Graph, MaxPool
from tests.emit.conftest import Maker, every_op, residual
from tests.graphs import seeded_graph


def _network(graph: Graph, fold: Sequence[str] = ()) -> Network:
    net = Network(graph, parse_fold(graph, fold) if fold else complete(graph))
    for op in graph:
        KERNELS[type(op)](net, op)
    set_depths(net.processes, net.streams)
    return net


def _blocking(processes: Sequence[Process], room: dict[Stream, int], images: int) -> bool:
    """Run to the end with bounded FIFOs that block on empty and on full; False on a deadlock.

    Tokens are pixels. A process moves on by single reads and writes, eagerly, in rounds.
    """

    def steps(process: Process) -> Iterator[Step]:
        for _ in range(images):
            yield from process.schedule()

    waiting = dict.fromkeys(room, 0)
    written = {s for p in processes for s in p.writes}
    read = {s for p in processes for s in p.reads}
    active: list[tuple[Iterator[Step], Step, list[Stream]]]
    active = [(source := steps(p), next(source), []) for p in processes]
    while active:
        moved = False
        still = []
        for source, step, pending in active:
            current: Step | None = step
            todo = pending
            while current is not None:
                takes, puts = current
                if not todo:
                    if any(s in written and waiting[s] < n for s, n in takes):
                        break
                    for s, n in takes:
                        if s in written:
                            waiting[s] -= n
                    todo = list(puts)
                    moved = True
                while todo and (todo[0] not in read or waiting[todo[0]] < room[todo[0]]):
                    s = todo.pop(0)
                    if s in read:
                        waiting[s] += 1
                    moved = True
                if todo:
                    break
                current = next(source, None)
            if current is not None:
                still.append((source, current, todo))
        active = still
        if active and not moved:
            return False
    return True


def _rooms(net: Network) -> dict[Stream, int]:
    """Depths in tokens."""
    return {s: max(1, s.depth * s.tokens // s.words) for s in net.streams}


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("fold", [[], ["1,1"], ["4,2"]])
def test_hand_made_graphs_never_block(images: int, fold: list[str]) -> None:
    for graph in (every_op(), residual(1), residual(3)):
        net = _network(graph, fold)
        assert _blocking(net.processes, _rooms(net), images)


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs_never_block(seed: int) -> None:
    net = _network(seeded_graph(seed))
    assert _blocking(net.processes, _rooms(net), 2)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_residual_fifo_of_depth_one_deadlocks(length: int) -> None:
    net = _network(residual(length))
    assert _blocking(net.processes, _rooms(net), 2)
    rooms = _rooms(net)
    deep = max(net.streams, key=rooms.__getitem__)
    # each 3x3 convolution lags a row and two pixels behind
    assert rooms[deep] >= length * 7
    for too_small in (1, rooms[deep] // 2):
        assert not _blocking(net.processes, {**rooms, deep: too_small}, 2)


def test_chains_keep_the_smallest_depth() -> None:
    m = Maker((7, 6, 2))
    x = m.requant("norm", m.input)
    for i in range(3):
        x = m.requant(f"act{i}", m.conv(f"conv{i}", x, 2, 3))
    net = _network(m.finish())
    assert {s.depth for s in net.streams} == {SMALLEST}


def test_residual_depth_grows_with_the_branch() -> None:
    depths = [max(s.depth for s in _network(residual(n)).streams) for n in (1, 2, 3)]
    assert depths == sorted(set(depths))


def test_a_strided_shortcut_waits_behind_its_subsampling() -> None:
    """A quarter of the pixels is kept, so the FIFO is a quarter as deep as one before it."""
    m = Maker((8, 16, 4))
    trunk = m.requant("norm", m.input)
    x = m.requant("act", m.conv("first", trunk, 4, 3, stride=2))
    x = m.conv("second", x, 4, 3)
    m.requant("sum", x, m.pool(MaxPool, "sub", trunk, 1, 2))
    net = _network(m.finish())
    deep = {s.name: s.depth for s in net.streams if s.depth > SMALLEST}
    # the first sum needs pixel (1, 1) of the first convolution, and that row 3 of the trunk: the shortcut
    # has kept rows 0 and 2 by then, 8 pixels each, where the trunk had 3 * 16 + 4
    assert deep == {"w_sub": 16}
