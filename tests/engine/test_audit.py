"""Code errors counted on the way through the native engine: the same integers as by numpy, and by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hwq.engine import CpuPath, Engine, LayerErrors, audit, library, real_codes
from hwq.errors import InputError
from hwq.fixed import AutoFormat, IntType, Rounding
from hwq.ir import Graph, Requantize
from hwq.simulate import Simulator, run_oracle
from tests.engine.conftest import Variant, constants, extreme_pixels, finish, pixels_input, requantize, spread
from tests.engine.test_layers import layer
from tests.graphs import random_pixels
from tests.nets import lowered_net


@dataclass(frozen=True)
class Floats:
    """Real constants."""

    terms: tuple[npt.NDArray[np.float64], ...]
    bias: npt.NDArray[np.float64]


def nearby(graph: Graph, seed: int = 0, spread: float = 0.01) -> dict[str, Floats]:
    """The stored constants of every Requantize, a little off."""
    rng = np.random.default_rng(seed)

    def off(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(values * rng.uniform(1 - spread, 1 + spread, len(values)))

    return {
        op.name: Floats(tuple(off(t.values()) for t in op.requant.terms), off(op.requant.bias.values()))
        for op in graph
        if isinstance(op, Requantize)
    }


def by_hand(graph: Graph, pixels: npt.NDArray[np.uint8], real: dict[str, Floats]) -> dict[str, LayerErrors]:
    """One value at a time, in Python's floats and integers."""
    outputs = run_oracle(graph, pixels)
    found = {}
    for op in graph:
        if not isinstance(op, Requantize):
            continue
        constant, r = real[op.name], op.requant
        wrong = signal = noise = 0
        for place in np.ndindex(outputs[op.name].shape):
            total = 0.0
            for source, values in zip(op.inputs, constant.terms, strict=True):
                total += float(outputs[source][place]) * float(values[place[-1] % len(values)])
            total += float(constant.bias[place[-1] % len(constant.bias)])
            total += 0.5 if r.rounding is Rounding.RND else 0.0
            exact, code = min(max(math.floor(total), r.lo), r.hi), int(outputs[op.name][place])
            wrong, signal, noise = wrong + (exact != code), signal + exact**2, noise + (exact - code) ** 2
        found[op.name] = LayerErrors(values=outputs[op.name].size, wrong=wrong, signal=signal, noise=noise)
    return found


@cache
def net(seed: int) -> tuple[Graph, npt.NDArray[np.uint8], dict[str, Floats], dict[str, LayerErrors]]:
    graph = lowered_net(seed) if seed < 3 else layer(seed)
    pixels = random_pixels(graph, 3, seed) if seed < 3 else extreme_pixels(graph, 4, seed)
    real = nearby(graph, seed)
    return graph, pixels, real, dict(audit(Simulator(graph, 1), pixels, real).layers)


def test_numpy_counts_as_by_hand() -> None:
    wrong = 0
    for seed in (4, 7, 8, 9, 11, 13):
        graph, pixels, real, layers = net(seed)
        assert layers == by_hand(graph, pixels, real)
        wrong += sum(errors.wrong for errors in layers.values())
    assert wrong > 0


def test_native_counts_as_numpy(compiled: Variant) -> None:
    """Fused sums, two terms, codes of 2 to 30 bits, every path; chunks that the layout cuts into strips."""
    for seed in range(25):
        graph, pixels, real, layers = net(seed)
        found = audit(compiled.engine(graph), pixels, real)
        assert found.layers == layers, seed
        assert list(found.layers) == list(layers)
        assert np.array_equal(found.logits, compiled.engine(graph).run(pixels).logits)


def test_every_thread_count_and_progress() -> None:
    graph, pixels, real, _ = net(1)
    many = np.concatenate([pixels] * 30)
    expected = audit(Simulator(graph, 1), many, real)
    for threads in (1, 2, 3):
        engine, told = Engine(graph, threads), list[int]()
        engine._chunk = lambda: 7  # type: ignore[method-assign]
        found = audit(engine, many, real, told.append)
        assert found.layers == expected.layers
        assert np.array_equal(found.predictions, expected.predictions)
        assert told[-1] == len(many) == sum(np.diff([0, *told]))


