"""What cannot be lowered, and constants that their format cannot show: one clear line each."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from hwq.errors import InputError, UnsupportedError, VerifyError
from hwq.fixed import IntType, Rounding, parse_edge, parse_format
from hwq.ir import Bound, Requant, Requantize
from hwq.lower import ConstantIssue, Formats, LossyError, Lowered, RealConstants, constant_issues, lower
from hwq.quant import ActQuantizer, Policy, QuantConv2d
from tests.lower.reference import check, prepared
from tests.lower.test_structures import Act, Net, block, by_hand, conv, head

SHAPE = (6, 6, 3)


def lowered(model: fx.GraphModule, text: str = "32,10", edge: str = "32,16", **options: object) -> Lowered:
    formats = Formats(body=parse_format(text), edge=parse_edge(edge))
    return lower(model, shape=(3, 6, 6), mean=[0.5] * 3, std=[0.2] * 3, formats=formats, **options)  # type: ignore[arg-type]


def q() -> Act:
    return Act(0.1, 8, signed=True)


REFUSED: dict[str, tuple[Callable[[Net, Tensor], Tensor], dict[str, nn.Module], str]] = {
    "softmax": (
        lambda s, x: torch.neg(s.m(s.q(x))),
        {"m": nn.Softmax(1)},
        "Softmax is supported only as the last",
    ),
    "hardswish": (lambda s, x: functional.hardswish(s.q(x)), {}, "hardswish is not supported"),
    "method": (lambda s, x: s.q(x).exp(), {}, r"Tensor\.exp is not supported"),
    "transposed": (lambda s, x: s.m(s.q(x)), {"m": nn.ConvTranspose2d(3, 3, 2)}, "ConvTranspose2d is not"),
    "plain conv": (lambda s, x: s.m(s.q(x)), {"m": conv(3, 3)}, "Conv2d has no weight quantiser"),
    "constant": (lambda s, x: s.q(x) + 1.0, {}, "adding a constant is not supported"),
    "alpha": (
        lambda s, x: torch.add(s.q(x), s.q(x), alpha=2),
        {},
        r"torch\.add is supported only for two tensors",
    ),
    "broadcast": (lambda s, x: s.q(x) + s.q(x).mean((2, 3), keepdim=True), {}, "broadcasting"),
    "raw image": (lambda s, x: functional.relu(x), {}, "reads the raw image; an activation quantiser"),
    "raw pool": (lambda s, x: functional.max_pool2d(x, 2), {}, "reads the raw image"),
    "output image": (lambda s, x: x, {}, "one tensor that a layer computed"),
    "two outputs": (lambda s, x: (s.q(x), s.q(x)), {}, "one tensor that a layer computed"),  # type: ignore[dict-item,return-value]
    "flat output": (lambda s, x: s.q(x).flatten(1), {}, "returns a flattened feature map"),
    "flatten 2": (lambda s, x: s.q(x).flatten(2), {}, "flatten is supported from dimension 1"),
    "view": (
        lambda s, x: s.q(x).view(x.size(0), 6, -1),
        {},
        r"x\.view is supported only for all but the batch",
    ),
    "squeeze": (
        lambda s, x: s.q(x).squeeze(1),
        {},
        r"x\.squeeze is supported only for rows and columns of which one",
    ),
    "mean": (lambda s, x: s.q(x).mean(1), {}, "mean is supported over the two map dimensions"),
    "index": (lambda s, x: s.q(x)[:, :, 1::2, ::2], {}, "indexing is supported as subsampling only"),
    "first channels": (lambda s, x: s.q(x)[:, :2], {}, "indexing is supported as subsampling only"),
    "cropping pad": (lambda s, x: functional.pad(s.q(x), (1, -1)), {}, "pad with negative sizes cuts rows"),
    "cropping layer": (lambda s, x: s.m(s.q(x)), {"m": nn.ZeroPad2d(-1)}, "ZeroPad2d with negative sizes"),
    "padded images": (lambda s, x: functional.pad(s.q(x), (0,) * 7 + (1,)), {}, "pad of the batch dimension"),
    "padded by ones": (
        lambda s, x: s.m(s.q(x)),
        {"m": nn.ConstantPad2d(1, 1.0)},
        "ConstantPad2d is supported",
    ),
    "padded vector": (
        lambda s, x: functional.pad(s.q(x).flatten(1), (1, 1)),
        {},
        "pad is supported of feature maps only",
    ),
    "padded without end": (
        lambda s, x: functional.pad(s.q(x), (0, 1025)),
        {},
        "pad by 1025; a side is padded by 1024 at most",
    ),
    "raw pad": (lambda s, x: functional.pad(x, (1, 1)), {}, "reads the raw image"),
    "reflecting layer": (lambda s, x: s.m(s.q(x)), {"m": nn.ReflectionPad2d(1)}, "ReflectionPad2d is not"),
    "pad value": (lambda s, x: functional.pad(s.q(x), (0, 0, 0, 0, 1, 1), value=2.0), {}, "zeros only"),
    "reflect": (lambda s, x: functional.pad(s.q(x), (1, 1, 1, 1), mode="reflect"), {}, "zeros only"),
    "cat on rows": (lambda s, x: torch.cat([s.q(x), s.q(x)], 2), {}, "cat along dimension 2"),
    "ceil": (lambda s, x: s.m(s.q(x)), {"m": nn.MaxPool2d(5, 2, ceil_mode=True)}, "ceil_mode=True"),
    "pool dilation": (lambda s, x: s.m(s.q(x)), {"m": nn.MaxPool2d(2, dilation=2)}, "with dilation"),
    "include pad": (
        lambda s, x: s.m(s.q(x)),
        {"m": nn.AvgPool2d(3, 1, 1, count_include_pad=False)},
        "count_include_pad=False",
    ),
    "adaptive": (lambda s, x: s.m(s.q(x)), {"m": nn.AdaptiveAvgPool2d(4)}, "unequal windows"),
    "no statistics": (
        lambda s, x: s.m(s.q(x)),
        {"m": nn.BatchNorm2d(3, track_running_stats=False)},
        "without running statistics",
    ),
    "bn after relu": (
        lambda s, x: s.m(functional.relu6(s.q(x))),
        {"m": nn.BatchNorm2d(3)},
        "reads a clamped or pooled tensor that no quantiser rounds",
    ),
    "in place": (
        lambda s, x: (lambda y: functional.relu_(y) + y)(s.q(x)),
        {},
        "relu_ is not supported",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_place(case: str) -> None:
    forward, layers, message = REFUSED[case]
    with pytest.raises(UnsupportedError, match=message) as caught:
        lowered(by_hand(Net(forward, q=q(), **layers)))
    text = str(caught.value)
    assert "\n" not in text
    if case not in ("two outputs", "output image", "flat output"):
        assert re.match(r"'.*' \(test_refusals\.py:\d+\): ", text), text


def test_module_path_is_named() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.Softplus()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(x)

    net = nn.ModuleDict({"layer3": Inner()})
    model = by_hand(Net(lambda s, x: s.net["layer3"](s.q(x)), q=q(), net=net))
    with pytest.raises(UnsupportedError, match=r"^'net\.layer3\.act' \(test_refusals\.py:\d+\): Softplus"):
        lowered(model)


def conv_case(**options: object) -> fx.GraphModule:
    return prepared(nn.Sequential(conv(3, 4, **options), head(4)), SHAPE)  # type: ignore[arg-type]


def test_convolution_options() -> None:
    with pytest.raises(UnsupportedError, match="padding_mode='reflect' is not supported"):
        lowered(conv_case(padding=1, padding_mode="reflect"))
    with pytest.raises(VerifyError, match=r"\(Conv2d\): padding of 1025 above, .*; a side has 0..1024"):
        lowered(conv_case(k=1, padding=1025))


def test_unrounded_between_layers() -> None:
    model = prepared(nn.Sequential(conv(3, 4), conv(4, 4), head(4)), SHAPE)
    node = next(n for n in model.graph.nodes if n.target == "0_quant")
    node.replace_all_uses_with(node.args[0])
    model.graph.erase_node(node)
    with pytest.raises(UnsupportedError, match="QuantConv2d reads a tensor that no quantiser rounds"):
        lowered(model)


def test_wrong_image_shape() -> None:
    model = prepared(nn.Sequential(block(3, 4), nn.Flatten(), nn.Linear(64, 3)), SHAPE)
    formats = Formats(body=parse_format("32,10"))
    with pytest.raises(UnsupportedError, match="takes 64 values, is given 144"):
        lower(model, shape=(3, 8, 8), mean=[0.5] * 3, std=[0.2] * 3, formats=formats)
    with pytest.raises(UnsupportedError, match="takes 3 channels, is given 1"):
        lower(model, shape=(1, 6, 6), mean=[0.5], std=[0.2], formats=formats)
    with pytest.raises(InputError, match="mean and std need 3 numbers"):
        lower(model, shape=(3, 6, 6), mean=[0.5], std=[0.2], formats=formats)
    with pytest.raises(InputError, match="std positive"):
        lower(model, shape=(3, 6, 6), mean=[0.5] * 3, std=[0.0] * 3, formats=formats)


def test_not_a_number() -> None:
    model = prepared(nn.Sequential(block(3, 4), head(4)), SHAPE)
    model.get_submodule("0.1").running_var[2] = -1.0  # type: ignore[index,operator]
    with pytest.raises(InputError, match="0_2_quant: a multiplier or bias is not finite"):
        lowered(model)
    layer = model.get_submodule("0.0")
    assert isinstance(layer, QuantConv2d)
    with torch.no_grad():
        layer.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(UnsupportedError, match="a weight is NaN or infinite"):
        lowered(model)


# -- tensors left off


def test_off_tensors_are_named_or_calibrated() -> None:
    policy = Policy(weight_bits=8, act_bits=8, input_bits=32, last_bits=32, pool_bits=32)
    model = prepared(nn.Sequential(block(3, 4), head(4)), SHAPE, policy)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(
        InputError, match=r"not quantised \(32 bits\): .*1\.2.*input_quant.*--off-bits 16"
    ) as caught:
        lowered(model)
    assert "1_0_quant" in str(caught.value)
    acts = prepared(
        nn.Sequential(block(3, 4), head(4)), SHAPE, Policy(act_bits=32, input_bits=32, pool_bits=32)
    )
    with pytest.raises(
        InputError, match=r"^not quantised \(32 bits\): input_quant, 0_2_quant: give them codes"
    ):
        lowered(acts)
    with pytest.raises(InputError, match="--off-bits needs images"):
        lowered(model, off_bits=16)
    batch = torch.randn(4, 3, 6, 6)
    graph = lowered(model, "48,auto", off_bits=16, batches=[batch]).graph
    assert (graph["input_quant"].out.type.bits, graph["1_0_quant"].out.type.bits) == (16, 16)
    assert graph["1.2"].weight_type.bits == 16  # type: ignore[attr-defined]
    peak = float(batch.abs().max())
    assert graph["input_quant"].out.scale == pytest.approx(peak / 32767, rel=1e-6)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items()), "the model is left unchanged"
    assert any(isinstance(m, ActQuantizer) and m.off for m in model.modules())


# -- constants


def test_saturated_and_vanished_constants_are_reported() -> None:
    model = prepared(nn.Sequential(block(3, 4), head(4)), SHAPE)
    norm = model.get_submodule("0.1")
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        norm.weight[1], norm.bias[2], norm.weight[3], norm.bias[3] = 1e-7, 1e4, -0.9, 1e-9
    with pytest.raises(LossyError, match=r"constants saturate and \d+ vanish .*--allow-lossy") as caught:
        lowered(model, "16,8")
    assert "0_2_quant: bias, channel 2: " in str(caught.value)
    report = lowered(model, "16,8", allow_lossy=True).report
    by_place = {(i.op, i.source, i.channel): i for i in report.issues}
    bias = by_place["0_2_quant", "", 2]
    assert (bias.problem, bias.harmful, bias.stored) == ("saturated", True, 128 - 2**-8)
    assert bias.value == report.real["0_2_quant"].bias[2]
    dead = by_place["0_2_quant", "0.0", 1]
    assert (dead.problem, dead.harmful, dead.stored) == ("vanished", False, 0.0)
    # channel 0 has gamma 0: a multiplier that is 0 has not vanished
    assert ("0_2_quant", "0.0", 0) not in by_place
    assert len(report.saturated) + len(report.vanished) == len(report.issues)
    assert set(report.harmful) >= set(report.saturated)


@pytest.mark.parametrize(
    ("body", "edge", "repairs"),
    [
        ("16,8", "32,16", ["--fixed"]),
        ("24,auto", "4,2", ["--edge-fixed"]),
        ("16,8", "4,2", ["--fixed", "--edge-fixed"]),
    ],
)
def test_the_repair_is_of_the_format_that_is_too_small(body: str, edge: str, repairs: list[str]) -> None:
    model = prepared(nn.Sequential(block(3, 4), head(4)), SHAPE)
    norm = model.get_submodule("0.1")
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        norm.bias[2] = 1e4
    with pytest.raises(LossyError) as caught:
        lowered(model, body, edge=edge)
    assert re.findall(r"wider (--[a-z-]+)", str(caught.value)) == repairs


def test_saturation_is_judged_after_rounding() -> None:
    """<8,4> holds up to 127/16; 127.4/16 rounds to 127, 127.5/16 would round to 128."""
    from hwq.lower.report import _saturated

    form = parse_format("8,4")
    values = np.array([127.4, 127.5, -128.5, -128.51, 1e300, 0.0]) / 16
    stored = form.quantize(values, bias=False)
    assert _saturated(values, stored, form).tolist() == [False, True, False, True, True, False]
    wrap = parse_format("8,4,TRN,WRAP")
    values = np.array([127.9, 128.0, -128.0, -128.1]) / 16
    assert _saturated(values, wrap.quantize(values, bias=False), wrap).tolist() == [False, True, False, True]


def two_quantisers(bits: int) -> Net:
    return Net(lambda s, x: s.b(s.a(x)), a=Act(1 / 128, bits, signed=True), b=Act(4.0, 8, signed=True))


def test_a_vanished_multiplier_that_matters_fails() -> None:
    model = by_hand(two_quantisers(16))
    with pytest.raises(LossyError, match=r"b: multiplier of a: 0\.00195312 became 0"):
        lowered(model, "8,2")
    small = by_hand(two_quantisers(3))
    report = lowered(small, "8,2").report
    assert [(i.op, i.harmful) for i in report.vanished] == [("b", False)]


@pytest.mark.parametrize(
    ("values", "bound", "form", "wanted"),
    [
        # 8,8 has no fraction bits: below 1/2 it stores 0
        ([1 / 256, -1 / 256], [128, 127], "8,8", [("vanished", True), ("vanished", False)]),
        # the channel's own integers count, not the largest of the tensor
        ([1 / 256, 1 / 4], [1 << 20, 1], "8,8", [("vanished", True), ("vanished", False)]),
        # a value that all channels share meets the largest
        ([1 / 256], [1, 128], "8,8", [("vanished", True)]),
        ([1 / 256], [1, 127], "8,8", [("vanished", False)]),
        # nothing moves where every integer is 0
        ([1 / 4, 500.0], [0, 0], "8,8", [("vanished", False), ("saturated", False)]),
        ([1 / 4, 500.0], [1, 1], "8,8", [("vanished", False), ("saturated", True)]),
        # exact beyond the mantissa of a double: 2^-61 * (2^60 - 1) is less than half a code
        ([2.0**-61, 2.0**-61], [1 << 60, (1 << 60) - 1], "8,8", [("vanished", True), ("vanished", False)]),
    ],
)
def test_harm_is_half_a_code_of_the_channels_own_integers(
    values: list[float], bound: list[int], form: str, wanted: list[tuple[str, bool]]
) -> None:
    found = _issues_of(np.array(values), np.zeros(1), np.array(bound, dtype=object), form)
    assert [(i.problem, i.harmful) for i in found] == wanted
    channels = [None] if len(values) == 1 else range(len(values))
    assert [(i.source, i.channel) for i in found] == [("x", c) for c in channels]


def test_a_bias_harms_from_half_a_code_on() -> None:
    """Whatever the input's bound is. AP_TRN stores 0 for -0.5 + 1/2 ulp, too."""
    found = _issues_of(np.zeros(1), np.array([0.5, 0.49]), np.array([0, 0], dtype=object), "8,8,TRN")
    assert [(i.source, i.channel, i.harmful) for i in found] == [("", 0, True), ("", 1, False)]


