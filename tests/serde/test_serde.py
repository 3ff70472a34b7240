"""Round trips are exact; damaged, edited and hostile files give one InputError."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import numpy as tensors

from hwq.errors import InputError
from hwq.fixed import Constants
from hwq.ir import Graph
from hwq.ir.requant import Requant
from hwq.serde import GRAPH_JSON, GRAPH_TENSORS, dump, load, loads, save
from hwq.serde.older import of_version_1
from tests.emit.conftest import every_op
from tests.graphs import graphs, seeded_graph


def same(a: Any, b: Any) -> bool:
    """Deep equality of everything a graph holds, dtypes included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return bool(a.dtype == b.dtype and np.array_equal(a, b) and a.flags.writeable == b.flags.writeable)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Requant | Constants | Graph) or dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    return bool(a == b)


@settings(max_examples=40, deadline=None)
@given(graphs())
def test_round_trip_is_exact(graph: Graph) -> None:
    files = dump(graph)
    again = loads(files)
    assert same(again, graph)
    assert dump(again) == files


def test_save_and_load(tmp_path: Path) -> None:
    graph = seeded_graph(7)
    save(graph, tmp_path / "new")
    save(graph, tmp_path / "new")
    assert same(load(tmp_path / "new"), graph)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [GRAPH_JSON, GRAPH_TENSORS]


def test_seeded_graphs_hold_every_kind() -> None:
    kinds = {type(op).__name__ for seed in range(60) for op in seeded_graph(seed)}
    assert len(kinds) == 10


@pytest.mark.parametrize("name", [GRAPH_JSON, GRAPH_TENSORS])
def test_missing_file(tmp_path: Path, name: str) -> None:
    save(seeded_graph(1), tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=name):
        load(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", [GRAPH_JSON, GRAPH_TENSORS])
def test_truncated_at_every_length(name: str) -> None:
    files = dump(seeded_graph(3))
    whole = files[name]
    for length in range(0, len(whole) - 1, max(1, len(whole) // 97)):
        with pytest.raises(InputError):
            loads({**files, name: whole[:length]})


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 5), data=st.data())
def test_edited_bytes_never_raise_anything_else(seed: int, data: st.DataObject) -> None:
    files = dump(seeded_graph(seed))
    name = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InputError):
        loads({**files, name: bytes(content)})


JUNK = [None, True, -1, 0, 1.5, 10**30, "x", "", [], {}, [1, 2], [10**18, 10**18, 10**18], float("nan")]


def paths(node: object, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at] if at else []
    if isinstance(node, dict):
        found += [p for k, v in node.items() for p in paths(v, (*at, k))]
    if isinstance(node, list):
        found += [p for k, v in enumerate(node) for p in paths(v, (*at, k))]
    return found


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 5), data=st.data())
def test_edited_fields_never_raise_anything_else(seed: int, data: st.DataObject) -> None:
    files = dump(seeded_graph(seed))
    document = json.loads(files[GRAPH_JSON])
    path = data.draw(st.sampled_from(paths(document)))
    parent = document
    for step in path[:-1]:
        parent = parent[step]
    if data.draw(st.booleans()):
        parent[path[-1]] = data.draw(st.sampled_from(JUNK))
    else:
        del parent[path[-1]]
    with contextlib.suppress(InputError):
        loads({**files, GRAPH_JSON: json.dumps(document).encode()})


def edit(files: dict[str, bytes], **arrays: Any) -> dict[str, bytes]:
    return {**files, GRAPH_TENSORS: tensors.save({**tensors.load(files[GRAPH_TENSORS]), **arrays})}


def test_messages() -> None:
    files = dump(seeded_graph(2))
    document = json.loads(files[GRAPH_JSON])

    def message(**changes: object) -> str:
        with pytest.raises(InputError) as caught:
            loads({**files, GRAPH_JSON: json.dumps({**document, **changes}).encode()}, where="run/hls")
        return str(caught.value)

    assert (
        message(version=3)
        == "run/hls/graph.json: format version 3; this hwq reads versions 1..2; export again"
    )
    assert "not a graph of hwq" in message(format="onnx")
    assert "belongs to no op" in message(ops=[])
    assert "name must be a text" in message(name="")
    assert "has 70,000 characters" in message(name="n" * 70_000)
    ops = json.loads(files[GRAPH_JSON])["ops"]
    ops[0]["name"] = "n" * 70_000
    assert "op 0: name has 70,000 characters" in message(ops=ops)
    deep = b"[" * 100_000
    with pytest.raises(InputError, match="deep"):
        loads({**files, GRAPH_JSON: deep})
    with pytest.raises(InputError, match=r"graph\.safetensors is missing"):
        loads({GRAPH_JSON: files[GRAPH_JSON]})


