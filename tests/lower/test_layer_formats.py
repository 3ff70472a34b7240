"""Formats by layer: what a pattern means, which one wins, what is refused; how much of its range is used."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from torch import fx

from hwq.errors import InputError
from hwq.fixed import AutoFormat, ChannelFormat, Constants, parse_edge, parse_format
from hwq.ir import Requantize
from hwq.lower import Formats, Lowered, format_uses, lower, parse_override, range_use
from hwq.models import build
from tests.lower.reference import prepared

SHAPE = (8, 8, 3)


@cache
def model() -> fx.GraphModule:
    return prepared(build("resnet8b", SHAPE, 10), SHAPE)


def lowered(*overrides: str, fixed: str = "32,auto") -> Lowered:
    formats = Formats(
        body=parse_format(fixed),
        edge=parse_edge("32,16"),
        overrides=tuple(parse_override(text) for text in overrides),
    )
    return lower(model(), shape=(3, 8, 8), mean=[0.5] * 3, std=[0.2] * 3, formats=formats, allow_lossy=True)


def formats_of(done: Lowered) -> dict[str, str]:
    return {op.name: op.requant.bias.format_name for op in done.graph if isinstance(op, Requantize)}


BODY = {
    "relu_quant",
    "layer1_0_relu1_quant",
    "layer1_0_relu2_quant",
    "layer2_0_relu1_quant",
    "layer2_0_relu2_quant",
    "layer3_0_relu1_quant",
    "layer3_0_relu2_quant",
    "pool_quant",
}
FIRST = {name for name in BODY if "relu1" in name}
SECOND = {name for name in BODY if "relu2" in name}


@pytest.mark.parametrize(
    ("pattern", "ops"),
    [
        ("*", BODY),
        ("relu_quant", {"relu_quant"}),
        ("conv1", {"relu_quant"}),
        ("bn1", {"relu_quant"}),
        ("layer1.0.conv1", {"layer1_0_relu1_quant"}),
        ("layer1.0.bn1", {"layer1_0_relu1_quant"}),
        # a residual add: by either convolution that it takes, by the add, by the ReLU behind it
        ("layer2.0.conv2", {"layer2_0_relu2_quant"}),
        ("layer2.0.shortcut", {"layer2_0_relu2_quant"}),
        ("layer2.0.add*", {"layer2_0_relu2_quant"}),
        ("*.relu2", SECOND),
        ("layer*.conv1", FIRST),
        ("layer1", {"layer1_0_relu1_quant", "layer1_0_relu2_quant"}),
        ("*pool", {"pool_quant"}),
    ],
)
def test_what_a_pattern_means(pattern: str, ops: set[str]) -> None:
    found = formats_of(lowered(f"{pattern}=20,channel"))
    assert {name for name, form in found.items() if form == "20,channel"} == ops
    assert (found["input_quant"], found["logits"]) == ("32,16", "32,auto")
    assert set(found) == BODY | {"input_quant", "logits"}


def test_the_last_of_several_holds() -> None:
    found = formats_of(lowered("layer1=20,channel", "*=20,auto", "layer1.0.conv2=24,10,TRN,WRAP"))
    assert found["layer1_0_relu1_quant"] == "20,auto"
    assert found["layer1_0_relu2_quant"] == "24,10,TRN,WRAP"


def test_only_the_layer_named_changes() -> None:
    """All other constants are those of the body's format, raw for raw."""
    plain, other = lowered(fixed="16,8"), lowered("layer1.0.conv1=shift", fixed="16,8")
    for before, after in zip(plain.graph, other.graph, strict=True):
        if isinstance(before, Requantize) and before.name != "layer1_0_relu1_quant":
            assert isinstance(after, Requantize)
            vectors = zip(
                (*before.requant.terms, before.requant.bias),
                (*after.requant.terms, after.requant.bias),
                strict=True,
            )
            for a, b in vectors:
                assert np.array_equal(a.raw, b.raw)
                assert np.array_equal(a.integer, b.integer)
    op = other.graph["layer1_0_relu1_quant"]
    assert isinstance(op, Requantize)
    assert set(np.abs(op.requant.terms[0].raw)) <= {0, 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer1.0.conv3=16,8", r"'layer1\.0\.conv3' matches nothing; near it: layer1\.0\.conv2, layer1"),
        ("LAYER1=16,8", "'LAYER1' matches nothing"),
        ("input=16,8", r"'input' names only the input or the logits, whose format is --edge-fixed"),
        ("linear=16,8", "whose format is --edge-fixed"),
        ("logits=16,8", "whose format is --edge-fixed"),
    ],
)
def test_patterns_that_change_nothing_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        lowered("*=32,auto", text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer1", "takes PATTERN=FORMAT"),
        ("=16,8", "takes PATTERN=FORMAT"),
        ("layer1=", "'--layer 'layer1=': '' is not a fixed-point format"[1:]),
        ("layer1=99,8", "--layer 'layer1=99,8': W must be 2..64"),
        ("layer1=w6a6", "'w6a6' is not a fixed-point format"),
    ],
)
def test_overrides_that_say_nothing(text: str, message: str) -> None:
    with pytest.raises(InputError) as info:
        parse_override(text)
    assert message in str(info.value)