def _issues_of(
    values: np.ndarray[Any, Any], bias: np.ndarray[Any, Any], bound: Bound, form: str
) -> list[ConstantIssue]:
    kind, used = IntType(bits=8, signed=True), parse_format(form)
    requant = Requant(
        terms=(used.quantize(values, bias=False),),
        bias=used.quantize(bias, bias=True),
        out=kind,
        lo=kind.lo,
        hi=kind.hi,
    )
    return constant_issues("r", ("x",), (bound,), RealConstants(terms=(values,), bias=bias), requant, used)


def test_formats() -> None:
    model = prepared(nn.Sequential(block(3, 4), block(4, 4), head(4)), SHAPE)
    formats = Formats(
        body=parse_format("32,10"),
        edge=parse_edge("24,12"),
        rounding=Rounding.TRN,
        overrides=(("*", parse_format("40,auto")), ("1_*", parse_format("20,auto"))),
    )
    graph = lower(model, shape=(3, 6, 6), mean=[0.5] * 3, std=[0.2] * 3, formats=formats).graph
    names = {
        op.name: (op.requant.terms[0].format_name, op.requant.bias.format_name)
        for op in graph
        if isinstance(op, Requantize)
    }
    assert names["input_quant"] == ("24,12", "24,12")
    assert names["1_2_quant"] == ("20,auto", "20,auto")
    assert names["0_2_quant"] == ("40,auto", "40,auto")
    assert names["logits"] == ("24,auto", "24,auto")
    assert (graph.output.out.type.bits, graph.output.out.scale) == (24, 2.0**-12)
    assert all(op.requant.rounding is Rounding.TRN for op in graph if isinstance(op, Requantize))


def test_inplace_relu_without_later_readers_is_fine() -> None:
    check(prepared(nn.Sequential(conv(3, 4), nn.ReLU(inplace=True), head(4)), SHAPE), SHAPE)
