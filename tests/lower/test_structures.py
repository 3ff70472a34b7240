"""One small network per structure, code for code against torch in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from hwq.errors import InputError
from hwq.fixed import Rounding, code_limit, parse_edge, parse_format
from hwq.ir import Concat, Conv2d, Linear, MaxPool, Pad, Padding, Requantize, SumPool
from hwq.lower import Formats, Lowered, lower
from hwq.models import build
from hwq.passes import run_passes
from hwq.quant import ActQuantizer, Policy, QuantConv2d, WeightQuantizer
from hwq.quant.tracing.spelling.respell import respell
from hwq.simulate.oracle import run_oracle
from tests.lower.reference import WIDE, check, kinds, noise, prepared


class Net(nn.Module):
    """Layers by name, and a forward given as a function."""

    def __init__(self, forward: Callable[[Net, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def conv(i: int, o: int, k: int = 3, **kw: object) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, **kw)  # type: ignore[arg-type]


def head(channels: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


def block(i: int, o: int, k: int = 3, **kw: object) -> nn.Module:
    return nn.Sequential(conv(i, o, k, **kw), nn.BatchNorm2d(o), nn.ReLU())


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "bn folding, bias, relu6": (
        lambda: nn.Sequential(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU6(), head(6)),
        (7, 5, 3),
    ),
    "no bn, no relu": (lambda: nn.Sequential(conv(3, 6), conv(6, 4), head(4)), (7, 7, 3)),
    "bn without affine": (
        lambda: nn.Sequential(conv(3, 4), nn.BatchNorm2d(4, affine=False), nn.ReLU(), head(4)),
        (6, 6, 3),
    ),
    "two bns in a row": (
        lambda: nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.ReLU(), head(4)),
        (6, 6, 3),
    ),
    "dilated, strided, rectangular": (
        lambda: nn.Sequential(
            block(2, 6, 3, dilation=(2, 1), stride=(1, 2), padding=(2, 0)),
            conv(6, 4, (1, 3), padding="same"),
            nn.ReLU(),
            conv(4, 4, 3, padding="same", dilation=2),
            head(4),
        ),
        (9, 7, 2),
    ),
    "depthwise and grouped": (
        lambda: nn.Sequential(
            block(3, 6), block(6, 6, 3, groups=6, padding=1), block(6, 12, 1, groups=3), head(12)
        ),
        (8, 8, 3),
    ),
    "flatten of a map": (
        lambda: nn.Sequential(block(3, 4), nn.Flatten(), nn.Linear(4 * 5 * 3, 9), nn.ReLU(), nn.Linear(9, 3)),
        (7, 5, 3),
    ),
    "flatten, bn1d on codes, linear": (
        lambda: nn.Sequential(block(3, 4), nn.Flatten(), nn.BatchNorm1d(60), nn.Linear(60, 3)),
        (7, 5, 3),
    ),
    "linear bn1d": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)),
        (4, 4, 3),
    ),
    "view with sizes": (
        lambda: Net(
            lambda s, x: s.fc(s.a(x).view(x.size(0), -1)),
            a=block(3, 4),
            fc=nn.Linear(60, 3),
        ),
        (7, 5, 3),
    ),
    "reshape with shape": (
        lambda: Net(
            lambda s, x: s.fc(torch.reshape(s.a(x), (x.shape[0], 60))), a=block(3, 4), fc=nn.Linear(60, 3)
        ),
        (7, 5, 3),
    ),
    "max pools": (
        lambda: nn.Sequential(block(3, 4), nn.MaxPool2d(3, 2, 1), block(4, 4), nn.MaxPool2d(2), head(4)),
        (12, 11, 3),
    ),
    "max pool before relu": (
        lambda: nn.Sequential(conv(3, 4), nn.MaxPool2d(2), nn.ReLU(), conv(4, 4), head(4)),
        (10, 10, 3),
    ),
    "average pools": (
        lambda: nn.Sequential(
            block(3, 4),
            nn.AvgPool2d(3, 2, 1),
            block(4, 4),
            nn.AdaptiveAvgPool2d((1, 3)),
            nn.Flatten(),
            nn.Linear(12, 3),
        ),
        (12, 11, 3),
    ),
    "functional pools and mean": (
        lambda: Net(
            lambda s, x: s.fc(functional.avg_pool2d(functional.max_pool2d(s.a(x), 2), (2, 1)).mean((2, 3))),
            a=block(3, 4),
            fc=nn.Linear(4, 3),
        ),
        (10, 9, 3),
    ),
    "mean keepdim then 1x1 conv": (
        lambda: Net(
            lambda s, x: s.c(s.a(x).mean([2, 3], keepdim=True)).flatten(1), a=block(3, 4), c=conv(4, 3, 1)
        ),
        (6, 6, 3),
    ),
    "add of two accumulators": (
        lambda: Net(
            lambda s, x: s.h(functional.relu(s.n(s.a(x)) + s.b(x))),
            a=conv(3, 4),
            n=nn.BatchNorm2d(4),
            b=conv(3, 4),
            h=head(4),
        ),
        (7, 7, 3),
    ),
    "accumulator and codes, three terms": (
        lambda: Net(
            lambda s, x: (lambda y: s.h(torch.relu(s.b(y) + y + s.c(y))))(s.a(x)),
            a=block(3, 4),
            b=conv(4, 4, padding=1),
            c=conv(4, 4, 1),
            h=head(4),
        ),
        (7, 7, 3),
    ),
    "x + x": (
        lambda: Net(lambda s, x: (lambda y: s.h(y + y))(s.a(x)), a=block(3, 4), h=head(4)),
        (7, 7, 3),
    ),
    "operands by name": (
        lambda: Net(
            lambda s, x: (
                lambda y: s.h(
                    functional.relu(
                        input=torch.cat(
                            tensors=[torch.add(input=s.b(y), other=y), torch.add(y, other=y)], dim=1
                        )
                    )
                )
            )(s.a(x)),
            a=block(3, 4),
            b=conv(4, 4, padding=1),
            h=head(8),
        ),
        (7, 7, 3),
    ),
    "iadd and torch.add": (
        lambda: Net(
            lambda s, x: (lambda y: s.h(torch.add(s.b(y), y).relu()))(s.a(x)),
            a=block(3, 4),
            b=conv(4, 4, padding=1),
            h=head(4),
        ),
        (7, 7, 3),
    ),
    "concat": (
        lambda: Net(
            lambda s, x: (lambda y: s.h(s.c(torch.cat([y, s.b(y)], 1))))(s.a(x)),
            a=block(3, 4),
            b=block(4, 3, padding=1),
            c=block(7, 4),
            h=head(4),
        ),
        (8, 8, 3),
    ),
    "concat of flattened maps": (
        lambda: Net(
            lambda s, x: s.fc(torch.cat([s.a(x).flatten(1), s.b(x).flatten(1)], dim=-1)),
            a=block(3, 4),
            b=block(3, 2),
            fc=nn.Linear(6 * 15, 3),
        ),
        (7, 5, 3),
    ),
    "option A": (
        lambda: Net(
            lambda s, x: (
                lambda y: s.h(torch.relu(s.b(y) + functional.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 1, 3))))
            )(s.a(x)),
            a=block(3, 4),
            b=conv(4, 8, 3, stride=2, padding=1),
            h=head(8),
        ),
        (9, 10, 3),
    ),
    "padding='same' of even kernels": (
        lambda: nn.Sequential(
            conv(3, 6, 2, padding="same"),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            conv(6, 6, (4, 3), padding="same", dilation=(3, 2), groups=6),
            nn.ReLU(),
            conv(6, 4, (2, 6), padding="same", dilation=(1, 3)),
            head(4),
        ),
        (9, 7, 3),
    ),
    "zeros before convolutions": (
        lambda: Net(
            lambda s, x: s.h(s.c(functional.pad(s.b(s.z(s.a(x))), (1, 0), value=0.0))),
            a=block(3, 4),
            z=nn.ZeroPad2d((0, 1, 2, 3)),
            b=block(4, 4, stride=2),
            c=conv(4, 4, 3, padding=(0, 1)),
            h=head(4),
        ),
        (8, 7, 3),
    ),
    "zeros around the image": (
        lambda: nn.Sequential(nn.ZeroPad2d((2, 0, 1, 3)), block(3, 4), head(4)),
        (5, 6, 3),
    ),
    "zeros in space and in channels": (
        lambda: Net(
            lambda s, x: s.h(s.b(functional.pad(s.a(x), (1, 0, 0, 2, 1, 3), mode="constant"))),
            a=block(3, 4),
            b=block(8, 4),
            h=head(4),
        ),
        (6, 7, 3),
    ),
    "zeros before max pools": (
        lambda: nn.Sequential(
            block(3, 4),
            nn.ConstantPad2d((0, 1, 0, 1), 0.0),
            nn.MaxPool2d(3, 2),
            conv(4, 4),  # signed codes: zeros may win
            nn.ZeroPad2d(1),
            nn.MaxPool2d(2),
            head(4),
        ),
        (14, 13, 3),
    ),
    "zeros before averages": (
        lambda: nn.Sequential(
            block(3, 4),
            nn.ZeroPad2d((1, 2, 0, 1)),
            nn.AvgPool2d(3, 2),
            nn.ZeroPad2d((0, 1, 2, 0)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
        ),
        (12, 11, 3),
    ),
    "zeros, then relu": (
        lambda: nn.Sequential(
            conv(3, 4), nn.ZeroPad2d(1), nn.ReLU(), nn.ZeroPad2d((1, 0, 0, 0)), conv(4, 4), head(4)
        ),
        (6, 6, 3),
    ),
    "zeros, then bn": (
        lambda: nn.Sequential(
            block(3, 4), nn.ZeroPad2d(1), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 4), head(4)
        ),
        (6, 6, 3),
    ),
    "zeros beside a shortcut": (
        lambda: Net(
            lambda s, x: (lambda y: s.h(torch.relu(s.b(y) + functional.pad(y, (0, 1, 1, 0)))))(s.a(x)),
            a=block(3, 4),
            b=conv(4, 4, 2, padding=1),
            h=head(4),
        ),
        (6, 6, 3),
    ),
    "zeros around the logits": (
        lambda: nn.Sequential(block(3, 6), conv(6, 5, 3), nn.ZeroPad2d((0, 0, 1, 2))),
        (7, 6, 3),
    ),
    "more zeros than the kernel reaches": (
        lambda: nn.Sequential(block(3, 4), conv(4, 4, 1, padding=2), nn.ReLU(), head(4)),
        (6, 6, 3),
    ),
    "shared modules": (
        lambda: Net(lambda s, x: s.h(s.b(s.b(s.a(x)))), a=block(3, 4), b=block(4, 4, padding=1), h=head(4)),
        (7, 7, 3),
    ),
    "dropout and identity": (
        lambda: nn.Sequential(block(3, 4), nn.Dropout2d(), nn.Identity(), head(4), nn.Dropout()),
        (6, 6, 3),
    ),
    "fully convolutional": (
        lambda: nn.Sequential(block(3, 6), conv(6, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        (6, 6, 3),
    ),
    "ends on a map": (lambda: nn.Sequential(block(3, 6), conv(6, 5, 3)), (7, 6, 3)),
    "ends on relu": (lambda: nn.Sequential(block(3, 6), conv(6, 5, 1), nn.ReLU()), (4, 6, 3)),
    "ceil_mode that changes nothing": (
        lambda: nn.Sequential(block(3, 4), nn.MaxPool2d(2, ceil_mode=True), head(4)),
        (8, 8, 3),
    ),
}


REORDERED = {
    "flatten, bn1d on codes, linear": ("2_quant",),
    "concat of flattened maps": ("flatten_cat_quant",),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bits", [8, 4])
def test_structure(case: str, bits: int) -> None:
    make, shape = CASES[case]
    torch.manual_seed(5)
    policy = Policy(weight_bits=bits, act_bits=bits, per_channel=bits == 4, weight_method="uniform")
    graph = check(prepared(make(), shape, policy), shape, reordered=REORDERED.get(case, ())).graph
    slim, pixels = run_passes(graph), noise(shape)
    np.testing.assert_array_equal(
        run_oracle(slim, pixels)[slim.output.name], run_oracle(graph, pixels)[graph.output.name]
    )


@pytest.mark.parametrize("case", ["option A", "bn folding, bias, relu6", "concat"])
def test_fresh_formats_still_lower(case: str) -> None:
    """Every kind of format gives a legal graph of the same ops."""
    make, shape = CASES[case]
    model = prepared(make(), shape)
    shapes = set()
    for form in ("16,auto", "12,channel", "shift", "32,10", "32,10,TRN,WRAP"):
        formats = Formats(body=parse_format(form))
        made = lower(
            model, shape=(3, *shape[:2]), mean=[0.5] * 3, std=[0.2] * 3, formats=formats, allow_lossy=True
        )
        shapes.add(tuple((type(op), op.name, op.out.shape) for op in made.graph))
    assert len(shapes) == 1


@pytest.mark.parametrize(
    ("case", "left"),
    [
        ("padding='same' of even kernels", []),
        ("zeros before convolutions", []),
        ("zeros around the image", []),
        ("zeros in space and in channels", [Padding(left=1, bottom=2)]),
        ("zeros before max pools", [Padding.even(1, 1)]),
        ("zeros before averages", []),
        ("zeros, then relu", [Padding.even(1, 1)]),
        ("zeros, then bn", [Padding.even(1, 1)]),
        ("zeros beside a shortcut", [Padding(right=1, top=1)]),
        ("zeros around the logits", [Padding(top=1, bottom=2)]),
    ],
)
def test_zeros_that_stay_an_op(case: str, left: list[Padding]) -> None:
    make, shape = CASES[case]
    graph = run_passes(plain_lower(prepared(make(), shape), shape).graph)
    assert [op.padding for op in graph if isinstance(op, Pad)] == left


def test_where_the_odd_row_and_column_go() -> None:
    model = prepared(nn.Sequential(conv(3, 4, (2, 4), padding="same", dilation=(1, 3)), head(4)), (6, 6, 3))
    op = next(op for op in plain_lower(model, (6, 6, 3)).graph if isinstance(op, Conv2d))
    assert op.padding == Padding(top=0, bottom=1, left=4, right=5)


def test_expected_ops() -> None:
    make, shape = CASES["option A"]
    graph = check(prepared(make(), shape), shape).graph
    assert kinds(graph) == [
        "Input",
        "Requantize",
        "Conv2d",
        "Requantize",
        "Conv2d",
        "MaxPool",
        "Pad",
        "Requantize",
        "SumPool",
        "Requantize",
        "Flatten",
        "Linear",
        "Requantize",
        "Output",
    ]
    pool = next(op for op in graph if isinstance(op, MaxPool))
    assert (pool.kernel, pool.stride) == ((1, 1), (2, 2))
    pad = next(op for op in graph if isinstance(op, Pad))
    assert (pad.before, pad.after) == (1, 3)
    make, shape = CASES["concat"]
    graph = check(prepared(make(), shape), shape).graph
    joined = next(op for op in graph if isinstance(op, Concat))
    assert len({(graph[n].out.type, graph[n].out.scale) for n in joined.inputs}) == 1


# -- networks put together by hand: what prepare would not make


class Act(ActQuantizer):
    """A quantiser of a given scale."""

    def __init__(self, scale: float, bits: int = 8, *, signed: bool = False) -> None:
        super().__init__(bits, signed=signed)
        self._scale = scale

    def step(self) -> Tensor:
        return torch.tensor(self._scale, dtype=torch.float64)


def by_hand(model: nn.Module) -> fx.GraphModule:
    """Traced with the quantisers that stand in the model itself."""

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, name: str) -> bool:
            return isinstance(m, ActQuantizer | QuantConv2d) or super().is_leaf_module(m, name)

    tracer = Tracer()
    tracer.record_stack_traces = True
    module = fx.GraphModule(model, tracer.trace(model))
    respell(module, None)
    return module.eval()


def plain_lower(model: fx.GraphModule, shape: tuple[int, int, int], text: str = "56,auto") -> Lowered:
    formats = Formats(body=parse_format(text), edge=parse_edge("32,16"))
    return lower(
        model, shape=(shape[2], *shape[:2]), mean=[0.0] * shape[2], std=[1.0] * shape[2], formats=formats
    )


def test_concat_of_different_scales_takes_the_finest() -> None:
    net = Net(
        lambda s, x: torch.cat([s.p(s.q(x)), s.r(s.q(x))], 1),
        q=Act(1 / 255, 9, signed=True),
        p=Act(1 / 64),
        r=Act(1 / 16, 6),
    )
    lowered = lower(
        by_hand(net),
        shape=(2, 3, 3),
        mean=[0.0] * 2,
        std=[1.0] * 2,
        formats=Formats(body=parse_format("40,auto")),
    )
    joined = next(op for op in lowered.graph if isinstance(op, Concat))
    assert [lowered.graph[n].name for n in joined.inputs] == ["p", "cat.input1"]
    assert joined.out.scale == 1 / 64


def test_unquantised_average_feeds_the_linear_layer_exactly() -> None:
    model = prepared(nn.Sequential(block(3, 4), head(4)), (6, 6, 3), Policy(pool_bits=32))
    graph = check(model, (6, 6, 3)).graph
    linear = next(op for op in graph if isinstance(op, Linear))
    source = graph.inputs_of(graph.inputs_of(linear)[0])[0]
    assert isinstance(source, SumPool)


def test_three_terms_in_one_rounding() -> None:
    """Unrounded sums of sums: every operand is a term of the one Requantize, in order."""
    q = Act(1 / 8, 8, signed=True)
    net = Net(
        lambda s, x: (lambda y: s.out(y + s.quarter(y) + s.pool(y)))(s.q(x)),
        q=q,
        quarter=Act(1 / 4, 6, signed=True),
        pool=nn.AvgPool2d(3, 1, 1),
        out=Act(1 / 16, 8, signed=True),
    )
    graph = plain_lower(by_hand(net), (5, 5, 1)).graph
    out = graph["out"]
    assert out.inputs == ("q", "quarter", "pool")
    pixels = noise((5, 5, 1), 4)
    found = run_oracle(graph, pixels)
    # in units of 1/16: q * 2 + half * 4 + pool * 2 / 9
    ninths = 18 * found["q"] + 36 * found["quarter"] + 2 * found["pool"]
    np.testing.assert_array_equal(found["out"], np.clip((2 * ninths + 9) // 18, -127, 127))


def test_clamps_commute_with_rounding() -> None:
    assert code_limit(6.0, 0.1, Rounding.RND) == 60
    assert code_limit(6.0, 4.0, Rounding.RND) == 2  # 1.5 goes up
    assert code_limit(6.0, 4.0, Rounding.TRN) == 1
    assert code_limit(-6.0, 4.0, Rounding.RND) == -1
    net = Net(lambda s, x: s.b(functional.relu6(s.a(x))), a=Act(1.0, 9, signed=True), b=Act(4.0))
    graph = plain_lower(by_hand(net), (2, 2, 1)).graph
    assert (graph["b"].requant.lo, graph["b"].requant.hi) == (0, 2)


def test_max_pool_waits_for_the_quantiser() -> None:
    """conv -> max pool -> relu -> quantiser: pooled codes, not pooled sums; the same codes."""
    model = prepared(nn.Sequential(block(3, 4), head(4)), (8, 8, 3))
    conv_node = next(n for n in model.graph.nodes if n.target == "0.2")
    with model.graph.inserting_before(conv_node):
        pooled = model.graph.call_function(functional.max_pool2d, (conv_node.args[0], 2))
        conv_node.args = (pooled,)
    model.recompile()
    graph = lower(
        model, shape=(3, 8, 8), mean=[0.45] * 3, std=[0.2] * 3, formats=Formats(body=parse_format("56,auto"))
    ).graph
    order = kinds(graph)
    assert order.index("MaxPool") == order.index("Conv2d") + 2


def test_codes_that_already_fit_are_not_requantised() -> None:
    q = Act(0.5, 8, signed=True)
    net = Net(lambda s, x: s.p(s.q(s.q(x))), q=q, p=Act(0.5, 8, signed=True))
    graph = plain_lower(by_hand(net), (2, 2, 1)).graph
    assert [op.name for op in graph] == ["input", "q", "logits", "output"]


def test_dyadic_network_has_no_error_at_all() -> None:
    """Powers of two everywhere, so that ties occur and float64 is exact: equality, ties included."""
    torch.manual_seed(3)
    n = 4
    net = Net(
        lambda s, x: s.out(s.norm(s.conv(s.q(x))) + s.skip(s.q(x))),
        q=Act(2.0**-3, 5, signed=True),
        conv=conv(3, n, bias=True),
        skip=conv(3, n, bias=False),
        norm=nn.BatchNorm2d(n, eps=0.25),
        out=Act(2.0**-4, 8, signed=True),
    )
    with torch.no_grad():
        net.norm.running_var.fill_(3.75)  # sqrt(4)
        net.norm.running_mean.copy_(torch.tensor([0.5, -0.25, 0.0, 1.0]))
        net.norm.weight.copy_(torch.tensor([1.0, -2.0, 0.5, 0.0]))
        net.norm.bias.copy_(torch.tensor([0.25, -1.0, 0.03125, 0.09375]))
        for layer in (net.conv, net.skip):
            layer.weight.copy_(torch.randint(-7, 8, layer.weight.shape) / 8)
        net.conv.bias.copy_(torch.tensor([0.125, 0.0, -0.5, 2.0]))

    class Grid(WeightQuantizer):
        def normalise(self, w: Tensor) -> tuple[Tensor, Tensor]:
            return w * 8, torch.tensor(0.125, dtype=w.dtype)

    for name in ("conv", "skip"):
        setattr(net, name, QuantConv2d.of(getattr(net, name), Grid(4)))
    model = by_hand(net)
    shape = (6, 6, 3)
    std = [1 / 255 * 255.0] * 3
    formats = Formats(body=parse_format("32,16"), edge=parse_edge("32,16"))
    graph = lower(model, shape=(3, 6, 6), mean=[0.5] * 3, std=std, formats=formats).graph
    pixels = noise(shape, 40)
    found = run_oracle(graph, pixels)
    x = found["q"].astype(np.float64) / 8
    images = torch.from_numpy(x).permute(0, 3, 1, 2)
    with torch.no_grad():
        a = net.norm.double()(functional.conv2d(images, net.conv.weight.double(), net.conv.bias.double()))
        real = (a + functional.conv2d(images, net.skip.weight.double())) * 16
    want = torch.floor(real + 0.5).clamp(-127, 127).permute(0, 2, 3, 1).numpy().astype(np.int64)
    assert ((real % 1) == 0.5).sum() > 100, "the test must meet ties"
    np.testing.assert_array_equal(found["out"], want)
    out = graph["out"]
    assert isinstance(out, Requantize)
    assert len(out.inputs) == 2


def test_traced_names_are_unique_when_modules_are_shared() -> None:
    make, shape = CASES["shared modules"]
    graph = check(prepared(make(), shape), shape).graph
    names = [op.name for op in graph]
    assert len(set(names)) == len(names)
    assert sum(n.startswith("b.0") for n in names) == 2


@pytest.mark.parametrize("name", ["resnet8", "resnet8b", "mobilenetv2-identity"])
@pytest.mark.parametrize("act", ["lsq", "mpact"])
def test_layers_read_codes_made_from_those_of_the_sum(name: str, act: str) -> None:
    shape = (16, 16, 3)
    policy = Policy(weight_bits=3, act_bits=2, residual_bits=8, act_method=act)
    graph = check(prepared(build(name, shape, 10), shape, policy), shape, count=2).graph
    wide = [op for op in graph if op.name.endswith("_residual_quant")]
    readers = [[op for op in graph if sum_.name in op.inputs] for sum_ in wide]
    assert wide
    assert not any(isinstance(op, Conv2d | Linear) for found in readers for op in found)
    narrow = [op for found in readers for op in found if op.name.endswith("_quant") and len(op.inputs) == 1]
    assert narrow
    assert all(isinstance(op, Requantize) for op in narrow)
    assert {op.out.type.bits for op in narrow} <= {2, 8}  # 8 after the pool


def test_a_residual_path_of_floats_gets_codes_of_off_bits() -> None:
    shape = (16, 16, 3)
    model = prepared(build("resnet8", shape, 10), shape, Policy(act_bits=2, residual_bits=32))
    given = {"shape": (3, 16, 16), "mean": [0.5] * 3, "std": [0.25] * 3, "formats": WIDE}
    batches = [torch.randn(4, 3, 16, 16)]
    graph = lower(model, **given, off_bits=16, batches=batches).graph
    types = {str(op.out.type) for op in graph if op.name.endswith("_residual_quant")}
    assert types == {"u16"}
    with pytest.raises(InputError, match=r"not quantised \(32 bits\): relu_residual_quant, .*--off-bits 16"):
        lower(model, **given)
