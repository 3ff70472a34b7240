"""What explain says of layers whose answer is known without it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from hwq.engine import simulator
from hwq.explain import Explanation, explain, measure, observe, repairs, sentences, summary
from hwq.explain.vectors import needs
from hwq.fixed import parse_edge, parse_format
from hwq.ir import Requantize
from hwq.lower import Formats
from tests.explain.hand import BODY, SKIP, images, network, real_codes, share_wrong


def formats(text: str, edge: str = "32,16") -> Formats:
    return Formats(body=parse_format(text), edge=parse_edge(edge))


def explained(lower: object, text: str, channels: int = 1, threshold: float = 0.01) -> Explanation:
    pixels, labels = images(channels)
    return explain(lower, formats(text), pixels, labels, threshold=threshold, threads=1)  # type: ignore[arg-type]


def test_a_multiplier_that_vanishes() -> None:
    """2^-12 is below half of 16,8's step; x reaches 127 * 127 = 16129 < 2^14, and 2^-12 itself is one bit."""
    lower = network([2.0**-12], [0.0], [127])
    found = explained(lower, "16,8")
    (layer,) = found.bad
    assert (layer.op, layer.names, layer.format) == (BODY, (BODY, "layer"), "16,8")
    multipliers, biases = layer.vectors
    assert (multipliers.source, multipliers.vanished, multipliers.saturated) == ("conv", 1, 0)
    assert (multipliers.smallest, multipliers.largest, multipliers.reach) == (2.0**-12, 2.0**-12, 127 * 127)
    assert (multipliers.needs_integer, multipliers.needs_fraction) == (-10, 14)
    assert multipliers.worst_codes == 127 * 127 * 2.0**-12
    assert (biases.matter, biases.needs_integer, biases.vanished) == (0, 0, 0)
    assert (layer.needs.literal, layer.needs.auto, layer.needs.channel) == ((4, -10), 4, 4)
    # every code becomes 0, so those change that were not 0
    pixels, _ = images(1)
    codes = real_codes(pixels, lower(formats("16,8")))
    assert layer.share == np.mean(codes != 0)
    assert layer.far == np.mean(np.abs(codes) > 1)
    # two bits hold the one constant; `shift` holds it, too, but its bias takes 16
    assert [(r.format, r.share, r.memory_bits) for r in layer.repairs] == [
        ("2,-10", 0.0, 4),
        ("2,auto", 0.0, 4),
        ("2,channel", 0.0, 4),
        ("shift", 0.0, 18),
    ]
    assert found.uniform == layer.repairs
    assert found.mixed is not None
    assert (found.mixed.body, found.mixed.layers) == ("2,-10", ())
    assert dict(found.memory_bits) == {"given": 32, "uniform": 4, "mixed": 4}
    assert found.accuracy["uniform"] == found.accuracy["real"]


def test_a_bias_that_saturates() -> None:
    """300 codes in 8,4: the range ends at 8 - 1/16; 2^9 > 300 > 2^8, so I = 10. 300 = 75 * 4: 8 bits."""
    found = explained(network([1.0], [300.0], [1]), "8,4")
    (layer,) = found.bad
    multipliers, biases = layer.vectors
    assert (biases.source, biases.saturated, biases.vanished) == ("", 1, 0)
    assert (biases.needs_integer, biases.needs_fraction) == (10, 1)
    assert biases.worst_codes == 300 - (8 - 1 / 16)
    assert (multipliers.saturated, multipliers.worst_codes) == (0, 0.0)
    assert (layer.share, layer.far, layer.predicted) == (1.0, 1.0, 1.0)
    assert [(r.format, r.memory_bits) for r in layer.repairs] == [
        ("8,auto", 16),
        ("8,channel", 16),
        ("shift", 18),
        ("10,10", 20),
    ]
    text = " ".join(sentences(layer))
    assert "it lies beyond its end at 8, sums move by up to 292 codes" in text
    assert "biases need I = 10" in text


def test_one_binary_point_for_multipliers_and_biases() -> None:
    """Biases want I = 10, multipliers F = 14 and I = -10: 24 bits together, 11 and 4 apart."""
    (layer,) = explained(network([2.0**-12], [300.0], [127]), "16,8").bad
    assert (layer.needs.literal, layer.needs.auto, layer.needs.channel) == ((24, 10), 11, 11)


def test_a_residual_add_has_a_row_a_term() -> None:
    lower = network([2.0**-6, 3 * 2.0**-9], [1.0, -20.0], [127, 90], skip=0.75)
    (layer,) = explained(lower, "4,4", channels=2).bad
    assert [(v.source, v.count) for v in layer.vectors] == [("conv", 2), ("image", 1), ("", 2)]
    assert [v.needs_integer for v in layer.vectors] == [-4, 1, 6]
    assert [v.reach for v in layer.vectors] == [127 * 127, 127, 1]
    pixels, _ = images(2)
    assert layer.share == share_wrong(pixels, lower(formats("4,4")), SKIP)


def test_nothing_is_bad() -> None:
    found = explained(network([2.0**-12], [3.0], [127]), "24,8")
    assert found.bad == ()
    assert (found.uniform, found.mixed) == ((), None)
    assert summary(found)[-1].startswith("No layer has more than 1% of its codes changed")


