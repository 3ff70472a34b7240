"""Every method from training to integers: digits, a few steps, lowered, compared at every quantiser."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from hwq.cosim.build import Build
from hwq.cosim.manifest import read_manifest
from hwq.cosim.project import compile_project, write_project
from hwq.cosim.session import cosimulate
from hwq.data import DataSpec, load_split
from hwq.fixed import parse_format
from hwq.lower import Formats, lower
from hwq.quant import INPUT_QUANT, ActQuantizer, LayerRule, Policy, Ranges, calibrate, describe, prepare
from hwq.quant.methods.table import ACT_METHODS, WEIGHT_METHODS
from hwq.simulate import Simulator, run_oracle
from hwq.train.optimise import make_optimiser
from hwq.train.schedule import Schedule
from tests.lower.reference import WIDE, input_codes

SHAPE = (8, 8, 1)
MEAN, STD = (0.3,), (0.37,)
BITS = (2, 3, 4, 6, 8)
RESCALES = ("none", "std", "max", "learned")
PAIRS = [
    *zip(WEIGHT_METHODS, ACT_METHODS, strict=False),
    *zip(list(WEIGHT_METHODS)[:2], list(ACT_METHODS)[len(WEIGHT_METHODS) :], strict=True),
]
"""Every weight method and every activation method at least once."""


class Small(nn.Module):
    """A residual block, signed and unsigned tensors, an average pool, layers with and without BN."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(1, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6)
        self.first, self.bn1 = nn.Conv2d(6, 6, 3, padding=1, groups=2, bias=False), nn.BatchNorm2d(6)
        self.second, self.bn2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.wide = nn.Conv2d(6, 12, 1)
        self.fc = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        y = self.bn2(self.second(self.bn1(self.first(x)))) + x
        y = functional.avg_pool2d(torch.relu(self.wide(y)), 3, 1)
        logits: Tensor = self.fc(y.flatten(1))
        return logits


@functools.cache
def digits() -> tuple[np.ndarray, Tensor, Tensor]:
    """(pixels (N, H, W, C), images (N, C, H, W), labels)."""
    images = load_split(DataSpec(name="digits"), "train")
    pixels, labels = images.pixels[:640], torch.from_numpy(images.labels[:640])
    floats = (torch.from_numpy(pixels).float() / 255 - MEAN[0]) / STD[0]
    return pixels, floats.permute(0, 3, 1, 2).contiguous(), labels


