"""The native engine as a whole: random networks, the same bits for every way of running, refusals."""

from __future__ import annotations

import dataclasses
import hashlib
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwq.engine import Engine, Method, simulator
from hwq.engine.methods import ALL, FALLBACKS
from hwq.engine.plan import KINDS, Plan
from hwq.errors import InputError, ToolError, VerifyError
from hwq.fixed import AutoFormat, IntType
from hwq.ir import (
    Conv2d,
    Graph,
    Linear,
    MaxPool,
    Op,
    Output,
    Pad,
    Padding,
    Requantize,
    SumPool,
    TensorSpec,
    pooled_size,
)
from hwq.ir.verify import RULES
from hwq.simulate import Simulator
from tests.engine.conftest import (
    Case,
    Variant,
    assert_same,
    convolution,
    extreme_pixels,
    finish,
    pixels_input,
    requantize,
    spread,
    variant,
)
from tests.graphs import changed_weight, graphs, random_pixels, seeded_graph
from tests.nets import lowered_net

SLOWER = (
    ALL - {Method.HIGH},
    ALL - {Method.HIGH, Method.NARROW},
    ALL - {Method.HIGH, Method.NARROW, Method.FILTERED},
)
METHODS = st.sampled_from([ALL, *SLOWER, FALLBACKS])
VECTOR = ("avx2", "vnni", "portable")


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    graphs(), st.integers(0, 2**32 - 1), st.sampled_from([None, 1, 2, 5]), st.sampled_from([1, 2]), METHODS
)
def test_random_graphs(
    graph: Graph, seed: int, batch: int | None, threads: int, methods: frozenset[Method]
) -> None:
    assert_same(Engine(graph, threads, methods=methods), random_pixels(graph, 5, seed), batch=batch)


@pytest.mark.parametrize("kind", [IntType(bits=b, signed=s) for b in (4, 8, 13, 30) for s in (False, True)])
def test_pools(compiled: Variant, kind: IntType) -> None:
    """Windows inside, over every edge, apart and overlapping; sums of any type."""
    pixels = pixels_input((9, 11, 5))
    for kernel, stride, padding in (
        ((2, 3), (2, 1), Padding.even(1, 1)),
        ((5, 4), (1, 3), Padding(left=2, right=2)),
        ((5, 4), (3, 1), Padding(top=4, bottom=1, right=3)),
        ((9, 11), (1, 1), Padding()),
        ((12, 13), (1, 1), Padding(top=1, bottom=2, left=2)),
        ((1, 1), (2, 3), Padding()),
    ):
        codes = spread("codes", pixels, kind)
        size = pooled_size((9, 11), kernel, stride, padding)
        window = {"inputs": ("codes",), "kernel": kernel, "stride": stride, "padding": padding}
        bound = kernel[0] * kernel[1] * kind.hi
        total = IntType(bits=bound.bit_length() + kind.signed, signed=kind.signed)
        largest = MaxPool(
            name="max",
            out=TensorSpec(shape=(*size, 5), type=kind, scale=1.0),
            **window,  # type: ignore[arg-type]
        )
        sums = SumPool(name="sum", out=TensorSpec(shape=(*size, 5), type=total), **window)  # type: ignore[arg-type]
        form, out = AutoFormat(16), IntType(bits=8, signed=True)
        m = [form.quantize(np.full(1, 100 / b), bias=False) for b in (kind.hi, bound)]
        y = requantize("y", [largest, sums], out, m, form.quantize(np.zeros(1), bias=True))
        graph = finish(pixels, codes, largest, sums, y)
        assert_same(compiled.engine(graph), extreme_pixels(graph, 4))


@pytest.mark.parametrize("kind", [IntType(bits=b, signed=s) for b in (4, 8, 13, 30) for s in (False, True)])
def test_pads(compiled: Variant, kind: IntType) -> None:
    """A map of every side's own zeros, in space and in channels; then read by a sum and as it is."""
    pixels = pixels_input((4, 3, 5))
    codes = spread("codes", pixels, kind)
    for padding, before, after in (
        (Padding(top=1, bottom=2, left=3), 0, 0),
        (Padding(), 2, 1),
        (Padding(bottom=1, right=4), 0, 3),
    ):
        shape = (*padding.padded((4, 3)), before + 5 + after)
        spec = TensorSpec(shape=shape, type=kind, scale=1.0)
        pad = Pad(name="pad", inputs=("codes",), out=spec, padding=padding, before=before, after=after)
        form, out = AutoFormat(16), IntType(bits=8, signed=True)
        m = form.quantize(np.full(1, 100 / kind.hi), bias=False)
        y = requantize("y", [pad], out, [m], form.quantize(np.full(1, 3.0), bias=True))
        graph = finish(pixels, codes, pad, y)
        assert_same(compiled.engine(graph), extreme_pixels(graph, 4))