def test_what_cannot_move_a_sum_needs_nothing() -> None:
    """127 / 255 is below half a code, 128 / 255 above; a bias of 0.4 may vanish."""
    reach = np.array([127, 128])
    integer, fraction = needs(np.array([1 / 255]), reach)
    assert (integer.tolist(), fraction.tolist()) == ([-6], [8])
    assert needs(np.array([0.4]), np.array([1]))[0].size == 0
    layer = explained(network([1 / 300], [0.4], [1]), "4,4").layers[1]
    assert [v.matter for v in layer.vectors] == [0, 0]
    # together they can: 0.4 + 127 / 300 is most of a code
    assert (layer.share > 0.3, layer.far) == (True, 0)
    text = " ".join(sentences(layer))
    assert "Biases are 2^-1.3 codes. 4,4 steps by 2^0 there: sums move by up to 0.4 codes." in text
    assert "sums move by up to 0.423 codes" in text


def test_the_image_has_its_own_format() -> None:
    pixels, labels = images(1)
    found = explain(
        network([1.0], [0.0], [1]), formats("16,8", "8,4"), pixels, labels, threads=1
    )  # -128 in 8,4
    (layer,) = found.bad
    assert (layer.op, layer.edge, layer.repairs) == ("image", True, ())
    assert "choose another --edge-fixed" in sentences(layer)[-1]
    assert found.mixed is None


def test_a_share_of_the_codes_stands_for_all() -> None:
    """Fewer codes kept: the same rows for the same images, the share near that of all."""
    lower = network([2.0**-7 * 1.1] * 4, [0.3] * 4, [127, 80, 55, 31])
    pixels, _ = images(4)
    healthy = lower(formats("40,channel"))
    runner = simulator(healthy.graph, 1, "torch")
    full, some, again = (observe(healthy, runner, pixels, kept=k)[BODY] for k in (10**6, 500, 500))
    assert len(full.codes) == 256
    assert len(some.codes) == 125
    assert np.array_equal(some.inputs[0], again.inputs[0])
    op = lower(formats("10,2")).graph[BODY]
    assert isinstance(op, Requantize)
    assert measure(full, op.requant).share == pytest.approx(measure(some, op.requant).share, abs=0.1)


reals = st.tuples(st.floats(0.5, 1.0), st.integers(-13, -5), st.sampled_from([-1, 1])).map(
    lambda t: t[2] * t[0] * 2.0 ** t[1]
)
biases = st.floats(-400, 400).map(lambda b: round(b, 3))


# shrinking would take minutes; the cases are small as they are
@settings(max_examples=12, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    multipliers=st.lists(reals, min_size=3, max_size=3),
    offsets=st.lists(biases, min_size=3, max_size=3),
    weights=st.lists(st.integers(1, 127), min_size=3, max_size=3),
    threshold=st.sampled_from([0.0, 0.01, 0.1]),
)
def test_a_repair_suffices_and_the_next_narrower_does_not(
    multipliers: list[float], offsets: list[float], weights: list[int], threshold: float
) -> None:
    lower = network(multipliers, offsets, weights)
    pixels, _ = images(3)
    healthy = lower(formats("40,channel"))
    site = observe(healthy, simulator(healthy.graph, 1, "torch"), pixels)[BODY]
    found = {r.format.partition(",")[2]: r for r in repairs([site], threshold)}
    literal = next((r for form, r in found.items() if form.lstrip("-").isdigit()), None)
    for repair in found.values():
        lowered = lower(formats(repair.format))
        assert share_wrong(pixels, lowered) == repair.share <= threshold
    narrower = [
        f"{int(found[k].format.partition(',')[0]) - 1},{k}" for k in ("auto", "channel") if k in found
    ]
    if literal is not None:
        width, integer = map(int, literal.format.split(","))
        narrower += [f"{width - 1},{i}" for i in range(integer - 6, integer + 7)]
    for text in narrower:
        if int(text.partition(",")[0]) >= 2:
            assert share_wrong(pixels, lower(formats(text))) > threshold, text


@settings(max_examples=25, deadline=None)
@given(
    values=st.lists(reals, min_size=4, max_size=4),
    reach=st.lists(st.integers(1, 1 << 20), min_size=4, max_size=4),
)
def test_needed_bits_are_enough_and_one_less_is_not(values: list[float], reach: list[int]) -> None:
    """I: |v| < 2^(I-1), and not of I - 1. F: half a step times X below half a code, and not of F - 1."""
    v, x = np.array(values), np.array(reach)
    integer, fraction = needs(v, x)
    matter = np.abs(v) * x >= 0.5
    assert integer.size == fraction.size == matter.sum()
    assert (np.abs(v[matter]) < 2.0 ** (integer - 1)).all()
    assert (np.abs(v[matter]) >= 2.0 ** (integer - 2)).all()
    assert (x[matter] * 2.0 ** -(fraction + 1) < 0.5).all()
    assert (x[matter] * 2.0**-fraction >= 0.5).all()