@pytest.mark.parametrize(("bits", "limit"), [(31, 30), (32, 31), (50, 49)])
def test_squares_past_64_bits(compiled: Variant, bits: int, limit: int) -> None:
    """Codes at both ends of 31, 32 and 50 bits: sums of squares and of differences do not fit 64."""
    pixels = pixels_input((8, 8, 3))
    kind = IntType(bits=bits, signed=True)
    y = spread("y", pixels, kind)
    graph = finish(pixels, y)
    # the other way up: black becomes the highest code
    real = {"y": Floats((-y.requant.terms[0].values(),), -y.requant.bias.values())}
    images = extreme_pixels(graph, 3)
    found = audit(compiled.engine(graph), images, real).layers["y"]
    assert found == by_hand(graph, images, real)["y"]
    assert found.noise > 1 << 64
    assert kind.hi.bit_length() == limit


def test_exact_constants_make_no_errors(compiled: Variant) -> None:
    graph, pixels, _, _ = net(2)
    found = audit(compiled.engine(graph), pixels, nearby(graph, spread=0.0))
    assert all(
        (e.wrong, e.noise, e.share, e.decibels) == (0, 0, 0.0, math.inf) for e in found.layers.values()
    )


def test_share_and_decibels() -> None:
    errors = LayerErrors(values=200, wrong=50, signal=1000, noise=10)
    assert errors.share == 0.25
    assert errors.decibels == pytest.approx(20, abs=1e-9)  # logarithms round
    assert LayerErrors(values=1, wrong=1, signal=0, noise=1).decibels == 0


@pytest.mark.skipif("fma" not in library._cpu_flags(), reason="this CPU has no fused multiply-add")
def test_no_product_is_fused_with_its_sum() -> None:
    """x M + B is 0 where the product is rounded first; exactly, and in one step, it lies below: floor -1."""
    m = next(m for m in np.linspace(1, 2, 999) if Fraction(255 * m) > 255 * Fraction(m))
    pixels = pixels_input((1, 1, 1))
    one, zero = AutoFormat(16).quantize(np.ones(1), bias=False), constants(8, [0], [0])
    graph = finish(pixels, requantize("y", [pixels], IntType(bits=9, signed=True), [one], zero, Rounding.TRN))
    white, real = np.full((1, 1, 1, 1), 255, np.uint8), {"y": Floats((np.array([m]),), np.array([-255 * m]))}
    found = audit(Engine(graph, 1, CpuPath.AVX2, flags=("-O1", "-mfma")), white, real).layers["y"]
    assert found.signal == 0
    assert found == by_hand(graph, white, real)["y"]


def test_only_the_named_ones_and_refusals() -> None:
    graph, pixels, real, layers = net(1)
    name = list(layers)[1]
    runner: Any
    for runner in (Engine(graph, 1), Simulator(graph, 1)):
        assert audit(runner, pixels, {name: real[name]}).layers == {name: layers[name]}
        assert audit(runner, pixels, {}).layers == {}
        with pytest.raises(InputError, match="no requantisation named 'nowhere'"):
            audit(runner, pixels, {"nowhere": real[name]})
        with pytest.raises(InputError, match="no images"):
            audit(runner, pixels[:0], real)
        with pytest.raises(InputError, match="takes uint8 images"):
            audit(runner, pixels[:, :3], real)


def test_real_codes_of_one_value() -> None:
    pixels = pixels_input((1, 1, 2))
    form = AutoFormat(16)
    m, b = form.quantize(np.ones(2), bias=False), form.quantize(np.zeros(2), bias=True)
    real = Floats((np.array([0.5, -3.0]),), np.array([0.25]))
    x = np.array([[[[3, 7]]]], np.uint8)
    for rounding, expected in ((Rounding.RND, [2, -20]), (Rounding.TRN, [1, -20])):
        y = requantize("y", [pixels], IntType(bits=6, signed=True), [m], b, rounding, limits=(-20, 31))
        assert real_codes(y, real, [x]).tolist() == [[[expected]]]
