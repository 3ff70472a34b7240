"""The torch engine against the plain numpy reference, value for value, at every op."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwq.errors import InputError
from hwq.fixed import Constants, IntType, Rounding
from hwq.ir import (
    Conv2d,
    Graph,
    Input,
    Linear,
    MaxPool,
    Op,
    Output,
    Padding,
    Requant,
    Requantize,
    SumPool,
    TensorSpec,
    accumulator_type,
    pooled_size,
    verify,
)
from hwq.ir.verify import RULES
from hwq.simulate import Arithmetic, Simulator, exact_path, exact_paths, run_oracle, storage_dtype
from hwq.simulate.kernels import KERNELS
from hwq.simulate.oracle import ORACLE
from tests.graphs import graphs, random_pixels, seeded_graph


def assert_same(graph: Graph, pixels: npt.NDArray[np.uint8], **options: Any) -> None:
    expected = run_oracle(graph, pixels)
    simulator = Simulator(graph, threads=options.pop("threads", 1))
    got = simulator.run(pixels, keep="all", **options)
    for op in graph:
        ours, theirs = got.outputs[op.name], expected[op.name]
        assert ours.dtype == storage_dtype(op.out.type)
        assert ours.shape == (len(pixels), *op.out.shape)
        path = simulator.paths[op.name]
        assert np.array_equal(ours.astype(object), theirs.astype(object)), f"{op.name}: {path}"
        assert int(abs(theirs.astype(object)).max()) <= path.bound, f"{op.name}: bound {path.bound}"


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs(), st.integers(0, 2**32 - 1), st.sampled_from([None, 1, 2, 5]), st.sampled_from([1, 2]))
def test_random_graphs(graph: Graph, seed: int, batch: int | None, threads: int) -> None:
    assert_same(graph, random_pixels(graph, 5, seed), batch=batch, threads=threads)


def test_seeded_graphs_reach_every_arithmetic() -> None:
    seen: Counter[Arithmetic] = Counter()
    for seed in range(40):
        graph = seeded_graph(seed)
        assert_same(graph, random_pixels(graph, 4, seed))
        seen.update(path.work for path in exact_paths(graph).values())
    assert set(seen) >= set(Arithmetic) - {Arithmetic.WIDE}


def test_every_op_has_a_reference_and_a_kernel() -> None:
    ops = set(RULES) - {Input}
    assert set(ORACLE) == ops
    assert set(KERNELS) == ops


# -- one layer at a time
def chain(shape: tuple[int, ...], *make: Any) -> Graph:
    """Input, then each op made from its predecessor, then Output."""
    spec = TensorSpec(shape=shape, type=IntType(bits=8, signed=False), scale=1.0)
    ops: list[Op] = [Input(name="pixels", inputs=(), out=spec)]
    for maker in make:
        ops.append(maker(ops[-1]))
    ops.append(Output(name="out", inputs=(ops[-1].name,), out=ops[-1].out))
    graph = Graph(name="chain", ops=tuple(ops))
    verify(graph)
    return graph


def conv(weight: npt.NDArray[Any], groups: int = 1, stride: tuple[int, int] = (1, 1), pad: int = 0) -> Any:
    def make(op: Op) -> Op:
        w = weight.astype(np.int64)
        size = pooled_size(op.out.shape[:2], w.shape[1:3], stride, Padding.even(pad, pad))  # type: ignore[arg-type]
        bits = IntType(bits=max(2, int(np.abs(w).max()).bit_length() + 1), signed=True)
        out = TensorSpec(shape=(*size, w.shape[0]), type=accumulator_type(w, op.out.type))
        return Conv2d(
            name=f"conv_{op.name}",
            inputs=(op.name,),
            out=out,
            weight=w,
            weight_type=bits,
            stride=stride,
            padding=Padding.even(pad, pad),
            groups=groups,
        )

    return make


def constants(width: int, raw: list[int], integer: list[int]) -> Constants:
    return Constants(
        width=width, raw=np.array(raw, np.int64), integer=np.array(integer, np.int64), format_name="test"
    )


def requant(
    m: Constants, b: Constants, kind: IntType, rounding: Rounding = Rounding.RND, name: str = "requant"
) -> Any:
    def make(op: Op) -> Op:
        r = Requant(terms=(m,), bias=b, out=kind, lo=kind.lo, hi=kind.hi, rounding=rounding)
        spec = TensorSpec(shape=op.out.shape, type=kind, scale=1.0)
        return Requantize(name=name, inputs=(op.name,), out=spec, requant=r)

    return make


@pytest.mark.parametrize("excess", [-1, 0, 1])
@pytest.mark.parametrize(("bits", "cheap"), [(24, Arithmetic.FLOAT32), (53, Arithmetic.FLOAT64)])
def test_accumulators_at_the_limit_of_a_float(bits: int, cheap: Arithmetic, excess: int) -> None:
    """255 * sum|w| one below, at and above 2^24 and 2^53; odd sums, so that a lost bit shows."""
    total = -(-(1 << bits) // 255) + excess
    weight = np.full((4, 3, 3, 16), total // 144, np.int64)
    weight[:, 0, 0, 0] += total - int(weight[0].sum())
    weight[1] *= -1
    weight[2, :, :, ::2] *= -1
    graph = chain((6, 6, 16), conv(weight, pad=1))
    path = exact_path(graph, graph.ops[1])
    assert path.sum_bound == 255 * total
    assert (path.work is cheap) == (255 * total < 1 << bits)
    pixels = random_pixels(graph, 20, 1)
    pixels[1:3] = 255
    pixels[3:] |= 0xC1
    assert_same(graph, pixels)


@pytest.mark.parametrize("channels", [16, 32, 64])
def test_no_winograd_no_reduced_precision(channels: int) -> None:
    """The shapes that backends transform (3x3, stride 1), with sums just below 2^24."""
    rng = np.random.default_rng(channels)
    top = (1 << 24) // (255 * 9 * channels)
    weight = rng.integers(-top, top, (channels, 3, 3, channels), endpoint=True)
    graph = chain((16, 16, channels), conv(weight, pad=1))
    assert exact_path(graph, graph.ops[1]).work is Arithmetic.FLOAT32
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")  # what a caller may have left behind
    try:
        assert_same(graph, random_pixels(graph, 18, channels))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(precision)


@pytest.mark.parametrize("kernel", [3, 5])
def test_strided_single_column(kernel: int) -> None:
    """One input channel, one output column, a stride: oneDNN 3.13 reads past the row."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-100, 100, (2, 3, kernel, 1))
    graph = chain((6, kernel, 1), conv(weight, stride=(1, 3)))
    for count in (1, 2, 5):
        assert_same(graph, random_pixels(graph, count, count))


