"""--edge-fixed: clipped logits are a harm, measured against logits that nothing clips, and repaired."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from hwq.data import DataSpec, load_split
from hwq.explain import edge_facts, real_logits
from hwq.explain.edge import fitting
from hwq.fixed import ChannelFormat, parse_edge
from hwq.ir import Graph, Requantize
from hwq.lower import Formats, Lowered, lower
from hwq.quant import calibrate, prepare
from hwq.simulate import Simulator, logit_sources
from tests.cli.conftest import Hwq
from tests.nets import random_net, random_policy


def network(seed: int) -> tuple[object, np.ndarray]:
    """edge -> the integers of a random network, and images."""
    net = random_net(seed)
    height, width, channels = net.shape
    model = prepare(net, random_policy(seed), net.shape)
    calibrate(model, [torch.randn(16, channels, height, width)])

    def lowered(edge: str) -> Lowered:
        return lower(
            model,
            shape=(channels, height, width),
            mean=[0.5] * channels,
            std=[0.25] * channels,
            formats=Formats(body=ChannelFormat(32), edge=parse_edge(edge)),
            allow_lossy=True,
        )

    return lowered, np.random.default_rng(seed).integers(0, 256, (80, *net.shape), dtype=np.uint8)


def input_share(fine: Graph, coarse: Graph, pixels: np.ndarray) -> float:
    """Of the codes of the image that another edge format changes."""
    name = next(op.name for op in fine if isinstance(op, Requantize))
    one, other = (Simulator(graph, 1).run(pixels, keep=[name]).outputs[name] for graph in (fine, coarse))
    return float(np.mean(one != other))


@pytest.mark.parametrize("seed", [1, 2, 5])
def test_the_cheapest_edge_suffices_and_a_bit_less_does_not(seed: int) -> None:
    make, pixels = network(seed)
    fine = make("32,14")  # type: ignore[operator]
    outputs = Simulator(fine.graph, 1).run(pixels, keep=logit_sources(fine.graph)).outputs
    logits = real_logits(fine, outputs)
    found = edge_facts(fine, parse_edge("32,14"), pixels, outputs, 0.01)
    assert found.cheapest is not None
    assert not found.bad
    width, integer = map(int, found.cheapest.split(","))

    def holds(edge: str) -> bool:
        """By the network in that format, fed as the fine one is."""
        other = make(edge)  # type: ignore[operator]
        facts = edge_facts(other, parse_edge(edge), pixels, outputs, 0.01)
        codes = other.graph["logits"]
        assert isinstance(codes, Requantize)
        from hwq.simulate.oracle import requantize

        answers = requantize(codes, [outputs[name] for name in codes.inputs]).reshape(len(pixels), -1)
        same = np.array_equal(answers.argmax(axis=1), logits.argmax(axis=1))
        return not facts.logits.clipped and same and input_share(fine.graph, other.graph, pixels) <= 0.01

    assert holds(found.cheapest)
    assert not any(holds(f"{width - 1},{i}") for i in range(integer - 2, integer + 4) if i <= width - 1)
    scale = fine.graph.output.out.scale
    assert np.abs(logits - Simulator(fine.graph, 1).run(pixels).logits * scale).max() <= scale


@pytest.mark.parametrize(
    ("value", "width", "integer"),
    [
        (0.0, 8, 1),
        (1.0, 8, 2),
        (0.99, 8, 1),
        (0.997, 8, 2),
        (127.0, 8, 8),
        (127.49, 8, 8),
        (127.5, 8, 9),
        (20.1, 4, 6),
    ],
)
def test_fitting(value: float, width: int, integer: int) -> None:
    assert fitting(value, width) == integer
    for i, fits in ((integer, True), (integer - 1, value == 0)):
        assert (np.floor(value * 2.0 ** (width - i) + 0.5) <= 2 ** (width - 1) - 1) == fits


def test_explain_sees_what_is_clipped(trained: Path, tmp_path: Path, hwq: Hwq) -> None:
    """In 10,0 the logits end at 1/2: a harm, whatever the body's format, and the printed command ends it."""
    path = tmp_path / "why.json"
    done = hwq("explain", trained, "--edge-fixed", "10,0", "--images", 200, "--json", path)
    assert done.code == 0, done.err
    assert "WARNING: " in done.out
    found = json.loads(path.read_text())
    edge = found["edge"]
    assert edge["logits"]["clipped"] > 0
    assert found["accuracy"]["edge"] == found["accuracy"]["real"] > found["accuracy"]["given"]
    assert f"--edge-fixed {edge['cheapest']} alone: accuracy" in done.out
    words = shlex.split(found["commands"]["edge"])
    assert f"  {found['commands']['edge']}\n" in done.out
    assert words[words.index("--edge-fixed") + 1] == edge["cheapest"]
    out = tmp_path / "hls"
    done = hwq(*words[1:], "--out", out)
    assert done.code == 0
    assert "none clipped" in done.out
    again = hwq("explain", *words[2:], "--images", 200)
    assert "WARNING" not in again.out
    assert "hwq export" not in again.out


def test_export_looks_at_training_images(trained: Path, tmp_path: Path, hwq: Hwq) -> None:
    done = hwq("export", trained, "--edge-fixed", "10,0", "--allow-lossy", "--out", tmp_path / "narrow")
    assert done.code == 0, done.err
    run = hwq("export", trained, "--out", tmp_path / "wide")
    assert "none clipped; the cheapest --edge-fixed that holds them" in run.out
    from hwq.serde import load
    from hwq.simulate import unclipped

    graph = load(tmp_path / "narrow")
    pixels = load_split(DataSpec(name="digits"), "train").head(256).pixels
    free = unclipped(graph, Simulator(graph, 1).run(pixels, keep="all").outputs)
    clipped = np.abs(free) > 511
    assert clipped.any()
    text = f"WARNING: {clipped.sum():,} of {free.size:,} logits"
    assert text in done.out
    assert f"in {np.count_nonzero(clipped.any(axis=1)):,} of 256 images" in done.out
