"""Clipped logits, counted by hand and against a graph whose type is too wide to clip anything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwq.fixed import AutoFormat, IntType
from hwq.ir import Graph, Input, MaxPool, Output, Requant, Requantize, TensorSpec, verify
from hwq.simulate import LogitWatch, Simulator, logit_range, logit_sources, unclipped

U8 = IntType(bits=8, signed=False)


def graph(
    multiplier: float, bias: float, kind: IntType, *, shape: tuple[int, ...] = (1, 1, 2), **limits: int
) -> Graph:
    """pixels -> q * multiplier + bias in units of 1/4."""
    spec = TensorSpec(shape=shape, type=U8, scale=1.0)
    form = AutoFormat(32)
    requant = Requant(
        terms=(form.quantize(np.array([multiplier]), bias=False),),
        bias=form.quantize(np.array([bias]), bias=True),
        out=kind,
        lo=limits.get("lo", kind.lo),
        hi=limits.get("hi", kind.hi),
    )
    out = TensorSpec(shape=shape, type=kind, scale=0.25)
    made = Graph(
        name="one",
        ops=(
            Input(name="pixels", inputs=(), out=spec),
            Requantize(name="logits", inputs=("pixels",), out=out, requant=requant),
            Output(name="out", inputs=("logits",), out=out),
        ),
    )
    verify(made)
    return made


def images(*pairs: tuple[int, int]) -> np.ndarray[Any, Any]:
    return np.array(pairs, dtype=np.uint8).reshape(-1, 1, 1, 2)


def test_at_the_end_is_not_beyond_it() -> None:
    """4 bits hold -7..7 quarters; of q - 10 the pixels 2, 3, 17, 18 give -8, -7, 7, 8: two are clipped."""
    made = graph(1.0, -10.0, IntType(bits=4, signed=True))
    pixels = images((2, 3), (17, 18), (3, 17), (10, 11))
    codes = Simulator(made, 1).run(pixels, keep="all").outputs
    assert codes["out"].reshape(-1, 2).tolist() == [[-7, -7], [7, 7], [-7, 7], [0, 1]]
    assert unclipped(made, codes).tolist() == [[-8, -7], [7, 8], [-7, 7], [0, 1]]
    watch = LogitWatch(made)
    watch.add(codes)
    found = watch.result()
    assert (found.images, found.logits, found.clipped_images, found.clipped) == (4, 8, 2, 2)
    assert (found.form, found.ends, found.reach) == ("4,2", (-1.75, 1.75), (-2.0, 2.0))
    assert (found.share, found.share_of_images) == (0.25, 0.5)
    assert str(found).startswith("WARNING: 2 of 8 logits (25.00%), in 2 of 4 images (50.00%), are clipped")


def test_the_limits_of_a_relu_clip_nothing() -> None:
    """lo = 0 within the type is meant; its hi is the type's."""
    made = graph(1.0, -10.0, IntType(bits=4, signed=True), lo=0)
    codes = Simulator(made, 1).run(images((2, 3), (17, 18)), keep="all").outputs
    watch = LogitWatch(made)
    watch.add(codes)
    assert (watch.result().clipped, watch.result().reach) == (1, (0.0, 2.0))


def test_a_pool_after_the_logits_looks_at_what_wins() -> None:
    """Of 18 and 5 (8 and -5 quarters) the larger is clipped; of 2 and 5 (-8, -5) the clipped one loses."""
    made = graph(1.0, -10.0, IntType(bits=4, signed=True), shape=(2, 1, 1))
    spec = replace(made["logits"].out, shape=(1, 1, 1))
    pool = MaxPool(name="pool", inputs=("logits",), out=spec, kernel=(2, 1), stride=(2, 1))
    made = Graph(name="pooled", ops=(*made.ops[:-1], pool, Output(name="out", inputs=("pool",), out=spec)))
    verify(made)
    pixels = np.array([[18, 5], [2, 5]], dtype=np.uint8).reshape(2, 2, 1, 1)
    codes = Simulator(made, 1).run(pixels, keep="all").outputs
    assert unclipped(made, codes).tolist() == [[8], [-5]]
    watch = LogitWatch(made)
    watch.add(codes)
    assert (watch.result().clipped, watch.result().images) == (1, 2)


@pytest.mark.parametrize("bits", [4, 6, 9, 16])
def test_as_in_a_type_that_holds_them(bits: int) -> None:
    """The unclipped codes are those of 40 bits, in batches or by running the images at an end again."""
    rng = np.random.default_rng(bits)
    pixels = rng.integers(0, 256, (50, 1, 1, 2), dtype=np.uint8)
    kind = IntType(bits=bits, signed=True)
    made, wide = graph(1.7, -190.0, kind), graph(1.7, -190.0, IntType(bits=40, signed=True))
    true = Simulator(wide, 1).run(pixels).logits
    runner = Simulator(made, 1)
    trace = runner.run(pixels, keep=logit_sources(made))
    assert np.array_equal(unclipped(made, trace.outputs), true)
    expected = logit_range(made, true)
    assert expected.clipped == np.count_nonzero(np.abs(true) > kind.hi)
    batches, again = LogitWatch(made), LogitWatch(made)
    for part in (slice(0, 20), slice(20, 50)):
        batches.add(runner.run(pixels[part], keep="all").outputs)
    again.add_run(runner, pixels, trace.logits)
    assert batches.result() == again.result() == expected