@cache
def seeded(seed: int) -> Case:
    graph = seeded_graph(seed)
    return Case.of(graph, random_pixels(graph, 4, seed))


@cache
def lowered(seed: int) -> Case:
    graph = lowered_net(seed)
    return Case.of(graph, random_pixels(graph, 3, seed))


def test_seeded_graphs(compiled: Variant) -> None:
    used: set[Method] = set()
    for seed in range(25):
        engine = compiled.engine(seeded(seed).graph)
        assert_same(engine, seeded(seed).pixels, seeded(seed).expected, batch=3)
        used |= {choice.method for choice in engine.choices.values()}
    assert used >= {Method.PLAIN, Method.NARROW, Method.LONG, Method.WIDE, Method.DEPTHWISE}


def test_lowered_networks(compiled: Variant) -> None:
    for seed in range(4):
        engine = compiled.engine(lowered(seed).graph)
        assert_same(engine, lowered(seed).pixels, lowered(seed).expected)


def test_every_op_has_a_kind() -> None:
    assert set(KINDS) == set(RULES)


def residual(seed: int = 0, channels: int = 17) -> Graph:
    """Two convolutions and an add on 9x7 maps: odd tiles, odd channels."""
    rng = np.random.default_rng(seed)
    pixels = pixels_input((9, 7, channels))
    kind, form = IntType(bits=8, signed=False), AutoFormat(16)
    ops: list[Op] = [pixels]
    for i in range(2):
        weight = rng.integers(-127, 128, (channels, 3, 3, channels))
        ops.append(convolution(f"conv{i}", ops[-1], weight, padding=Padding.even(1, 1)))
        terms = [ops[-1]] if i == 0 else [ops[-1], ops[-2]]
        scales = (1e-3, 0.5)[: len(terms)]
        m = [form.quantize(rng.uniform(0, s, channels), bias=False) for s in scales]
        ops.append(
            requantize(f"q{i}", terms, kind, m, form.quantize(rng.uniform(-9, 99, channels), bias=True))
        )
    return finish(*ops)


def test_same_digest_for_every_path_batch_thread_count_and_method() -> None:
    graph = residual()
    pixels = extreme_pixels(graph, 47)
    engines = [Engine(graph, threads) for threads in (1, 2, 3)]
    for name in VECTOR:
        try:
            engines += [variant(name).engine(graph, 2, methods) for methods in (ALL, FALLBACKS)]
        except pytest.skip.Exception:
            continue  # not on this CPU
    digests = set()
    for engine in engines:
        for batch in (None, 1, 4, 47):
            trace = engine.run(pixels, keep="all", batch=batch)
            key = hashlib.sha256()
            for name in sorted(trace.outputs):
                key.update(trace.outputs[name].tobytes())
            digests.add(key.hexdigest())
    assert len(digests) == 1
    expected = Simulator(graph, threads=1).run(pixels, keep="all")
    assert all(np.array_equal(trace.outputs[n], codes) for n, codes in expected.outputs.items())


def test_keeps_only_what_is_asked() -> None:
    graph = residual()
    pixels = extreme_pixels(graph, 5)
    everything = Engine(graph, 1).run(pixels, keep="all").outputs
    for name in graph.by_name:
        trace = Engine(graph, 1).run(pixels, keep=[name])
        assert set(trace.outputs) == {name, "out"}
        assert np.array_equal(trace.outputs[name], everything[name])


def test_progress_and_predictions() -> None:
    graph = residual()
    told: list[int] = []
    trace = Engine(graph, 2).run(extreme_pixels(graph, 10), batch=3, progress=told.append)
    assert (told[-1], len(told)) == (10, 4)
    assert np.array_equal(trace.predictions, trace.logits.argmax(axis=1))


def test_pixels_that_are_a_view() -> None:
    graph = residual()
    pixels = extreme_pixels(graph, 6)
    turned = np.ascontiguousarray(pixels[:, ::-1])[:, ::-1]
    assert np.array_equal(Engine(graph, 1).run(turned).logits, Engine(graph, 1).run(pixels).logits)