def test_integer_convolution_and_sums_beyond_floats() -> None:
    weight = np.full((3, 2, 2, 2), (1 << 31) - 1, np.int64)
    weight[1] *= -1
    one = constants(2, [1], [2])
    wide = requant(constants(32, [1 << 20] * 3, [32] * 3), one, IntType(bits=31, signed=True), name="wide")

    def total(op: Op) -> Op:
        kind = IntType(bits=op.out.type.bits + 2, signed=True)
        spec = TensorSpec(shape=(2, 2, 3), type=kind)
        return SumPool(name="sum", inputs=(op.name,), out=spec, kernel=(2, 2), stride=(1, 1))

    def largest(op: Op) -> Op:
        spec = TensorSpec(shape=(1, 1, 3), type=op.out.type)
        return MaxPool(name="max", inputs=(op.name,), out=spec, kernel=(2, 2), stride=(1, 1))

    graph = chain((5, 5, 2), conv(weight), wide, conv(np.full((3, 2, 2, 3), 1 << 30)), total, largest)
    works = [exact_path(graph, op).work for op in graph]
    assert Arithmetic.INT64 in works or Arithmetic.WIDE in works
    assert_same(graph, random_pixels(graph, 3, 0))


@pytest.mark.parametrize("rounding", [Rounding.RND, Rounding.TRN])
@pytest.mark.parametrize(
    ("width", "integer", "work"),
    [
        (8, [1, 2, 0], Arithmetic.FLOAT32),
        (32, [-4, 0, 7], Arithmetic.FLOAT64),
        (50, [3, -12, -5], Arithmetic.INT64),
        (64, [2, 2, 2], Arithmetic.LIMBS),
        (64, [2, 64, 90], Arithmetic.WIDE),
    ],
)
def test_requantisation_in_each_arithmetic(
    width: int, integer: list[int], work: Arithmetic, rounding: Rounding
) -> None:
    """Per-channel I, negative I, I > W; multipliers at both ends of the format."""
    top = (1 << (width - 1)) - 1
    m = constants(width, [top, -top - 1, top // 3], integer)
    b = constants(width, [top, top // 5, -top - 1], integer)
    graph = chain((4, 4, 3), requant(m, b, IntType(bits=16, signed=True), rounding))
    assert exact_path(graph, graph.ops[1]).work is work
    assert_same(graph, random_pixels(graph, 6, 3))


@pytest.mark.parametrize(
    ("rounding", "expected"), [(Rounding.RND, [0, 0, 1, -1, 2, 0]), (Rounding.TRN, [0, -1, 1, -2, 2, 0])]
)
def test_ties(rounding: Rounding, expected: list[int]) -> None:
    """x/2 and -x/2: half up, or floor."""
    m = constants(8, [1, -1], [7, 7])
    graph = chain((1, 1, 2), requant(m, constants(8, [0], [8]), IntType(bits=8, signed=True), rounding))
    pixels = np.array([[0, 1], [2, 3], [4, 0]], np.uint8).reshape(3, 1, 1, 2)
    assert Simulator(graph).run(pixels).logits.ravel().tolist() == expected


# -- the public face
def network(seed: int = 7) -> Graph:
    return seeded_graph(seed)


def test_same_digest_for_every_batch_and_thread_count() -> None:
    graph = network()
    pixels = random_pixels(graph, 250, 0)
    digests = {
        hashlib.sha256(
            Simulator(graph, threads=threads).run(pixels, batch=batch).logits.tobytes()
        ).hexdigest()
        for batch in (1, 50, 250, None)
        for threads in (1, 2)
    }
    assert len(digests) == 1


def test_argmax_ties_take_the_lowest_class() -> None:
    weight = np.array([[1, 0], [1, 0], [0, 1]], np.int64).reshape(3, 1, 1, 2)
    graph = chain((1, 1, 2), conv(weight))
    pixels = np.array([[5, 5], [5, 4], [4, 5]], np.uint8).reshape(3, 1, 1, 2)
    assert Simulator(graph).run(pixels).predictions.tolist() == [0, 0, 2]


def test_keeps_only_what_is_asked() -> None:
    graph = network()
    pixels = random_pixels(graph, 3, 0)
    name = graph.ops[1].name
    trace = Simulator(graph).run(pixels, keep=[name])
    assert set(trace.outputs) == {name, graph.output.name}
    assert set(Simulator(graph).run(pixels).outputs) == {graph.output.name}


def test_progress_counts_images() -> None:
    graph = network()
    told: list[int] = []
    Simulator(graph, threads=2).run(random_pixels(graph, 10, 0), batch=3, progress=told.append)
    assert told[-1] == 10
    assert len(told) == 4


def test_torch_settings_come_back() -> None:
    threads = torch.get_num_threads()
    graph = network()
    Simulator(graph, threads=2).run(random_pixels(graph, 6, 0), batch=2)
    assert torch.get_num_threads() == threads
    assert not torch.is_inference_mode_enabled()


def test_bad_calls() -> None:
    graph = network()
    pixels = random_pixels(graph, 2, 0)
    with pytest.raises(InputError, match="threads"):
        Simulator(graph, threads=0)
    simulator = Simulator(graph)
    with pytest.raises(InputError, match="no op named 'nowhere'"):
        simulator.run(pixels, keep=["nowhere"])
    with pytest.raises(InputError, match="no images"):
        simulator.run(pixels[:0])
    with pytest.raises(InputError, match="takes uint8 images of"):
        simulator.run(pixels[:, :, :, :0])
    with pytest.raises(InputError, match="not int64"):
        simulator.run(pixels.astype(np.int64))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="batch"):
        simulator.run(pixels, batch=-1)


def test_linear_of_wide_weights() -> None:
    def linear(op: Op) -> Op:
        weight = np.random.default_rng(0).integers(-(1 << 40), 1 << 40, (5, 6))
        kind = IntType(bits=42, signed=True)
        spec = TensorSpec(shape=(5,), type=accumulator_type(weight, op.out.type))
        return Linear(name="fc", inputs=(op.name,), out=spec, weight=weight, weight_type=kind)

    spec = TensorSpec(shape=(6,), type=IntType(bits=8, signed=False), scale=1.0)
    graph = chain(spec.shape, linear)
    assert_same(graph, np.random.default_rng(1).integers(0, 256, (7, 6), dtype=np.uint8))