def network(weights: str, acts: str, bits: int, *, calibrated: bool) -> fx.GraphModule:
    """With other options at every width: scales by channel, rescaling, quantised branches."""
    policy = Policy(
        weight_bits=bits,
        act_bits=bits,
        weight_method=weights,
        act_method=acts,
        per_channel=bits % 2 == 1,
        rescale=RESCALES[bits // 2 % 4],
        branch=bits == 4,
    )
    return prepared(policy, calibrated=calibrated)


def prepared(policy: Policy, *, calibrated: bool) -> fx.GraphModule:
    torch.manual_seed(0)
    model = prepare(Small(), policy, SHAPE)
    _, images, _ = digits()
    if calibrated:
        calibrate(model, [images[:64]], Ranges(method="max"))
    model.get_submodule(INPUT_QUANT).set_bound(float(images.abs().max()))  # type: ignore[operator]
    return model.train()


def train(model: nn.Module, steps: int) -> list[float]:
    """The loss before each step."""
    _, images, labels = digits()
    optimiser = make_optimiser(model, Schedule(lr=0.05, momentum=0.9))
    losses = []
    for step in range(steps):
        chosen = slice(step * 64 % 640, step * 64 % 640 + 64)
        loss = functional.cross_entropy(model(images[chosen]), labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("acts", ACT_METHODS)
@pytest.mark.parametrize("weights", WEIGHT_METHODS)
def test_any_weights_with_any_activations(weights: str, acts: str) -> None:
    """One step; every trainable parameter gets a gradient, as distributed training demands."""
    odd = (list(WEIGHT_METHODS).index(weights) + list(ACT_METHODS).index(acts)) % 2
    model = network(weights, acts, 1 if odd else 4, calibrated=False)
    assert all(map(math.isfinite, train(model, 1)))
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert torch.isfinite(parameter).all(), name


def shown_codes(model: fx.GraphModule, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Codes at every quantiser of the network itself, evaluated in float64. (N, H, W, C) or (N, F)."""
    exact = copy.deepcopy(model).double().eval()
    codes: dict[str, np.ndarray] = {}
    first = model.get_submodule(INPUT_QUANT)
    assert isinstance(first, ActQuantizer)
    start = torch.from_numpy(input_codes(first, pixels, MEAN, STD, WIDE.edge)).double().permute(0, 3, 1, 2)

    def note(name: str, quantizer: ActQuantizer, y: Tensor) -> Tensor:
        if name == INPUT_QUANT:  # its constants are stored in fixed point, which is not this test's subject
            y = start * quantizer.scale()
        whole = torch.round(y / quantizer.scale())
        assert torch.equal(whole * quantizer.scale(), y), "a value between two codes"
        codes[name] = (whole.permute(0, 2, 3, 1) if y.dim() == 4 else whole).long().numpy()
        return y

    for name, child in exact.named_modules():
        if isinstance(child, ActQuantizer):
            child.register_forward_hook(lambda m, _, y, name=name: note(name, m, y))
    images = (torch.from_numpy(pixels).double().permute(0, 3, 1, 2) / 255 - MEAN[0]) / STD[0]
    with torch.no_grad():
        exact(images)
    return codes


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("weights", "acts"), PAIRS)
def test_digits_to_integers(weights: str, acts: str, bits: int) -> None:
    """Half of the networks start uncalibrated. The integers are the fake-quantised codes, all of them."""
    model = network(weights, acts, bits, calibrated=bits in (3, 4, 8))
    losses = train(model, 16)
    assert all(map(math.isfinite, losses))
    assert all(torch.isfinite(v).all() for v in model.state_dict().values())
    assert sum(losses[-4:]) < sum(losses[:4])
    model.eval()
    pixels = digits()[0][:24]
    graph = lower(model, shape=(1, 8, 8), mean=MEAN, std=STD, formats=WIDE).graph
    found = run_oracle(graph, pixels)
    shown = shown_codes(model, pixels)
    assert {n for n, m in model.named_modules() if isinstance(m, ActQuantizer)} == set(shown)
    for name, want in shown.items():
        np.testing.assert_array_equal(found[name].reshape(want.shape), want, err_msg=name)
    narrow = lower(model, shape=(1, 8, 8), mean=MEAN, std=STD, formats=Formats(body=parse_format("32,auto")))
    want_all = run_oracle(narrow.graph, pixels)
    got_all = Simulator(narrow.graph, threads=1).run(pixels, keep="all").outputs
    for op in narrow.graph:
        np.testing.assert_array_equal(got_all[op.name], want_all[op.name], err_msg=op.name)


@pytest.mark.parametrize("turn", [0, 1])
def test_digits_to_cpp(turn: int, tmp_path: Path) -> None:
    """All methods in two compiled networks: each layer and each activation has its own."""
    names = describe(prepare(Small(), Policy(), SHAPE))
    layers = [row.name for row in names if row.kind == "weight"]
    tensors = [row.name for row in names if row.kind == "activation" and row.name != INPUT_QUANT]
    rules = [
        LayerRule(pattern=name, weight_method=method, weight_bits=bits, per_channel=bits % 2 == turn)
        for name, method, bits in zip(layers, turned(WEIGHT_METHODS, turn), BITS, strict=True)
    ]
    rules += [
        LayerRule(pattern=name, act_method=method, act_bits=bits)
        for name, method, bits in zip(tensors, turned(ACT_METHODS, turn), BITS[::-1], strict=True)
    ]
    model = prepared(Policy(layers=tuple(rules)), calibrated=False)
    train(model, 3)
    graph = lower(
        model.eval(), shape=(1, 8, 8), mean=MEAN, std=STD, formats=Formats(body=parse_format("24,auto"))
    ).graph
    write_project(graph, tmp_path / "hls", golden=digits()[0][:1])
    built = compile_project(read_manifest(tmp_path / "hls"), Build.NATIVE, extra_flags=("-O0",))
    verdict = cosimulate(graph, built.library, digits()[0][:50], lambda p: run_oracle(graph, p)).verdict
    assert verdict.mismatches == 0
    assert verdict.values == 50 * sum(op.out.size for op in graph)


def turned(methods: Iterable[str], turn: int) -> list[str]:
    """The first five, or the last five: a network has five layers and five activations."""
    return list(methods)[-5:] if turn else list(methods)[:5]


def test_the_compiled_networks_hold_every_method() -> None:
    for methods in (WEIGHT_METHODS, ACT_METHODS):
        assert {*turned(methods, 0), *turned(methods, 1)} == set(methods)
