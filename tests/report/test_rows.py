from __future__ import annotations

import numpy as np
import pytest

from hwq.fixed import IntType, parse_format
from hwq.ir import Flatten, Graph, Input, Linear, Output, Requant, Requantize, TensorSpec, accumulator_type
from hwq.lower.report import ConstantIssue
from hwq.report import Curve, Series, code_histogram, constant_rows, op_rows, training_curves
from hwq.report.svg import nice_ticks

U8 = IntType(bits=8, signed=False)
S4 = IntType(bits=4, signed=True)


def _graph() -> Graph:
    weight = np.array([[1, -7], [3, 3], [0, 1]])
    form = parse_format("16,8")
    acc = TensorSpec(shape=(3,), type=accumulator_type(weight, U8))
    requant = Requant(
        terms=(form.quantize(np.array([0.5, 0.25, 0.0]), bias=False),),
        bias=form.quantize(np.array([0.0]), bias=True),
        out=S4,
        lo=S4.lo,
        hi=S4.hi,
    )
    return Graph(
        name="g",
        ops=(
            Input(name="input", inputs=(), out=TensorSpec(shape=(1, 2, 1), type=U8)),
            Flatten(name="flat", inputs=("input",), out=TensorSpec(shape=(2,), type=U8)),
            Linear(name="fc", inputs=("flat",), out=acc, weight=weight, weight_type=S4),
            Requantize(
                name="q", inputs=("fc",), out=TensorSpec(shape=(3,), type=S4, scale=1.0), requant=requant
            ),
            Output(name="out", inputs=("q",), out=TensorSpec(shape=(3,), type=S4, scale=1.0)),
        ),
    )


@pytest.mark.parametrize(
    ("kind", "codes", "counts"),
    [
        (S4, [-7, 0, 0, 7], (1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1)),
        (IntType(bits=2, signed=False), [0, 0, 3], (2, 0, 0, 1)),
        (IntType(bits=1, signed=True), [-1, 1, 1], (1, 0, 2)),
    ],
)
def test_few_levels_have_a_bar_each(kind: IntType, codes: list[int], counts: tuple[int, ...]) -> None:
    assert code_histogram(np.array(codes), kind).counts == counts


@pytest.mark.parametrize("bits", [8, 12, 32, 63, 64, 82])
@pytest.mark.parametrize("signed", [True, False])
def test_wide_types_are_binned_without_losing_a_code(bits: int, signed: bool) -> None:
    kind = IntType(bits=bits, signed=signed)
    codes = np.array([kind.lo, 0, 0, 1, kind.hi], dtype=object)
    h = code_histogram(codes, kind)
    assert sum(h.counts) == 5
    assert len(h.counts) <= 48
    assert (h.seen, h.use) == ((kind.lo, kind.hi), 1.0)
    assert h.counts[-1] == 1
    if signed:
        assert len(h.counts) % 2 == 1
        assert h.counts[len(h.counts) // 2] == 3


def test_zero_of_an_unsigned_type_is_not_at_a_limit() -> None:
    h = code_histogram(np.array([0, 0, 0, 255], dtype=np.uint8), U8)
    assert h.at_limits == 0.25
    assert code_histogram(np.array([-7, 7, 0, 1]), S4).at_limits == 0.5


def test_use_of_the_range() -> None:
    assert code_histogram(np.array([0, 51]), U8).use == 0.2
    assert code_histogram(np.array([]), U8).use == 0.0


@pytest.mark.parametrize("code", [8, -8])
def test_codes_outside_the_type_are_refused(code: int) -> None:
    with pytest.raises(ValueError, match="leave s4"):
        code_histogram(np.array([0, code]), S4)


def test_op_rows_follow_the_graph() -> None:
    rows = op_rows(
        _graph(), values={"fc": 30, "q": 30}, mismatches={"q": 2}, codes={"q": np.array([[1, 2, 3]])}
    )
    assert [r.name for r in rows] == ["input", "flat", "fc", "q", "out"]
    fc, q = rows[2], rows[3]
    assert (fc.kind, fc.macs, fc.parameters, fc.weights, fc.values) == ("Linear", 6, 6, "s4", 30)
    assert fc.exact_bits == (8 * 255).bit_length() + 1
    assert (q.codes, q.mismatches, q.macs) == ("s4", 2, 0)
    assert q.histogram is not None
    assert rows[0].histogram is None
    assert rows[0].exact_bits is None


def test_constant_rows_state_format_and_span() -> None:
    issues = [
        ConstantIssue(
            op="q", source=source, channel=2, value=1e-9, stored=0.0, problem=problem, harmful=harmful
        )
        for source, problem, harmful in (
            ("fc", "vanished", False),
            ("fc", "vanished", True),
            ("fc", "saturated", True),
            ("", "vanished", False),
        )
    ]
    multiplier, bias = constant_rows(_graph(), issues)
    assert (multiplier.role, multiplier.format, multiplier.count) == ("M from fc", "16,8", 3)
    assert multiplier.span == (0.25, 0.5)
    assert multiplier.integers == (8, 8)
    assert (multiplier.saturated, multiplier.vanished, multiplier.harmful) == (1, 2, 2)
    assert (bias.role, bias.span, bias.saturated, bias.vanished) == ("B", (0.0, 0.0), 0, 1)


def test_training_curves_take_losses_and_accuracies() -> None:
    records = [
        {"epoch": 1, "loss": 2.0, "test_accuracy": 0.5, "lr": 0.1, "note": "x"},
        {"epoch": 2, "loss": float("nan"), "test_accuracy": 0.75},
        {"epoch": 3, "loss": "broken"},
    ]
    assert training_curves({"w4": records}) == (
        Curve(title="Loss", x_label="epoch", series=(Series(name="loss", points=((1.0, 2.0),)),)),
        Curve(
            title="Accuracy",
            x_label="epoch",
            series=(Series(name="test_accuracy", points=((1.0, 0.5), (2.0, 0.75))),),
            percent=True,
        ),
    )
    assert training_curves({"w4": []}) == ()
    assert training_curves({"a": records, "b": records})[0].series[1].name == "b: loss"


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.9, 0.99, [0.9, 0.92, 0.94, 0.96, 0.98, 1.0]),
        (3.0, 3.0, [2.4, 2.6, 2.8, 3.0, 3.2, 3.4, 3.6]),
    ],
)
def test_ticks_are_round_and_cover(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == ticks