def constants(width: int, raw: list[int], integer: list[int]) -> Constants:
    return Constants(width=width, raw=np.array(raw), integer=np.array(integer), format_name="x")


def test_range_use_by_hand() -> None:
    """Largest |raw| 96 of 128; smallest but zero 5 = 3 bits; one binary point: 8 bits a constant."""
    use = range_use([constants(8, [0, 5, -96], [2, 2, 2]), constants(8, [-7], [1])])
    assert (use.count, use.zeros, use.share, use.smallest_bits) == (4, 1, 0.75, 3)
    assert (use.integer, use.memory_bits) == ((1, 2), 32)
    nothing = range_use([constants(8, [0, 0], [2, 2])])
    assert (nothing.share, nothing.smallest_bits, nothing.zeros) == (0, 0, 2)
    assert range_use([constants(64, [-(2**63)], [2])]).share == 1


def test_memory_counts_the_shifts() -> None:
    """Points -3 and 4 are 7 apart: 3 bits each tell them; a zero's point is of no matter."""
    assert constants(12, [2047, 1, 0], [-3, 4, 40]).memory_bits == 3 * (12 + 3)
    assert ChannelFormat(12).quantize(np.array([0.5, 0.5]), bias=True).memory_bits == 24
    assert AutoFormat(16).quantize(np.array([3.0, 1e-9]), bias=True).memory_bits == 32


def test_uses_are_counted_by_format_and_role() -> None:
    done = lowered("layer1.0.conv1=8,auto", "layer1.0.conv2=8,auto", "pool_quant=shift", fixed="12,2")
    uses = {(u.format, u.bias): u for u in format_uses(done.graph, done.report.issues)}
    assert set(uses) == {
        *(("32,16", bias) for bias in (False, True)),
        *(("12,2", bias) for bias in (False, True)),
        *(("8,auto", bias) for bias in (False, True)),
        *(("32,auto", bias) for bias in (False, True)),
        ("shift", False),
        ("16,auto", True),
    }
    two = uses["8,auto", False]
    assert two.ops == ("layer1_0_relu1_quant", "layer1_0_relu2_quant")
    stored = [c for name in two.ops for c in done.graph[name].requant.terms]  # type: ignore[attr-defined]
    assert two.use.count == sum(c.raw.size for c in stored)
    assert two.use.share == max(int(np.abs(c.raw).max()) for c in stored) / 128
    for bias in (False, True):
        own = [i for i in done.report.issues if (i.source == "") is bias]
        body = [i for i in own if i.op in uses["12,2", bias].ops]
        assert uses["12,2", bias].saturated == sum(i.problem == "saturated" for i in body)
        assert uses["12,2", bias].vanished == sum(i.problem == "vanished" for i in body)
    assert sum(u.saturated + u.vanished for u in uses.values()) == len(done.report.issues)
