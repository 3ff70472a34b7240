"""`residual_bits`: what additions and average pools read, and what layers read of the same values."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from hwq.errors import InputError
from hwq.models import build
from hwq.quant import OFF, ActQuantizer, LayerRule, Policy, calibrate, describe, prepare
from hwq.quant.tracing.kinds import Kind, kind_of
from tests.nets import random_net

NETS = ("resnet8", "resnet8b", "toynet", "mobilenetv2", "torchvision:resnet18", "torchvision:densenet121")
NARROW = Policy(act_bits=3, residual_bits=7, pool_bits=5, norm_bits=11, input_bits=9)


def _read(module: fx.GraphModule) -> dict[Kind, set[int]]:
    """Bits of the codes that each kind of node reads, however they were moved about."""
    found: dict[Kind, set[int]] = {}
    bits: dict[fx.Node, int] = {}
    for node in module.graph.nodes:
        child = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(child, ActQuantizer):
            bits[node] = OFF if child.off else child.type.bits
            continue
        kind = kind_of(module, node)
        sources = [bits[n] for n in node.all_input_nodes if n in bits]
        found.setdefault(kind, set()).update(sources)
        if kind in (Kind.CODES, Kind.SKIP, Kind.RELU, Kind.CONCAT) and sources:
            bits[node] = max(sources)
    return found


def _check(module: fx.GraphModule) -> None:
    got = _read(module)
    # besides: the image (9), what a pool (5) and a BN on codes (11) hand on
    assert got[Kind.LAYER] <= {3, 5, 9, 11}
    assert got.get(Kind.ADD, set()) <= {7, 5, 9, 11}
    assert got.get(Kind.AVERAGE, set()) <= {7, 5, 9, 11}


@pytest.mark.parametrize("name", NETS)
def test_sums_read_residual_bits_and_layers_act_bits(name: str) -> None:
    shape = (64, 64, 3) if name.startswith("torchvision") else (32, 32, 3)
    _check(prepare(build(name, shape, 10), NARROW, shape))


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("branch", [False, True])
def test_in_any_residual_network(seed: int, branch: bool) -> None:
    net = random_net(seed)
    _check(prepare(net, replace(NARROW, branch=branch), net.shape))


def test_placement_in_a_resnet() -> None:
    got = {r.name: r.type for r in describe(prepare(build("resnet8", (32, 32, 3), 10), NARROW, (32, 32, 3)))}
    acts = {n: t for n, t in got.items() if n.endswith("_quant")}
    assert acts == {
        "input_quant": "s9",
        "relu_residual_quant": "u7",
        "relu_quant": "u3",
        "layer1_0_relu1_quant": "u3",
        "layer1_0_relu2_residual_quant": "u7",
        "layer1_0_relu2_quant": "u3",
        "layer2_0_relu1_quant": "u3",
        "layer2_0_relu2_residual_quant": "u7",
        "layer2_0_relu2_quant": "u3",
        "layer3_0_relu1_quant": "u3",
        "layer3_0_relu2_residual_quant": "u7",  # the average pool alone reads it
        "pool_quant": "u5",
    }


def test_none_changes_nothing() -> None:
    names = [r.name for r in describe(prepare(build("resnet8", (32, 32, 3), 10), Policy(), (32, 32, 3)))]
    assert not any("_residual_" in n for n in names)
    assert len(names) == 8 + 9


class Activated(nn.Module):
    """BN and ReLU stand before the conv, which reads the sum's positive part, behind a max pool."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.a(x))
        y = F.relu(x)
        x = x + self.b(y)
        return self.fc(x.mean((2, 3)))