def test_version_1_is_read() -> None:
    """Its paddings were (vertical, horizontal), its ChannelPad is a Pad of channels alone."""
    files = dump(every_op())
    document = json.loads(files[GRAPH_JSON])
    document["version"] = 1
    kinds = set()
    for op in document["ops"]:
        if op["kind"] == "Pad":
            op["kind"] = "ChannelPad"
            assert op.pop("padding") == [0, 0, 0, 0]
        elif "padding" in op:
            top, bottom, left, right = op["padding"]
            assert (top, left) == (bottom, right)
            op["padding"] = [top, left]
        kinds.add(op["kind"])
    assert {"ChannelPad", "Conv2d", "MaxPool", "SumPool"} <= kinds
    assert dump(loads({**files, GRAPH_JSON: json.dumps(document).encode()})) == files
    assert of_version_1({"kind": "MaxPool", "padding": [1, 2]}) == {
        "kind": "MaxPool",
        "padding": [1, 1, 2, 2],
    }
    document["version"] = 2
    with pytest.raises(InputError, match="padding must be 4 integers; export again"):
        loads({**files, GRAPH_JSON: json.dumps(document).encode()})


@pytest.mark.parametrize(
    ("padding", "shape", "message"),
    [
        ([20000, 20000, 20000, 20000], [40004, 40004, 2], "(40004, 40004, 2) is not of positive, sensible"),
        ([20000, 20000, 0, 0], [40004, 4, 2], "padding of 20000 above, 20000 below, 0 left, 0 right; a side"),
        ([0, 0, 100000, 0], [4, 100004, 2], "100000 left, 0 right; a side has 0..1024"),
        ([0, 0, -1, 0], [4, 3, 2], "-1 left, 0 right; a side has 0..1024"),
        ([1000, 1000, 1000, 1000], [2004, 2004, 20], "has 80,320,320 codes; a tensor has 67,108,864 at most"),
        ([1000, 1000, 1000, 1000], [2004, 2004, 2], None),
    ],
)
def test_padding_takes_no_memory(padding: list[int], shape: list[int], message: str | None) -> None:
    """A number in a small file asks for gigabytes: refused before anything is as large."""
    spec = {"shape": [4, 4, 2], "type": "u8", "scale": 1.0}
    channels = shape[2] - 2
    ops = [
        {"kind": "Input", "name": "in", "inputs": [], "out": spec},
        {
            "kind": "Pad",
            "name": "pad",
            "inputs": ["in"],
            "out": {**spec, "shape": shape},
            "padding": padding,
            "before": channels,
            "after": 0,
        },
        {"kind": "Output", "name": "out", "inputs": ["pad"], "out": {**spec, "shape": shape}},
    ]
    document = {"format": "hwq.graph", "version": 2, "name": "net", "ops": ops}
    files = {GRAPH_JSON: json.dumps(document).encode(), GRAPH_TENSORS: tensors.save({})}
    if message is None:
        assert loads(files)["pad"].out.shape == tuple(shape)
        return
    with pytest.raises(InputError) as caught:
        loads(files)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tensor_faults() -> None:
    files = dump(seeded_graph(2))
    key = next(k for k in tensors.load(files[GRAPH_TENSORS]) if k.endswith("bias.raw"))
    with pytest.raises(InputError, match="belongs to no op"):
        loads(edit(files, extra=np.zeros(3, np.int8)))
    with pytest.raises(InputError, match="must hold signed integers"):
        loads(edit(files, **{key: np.zeros(1, np.float32)}))
    with pytest.raises(InputError, match="must hold signed integers"):
        loads(edit(files, **{key: np.zeros(0, np.int8)}))
    integer = key.replace("raw", "integer")
    shape = tensors.load(files[GRAPH_TENSORS])[integer].shape
    with pytest.raises(InputError, match="leaves -1100"):
        loads(edit(files, **{integer: np.full(shape, -(2**62))}))


def test_no_pickle_in_the_files() -> None:
    files = dump(seeded_graph(4))
    assert files[GRAPH_TENSORS][8:9] == b"{"  # a JSON header after its length
    assert files[GRAPH_JSON].decode("ascii")
