"""The network that fixed-point training sees is the one that is exported: equal codes, in float64."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from hwq.errors import InputError
from hwq.fixed import Rounding, parse_edge, parse_format
from hwq.lower import Formats, lower
from hwq.quant import ActQuantizer, Policy, calibrate, prepare
from hwq.quant.fixedpoint.folded import FoldedNetwork
from hwq.quant.fixedpoint.requantise import Requantisation
from hwq.simulate import Simulator
from tests.lower.reference import prepared
from tests.nets import random_net, random_policy

RND, TRN = Rounding.RND, Rounding.TRN
FORMATS = ("16,8", "12,auto", "6,channel", "shift", "12,6,TRN,WRAP")


def formats(body: str, rounding: Rounding = RND, edge: str = "24,12") -> Formats:
    return Formats(body=parse_format(body), edge=parse_edge(edge), rounding=rounding)


def codes_of(view: FoldedNetwork, images: Tensor) -> tuple[dict[str, Any], Tensor]:
    """(int64 codes, channels last, by name of the Requantize, logits)."""
    found: dict[str, Any] = {}
    calls: Counter[str] = Counter()

    def note(name: str, out: Tensor) -> None:
        calls[name] += 1
        full = name if calls[name] == 1 else f"{name}_{calls[name]}"
        found[full] = (out.permute(0, 2, 3, 1) if out.dim() == 4 else out).numpy()

    hooks = []
    for name, module in view.model.named_modules():
        if isinstance(module, ActQuantizer) and not module.off:

            def hook(m: ActQuantizer, args: Any, out: Tensor, name: str = name) -> None:
                note(name, torch.round(out / m.scale()).long())

            hooks.append(module.register_forward_hook(hook))
    with torch.no_grad():
        logits = view(images)
    for handle in hooks:
        handle.remove()
    return found, logits


def assert_equal(model: fx.GraphModule, shape: tuple[int, int, int], chosen: Formats, seed: int) -> int:
    """Lower, simulate, compare every requantisation and the logits; how many were compared."""
    height, width, channels = shape
    mean, std = [0.5 - 0.02 * c for c in range(channels)], [0.25 + 0.01 * c for c in range(channels)]
    pixels = np.random.default_rng(seed).integers(0, 256, (8, *shape), dtype=np.uint8)
    graph = lower(
        model, shape=(channels, height, width), mean=mean, std=std, formats=chosen, allow_lossy=True
    ).graph
    want = Simulator(graph).run(pixels, keep="all").outputs
    images = torch.from_numpy(pixels).double().permute(0, 3, 1, 2) / 255
    images = (images - torch.tensor(mean).double()[:, None, None]) / torch.tensor(std).double()[:, None, None]
    # sums have at most 40 fraction bits here: half of the last one is far above float64's errors
    found, logits = codes_of(FoldedNetwork(model.double().eval(), chosen, mean, std), images)
    for name, got in found.items():
        np.testing.assert_array_equal(got.reshape(want[name].shape), want[name], err_msg=name)
    got = torch.round(logits / chosen.logits[1]).long().numpy()
    np.testing.assert_array_equal(got, want[graph.output.name])
    return len(found)


@pytest.mark.parametrize("seed", range(20))
def test_random_networks_compute_what_their_integers_do(seed: int) -> None:
    net = random_net(seed)
    model = prepare(net, random_policy(seed), net.shape)
    height, width, channels = net.shape
    generator = torch.Generator().manual_seed(seed)
    calibrate(model, [torch.randn(16, channels, height, width, generator=generator)])
    for i, rounding in enumerate((RND, TRN)):
        chosen = formats(FORMATS[(seed + 2 * i) % len(FORMATS)], rounding)
        assert assert_equal(model, net.shape, chosen, seed) >= 2


class Padded(nn.Module):
    """Zeros around the image, before and after an activation, in pools and shortcuts; uneven 'same'."""

    def __init__(self) -> None:
        super().__init__()
        self.border, self.stem, self.bn0 = nn.ZeroPad2d((1, 0, 2, 0)), nn.Conv2d(2, 4, 2), nn.BatchNorm2d(4)
        self.even = nn.Conv2d(4, 4, (2, 4), padding="same", dilation=(3, 1))
        self.side, self.bn1 = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.more, self.pool = nn.ConstantPad2d((0, 1, 0, 1), 0.0), nn.MaxPool2d(3, 2)
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.more(torch.relu(self.bn0(self.stem(self.border(x))))))
        y = self.more(torch.relu(self.more(self.even(x))))  # a ReLU of codes that wait for their zeros
        x = self.bn1(self.side(y)) + x
        x = nn.functional.avg_pool2d(nn.functional.pad(torch.relu(x), (1, 0, 0, 0, 1, 1)), 2)
        return self.last(x.mean((2, 3)))


class Everything(nn.Module):
    """Depthwise conv, ReLU6, option-A shortcut, projection, max pool, BN after a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.deep, self.bn1 = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.BatchNorm2d(4)
        self.wide, self.bn2 = nn.Conv2d(4, 8, 1, stride=2, bias=False), nn.BatchNorm2d(8)
        self.side, self.bn3 = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.act, self.pool = nn.ReLU6(), nn.MaxPool2d(3, 2, 1)
        self.hidden, self.bn4, self.last = nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.act(self.bn0(self.stem(x))))
        x = self.act(self.bn1(self.deep(x))) + x
        x = self.bn2(self.wide(x)) + nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        x = self.bn3(self.side(torch.relu(x))) + self.side(x)
        x = nn.functional.avg_pool2d(x, 2).mean((2, 3))
        return self.last(torch.relu(self.bn4(self.hidden(x))))