# -- other constants
def rescaled(graph: Graph, form: AutoFormat) -> Graph:
    """The graph with every requantisation's constants in another format."""

    def change(op: Op) -> Op:
        if not isinstance(op, Requantize):
            return op
        r = op.requant
        terms = tuple(form.quantize(t.values(), bias=False) for t in r.terms)
        return dataclasses.replace(
            op, requant=dataclasses.replace(r, terms=terms, bias=form.quantize(r.bias.values(), bias=True))
        )

    return Graph(name=graph.name, ops=tuple(change(op) for op in graph))


@pytest.mark.parametrize("width", [2, 8, 24, 60])
def test_with_constants_packs_no_weights_again(width: int) -> None:
    graph = residual()
    first = Engine(graph, 1)
    other = rescaled(graph, AutoFormat(width))
    second = first.with_constants(other)
    assert_same(second, extreme_pixels(graph, 4))
    for name in ("conv0", "conv1"):
        assert second._plan.sums[name] is first._plan.sums[name]
    assert_same(first, extreme_pixels(graph, 4))  # and leaves the first alone


def test_with_constants_notices_other_weights() -> None:
    graph = residual()
    first = Engine(graph, 1)
    other = changed_weight(graph)
    second = first.with_constants(other)
    assert second._plan.sums["conv0"] is not first._plan.sums["conv0"]
    assert second._plan.sums["conv1"] is first._plan.sums["conv1"]
    assert_same(second, extreme_pixels(graph, 4))


def test_with_constants_of_another_network() -> None:
    first = Engine(residual(0), 1)
    assert_same(first.with_constants(seeded_graph(3)), random_pixels(seeded_graph(3), 4, 0))


# -- refusals
def test_an_illegal_graph_is_refused_before_any_native_code(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = residual()
    conv = graph["conv1"]
    assert isinstance(conv, Conv2d)

    def replaced(**fields: object) -> Graph:
        op = dataclasses.replace(conv, **fields)  # type: ignore[arg-type]
        return Graph(name="odd", ops=tuple(op if o is conv else o for o in graph.ops))

    def never(*_: object) -> Plan:
        raise AssertionError("a plan was made")

    monkeypatch.setattr(Plan, "of", never)
    odd = [
        replaced(padding=Padding()),
        replaced(padding=Padding.even(-1, 1)),
        replaced(stride=(0, 1)),
        replaced(inputs=("nowhere",)),
        replaced(weight=conv.weight[:, :, :, :5]),
        replaced(weight=conv.weight * 9),
        replaced(out=TensorSpec(shape=conv.out.shape, type=IntType(bits=12, signed=True))),
        Graph(name="odd", ops=graph.ops[:-1]),
    ]
    for illegal in odd:
        with pytest.raises(VerifyError):
            Engine(illegal, 1)


def test_what_is_too_wide_is_left_to_torch() -> None:
    pixels = pixels_input((2, 2, 1))
    weight = np.full((1, 1, 1, 1), (1 << 62) - 1, np.int64)
    graph = finish(pixels, convolution("huge", pixels, weight))
    with pytest.raises(ToolError, match=r"cannot run op 'huge': .*; use --engine torch"):
        Engine(graph, 1)
    with pytest.raises(ToolError, match="huge"):
        simulator(graph, 1, "native")
    notes: list[str] = []
    runner = simulator(graph, 1, note=notes.append)
    assert isinstance(runner, Simulator)
    assert "the torch engine runs instead" in notes[0]


def test_bad_calls() -> None:
    graph = residual()
    pixels = extreme_pixels(graph, 3)
    with pytest.raises(InputError, match="threads"):
        Engine(graph, 0)
    engine = Engine(graph, 1)
    with pytest.raises(InputError, match="no op named 'nowhere'"):
        engine.run(pixels, keep=["nowhere"])
    with pytest.raises(InputError, match="no images"):
        engine.run(pixels[:0])
    with pytest.raises(InputError, match="takes uint8 images of"):
        engine.run(pixels[:, :5])
    with pytest.raises(InputError, match="batch"):
        engine.run(pixels, batch=-1)


def test_graphs_have_what_is_tested() -> None:
    """The residual graph's ops are those the tests above name."""
    graph = residual()
    assert isinstance(graph["conv0"], Conv2d | Linear)
    assert isinstance(graph.output, Output)
    assert Engine(graph, 1).choices["conv0"].method in (Method.WINOGRAD, Method.BYTES)