class Joined(nn.Module):
    """A sum is read by a layer, by a second sum and by a concat; an average pool reads a concat."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(n, 4, 3, padding=1) for n in (3, 4, 4))
        self.d, self.e = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = F.relu(x + self.b(x))
        y = torch.cat([x, F.relu(self.c(x))], 1)
        x = F.relu(x + self.d(y))
        y = torch.cat([x, F.relu(self.e(y))], 1)
        return self.fc(F.avg_pool2d(y, y.shape[2:]).flatten(1))


def test_a_concat_leaves_the_residual_path_its_codes() -> None:
    module = prepare(Joined(), NARROW, (8, 8, 3))
    assert next(n for n in module.graph.nodes if n.name == "add_1").args[0].name == "relu_2_residual_quant"
    got = {r.name: r.type for r in describe(module) if r.name.endswith("_quant")}
    assert got == {
        "input_quant": "s9",
        "relu_residual_quant": "u7",
        "relu_quant": "u3",
        "relu_2_residual_quant": "u7",
        "relu_2_quant": "u3",
        "relu_cat_quant": "u3",
        "relu_cat_residual_quant": "u7",
        "avg_pool2d_quant": "u5",
    }
    _check(module)


def test_layers_codes_are_made_after_what_moves_them() -> None:
    module = prepare(Activated(), NARROW, (8, 8, 3))
    got = {r.name: (r.type, r.of) for r in describe(module) if r.name.endswith("_quant")}
    assert got == {
        "input_quant": ("s9", "input"),
        "a_residual_quant": ("s7", "a"),
        "relu_quant": ("u3", "relu"),  # unsigned: it stands behind the ReLU
        "add_residual_quant": ("s7", "add"),
        "mean_quant": ("s5", "mean"),
    }
    order = [n.name for n in module.graph.nodes]
    assert (
        order.index("a_residual_quant")
        < order.index("pool")
        < order.index("relu")
        < order.index("relu_quant")
    )


def test_codes_for_layers_are_those_of_the_sum_rounded_again() -> None:
    module = prepare(build("resnet8", (16, 16, 3), 10), NARROW, (16, 16, 3))
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    calibrate(module, [images])
    seen: dict[str, Tensor] = {}
    for name in ("relu_residual_quant", "relu_quant"):
        module.get_submodule(name).register_forward_hook(
            lambda m, args, out, name=name: seen.update({name: out, f"{name} reads": args[0]})
        )
    with torch.no_grad():
        module.eval()(images)
    assert torch.equal(seen["relu_quant reads"], seen["relu_residual_quant"])
    assert len(seen["relu_residual_quant"].unique()) > len(seen["relu_quant"].unique()) > 4


def test_patterns() -> None:
    def types(*rules: str) -> dict[str, str]:
        policy = Policy(act_bits=3, residual_bits=7, layers=tuple(map(LayerRule.parse, rules)))
        return {r.name: r.type for r in describe(prepare(build("resnet8", (32, 32, 3), 10), policy))}

    named = types("layer1.0.relu2=a5")  # what layers read
    assert (named["layer1_0_relu2_quant"], named["layer1_0_relu2_residual_quant"]) == ("u5", "u7")
    sums = types("layer1_0_relu2_residual_quant=a12")
    assert (sums["layer1_0_relu2_quant"], sums["layer1_0_relu2_residual_quant"]) == ("u3", "u12")
    assert types("*_residual_quant=a9")["layer3_0_relu2_residual_quant"] == "u9"
    shared = Policy(act_bits=3, residual_bits=7, layers=(LayerRule.parse("*_residual_quant=a9"),))
    widths = {r.name: r.type for r in describe(prepare(Joined(), shared)) if "_residual_quant" in r.name}
    assert (len(widths), set(widths.values())) == (3, {"u9"})  # two made by F.relu
    with pytest.raises(InputError, match="layer pattern 'layer1_0_relu9_residual_quant'"):
        types("layer1_0_relu9_residual_quant=a9")


@pytest.mark.parametrize("bits", [0, 17, -1])
def test_widths_out_of_range(bits: int) -> None:
    with pytest.raises(InputError, match=f"residual_bits must be 1..16, or 32 for off, not {bits}"):
        Policy(residual_bits=bits)


def test_off_is_a_path_of_floats() -> None:
    module = prepare(build("resnet8", (32, 32, 3), 10), Policy(act_bits=3, residual_bits=OFF), (32, 32, 3))
    got = _read(module)
    assert (got[Kind.ADD], got[Kind.LAYER]) == ({OFF}, {3, 8})
    assert Policy.floating().floats
    assert not replace(Policy.floating(), residual_bits=8).floats
    assert Policy.from_dict(NARROW.to_dict()) == NARROW