@pytest.mark.parametrize("rounding", [RND, TRN])
@pytest.mark.parametrize("body", FORMATS)
@pytest.mark.parametrize("bits", [4, 8])
def test_every_kind_of_requantisation(body: str, rounding: Rounding, bits: int) -> None:
    policy = Policy(weight_bits=bits, act_bits=bits, weight_method="lsq", per_channel=bits == 8)
    model = prepared(Everything(), (16, 16, 2), policy, seed=3)
    for module in model.modules():
        if isinstance(module, ActQuantizer) and not module.signed:
            module.set_bound(6.5)  # so that ReLU6 clamps before the codes end
    assert assert_equal(model, (16, 16, 2), formats(body, rounding), 5) >= 9


@pytest.mark.parametrize("rounding", [RND, TRN])
@pytest.mark.parametrize("body", FORMATS)
def test_zeros_on_every_side(body: str, rounding: Rounding) -> None:
    model = prepared(Padded(), (7, 9, 2), Policy(weight_bits=4, act_bits=4), seed=3)
    assert assert_equal(model, (7, 9, 2), formats(body, rounding), 5) >= 6


def test_a_format_for_some_layers_and_narrow_edges() -> None:
    model = prepared(Everything(), (16, 16, 2), Policy(), seed=4)
    some = (("wide", parse_format("5,channel")), ("act_quant", parse_format("20,6")))
    chosen = Formats(body=parse_format("10,auto"), edge=parse_edge("12,6"), overrides=some)
    assert_equal(model, (16, 16, 2), chosen, 6)


def test_gradients_are_those_of_the_real_constants() -> None:
    """Also where every multiplier became 0, so that training can bring it back."""
    model = prepared(Everything(), (16, 16, 2), Policy(weight_method="lsq"), seed=3).double()
    sums = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    for body, vanished in (("16,8", False), ("4,4", True), ("shift", False)):
        view = FoldedNetwork(model, formats(body), [0.5] * 2, [0.2] * 2)
        stem = next(r for r in view.requantisations if r.terms[0].layer is model.stem)
        stored = stem.stored()
        assert stored is not None
        assert (not stored[0].raw.any()) == vanished
        found = []
        for real in (True, False):
            view.compare(real=real)
            model.zero_grad()
            weight = torch.linspace(-1, 1, sums.numel(), dtype=torch.float64).view_as(sums)
            (stem(sums) * weight).sum().backward()
            found.append([p.grad.clone() for p in (*model.bn0.parameters(), model.stem.bias)])
        for mine, theirs in zip(*found, strict=True):
            assert torch.equal(mine, theirs)
            assert bool(mine.any())


def test_a_scalar_multiplier_has_the_gradient_of_its_input() -> None:
    """An identity or a pool: one value for all channels, and no gain in it."""
    model = prepared(Everything(), (16, 16, 2), Policy(), seed=3)
    view = FoldedNetwork(model, formats("32,10"), [0.5] * 2, [0.2] * 2)
    pool = next(r for r in view.requantisations if not any(t.layer for t in r.terms) and len(r.terms) == 1)
    x = torch.randn(5, 8, 1, 1, requires_grad=True)
    pool(x).sum().backward()
    assert x.grad is not None
    # M is within 2^-22 of its real value; float32
    torch.testing.assert_close(x.grad, torch.ones_like(x), rtol=1e-4, atol=0)


def test_the_network_keeps_its_state_and_its_statistics() -> None:
    model = prepared(Everything(), (16, 16, 2), Policy(), seed=3).train()
    before = copy.deepcopy(model.state_dict())
    view = FoldedNetwork(model, formats("16,auto"), [0.5] * 2, [0.2] * 2).train()
    view(torch.randn(4, 2, 16, 16)).sum().backward()
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert [k for k, v in before.items() if not torch.equal(v, after[k])] == []
    assert {id(p) for p in view.parameters()} == {id(p) for p in model.parameters()}
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_what_has_no_codes_is_named() -> None:
    policy = Policy(input_bits=32, last_bits=32)
    model = prepared(Everything(), (16, 16, 2), policy)
    with pytest.raises(InputError, match=r"input_quant, last|last, input_quant"):
        FoldedNetwork(model, formats("16,8"), [0.5] * 2, [0.2] * 2)


def test_constants_are_those_of_the_export() -> None:
    model = prepared(Everything(), (16, 16, 2), Policy(weight_method="mse", per_channel=True), seed=8)
    chosen = formats("9,channel")
    graph = lower(model, shape=(2, 16, 16), mean=[0.5] * 2, std=[0.2] * 2, formats=chosen).graph
    view = FoldedNetwork(model, chosen, [0.5] * 2, [0.2] * 2)
    for module in view.requantisations:
        assert isinstance(module, Requantisation)
        requant = graph.by_name[module.name].requant  # type: ignore[union-attr]
        stored = module.stored()
        assert stored is not None
        for mine, theirs in zip(stored, (*requant.terms, requant.bias), strict=True):
            wide = np.broadcast_to(theirs.values(), mine.raw.shape)
            np.testing.assert_array_equal(mine.values(), wide, err_msg=module.name)
