"""Where quantisers go."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hwq.errors import UnsupportedError
from hwq.models import build
from hwq.quant import ActQuantizer, Policy, QuantConv2d, calibrate_off, describe, off_tensors, prepare, table


class Mixed(nn.Module):
    """One ReLU module used many times, functional forms, concat, sizes read from tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 5, 1)
        self.bn = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.1)
        self.nothing = nn.Identity()
        self.fc = nn.Linear(9, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.a(x))
        y = torch.add(self.bn(self.nothing(self.b(x))), x)
        y = torch.relu(self.drop(y))
        y = F.max_pool2d(y, 2)
        z = self.act(self.c(y))
        y = torch.cat([y, z], 1)
        y = F.avg_pool2d(y, y.size()[3])
        return self.fc(y.view(x.size(0), -1))


def _types(model: nn.Module, policy: Policy, shape: tuple[int, int, int] = (8, 8, 3)) -> dict[str, str]:
    return {r.name: r.type for r in describe(prepare(model, policy, shape))}


def test_placement_in_a_user_network() -> None:
    got = _types(Mixed(), Policy(act_bits=5, weight_bits=3, first_bits=6, last_bits=7, pool_bits=9))
    assert got == {
        "input_quant": "s8",
        "a": "s6",
        "act_quant": "u5",
        "b": "s3",
        "relu_quant": "u5",
        "c": "s3",
        "act_cat_quant": "u5",
        "avg_pool2d_quant": "u9",
        "fc": "s7",
    }


def test_operands_of_a_concat_share_one_quantiser() -> None:
    module = prepare(Mixed(), Policy(), (8, 8, 3))
    cat = next(n for n in module.graph.nodes if n.target is torch.cat)
    targets = [n.target for n in cat.args[0]]
    assert targets == ["act_cat_quant", "act_cat_quant"]
    rows = [r for r in describe(module) if r.name == "act_cat_quant"]
    assert [(r.of, r.shape) for r in rows] == [("max_pool2d c act", (4, 4, 4))]


def test_a_concat_of_one_leaves_its_operand_what_it_is() -> None:
    """As DenseNet has it after every transition: codes of an average pool."""

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.pool, self.b = nn.Conv2d(3, 4, 1), nn.AvgPool2d(2), nn.Conv2d(4, 4, 1)
            self.fc = nn.Linear(128, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.pool(F.relu(self.a(x)))
            y = F.relu(self.b(torch.cat([x], 1)))
            return self.fc(torch.cat([x, y], 1).flatten(1))

    got = _types(Dense(), Policy(act_bits=5, pool_bits=9))
    assert got["pool_quant"] == "u9"


def test_the_batch_size_stays_free_and_other_sizes_become_constants() -> None:
    module = prepare(Mixed(), Policy(), (8, 8, 3)).eval()
    assert module(torch.zeros(7, 3, 8, 8)).shape == (7, 3)
    pool = next(n for n in module.graph.nodes if n.target is F.avg_pool2d)
    assert pool.args[1] == 4


@pytest.mark.parametrize("branch", [False, True])
def test_branches_of_a_residual(branch: bool) -> None:
    names = set(_types(build("resnet8b", (32, 32, 3), 10), Policy(branch=branch), (32, 32, 3)))
    assert ("layer2_0_bn2_quant" in names) is branch
    assert ("layer2_0_shortcut_1_quant" in names) is branch
    assert "layer2_0_relu2_quant" in names


def test_toynet_has_a_norm_before_a_conv() -> None:
    got = _types(build("toynet", (32, 32, 3), 10), Policy(), (32, 32, 3))
    assert got["blocks_1_down_0_quant"] == "s16"
    assert got["blocks_1_down_1_quant"] == "s8"
    assert got["blocks_0_add_quant"] == "s8"
    assert got["blocks_0_relu_quant"] == "u8"
    assert "blocks_0_reduce_quant" not in got


def test_relu_on_codes_gets_no_second_quantiser() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return self.fc(F.relu(F.max_pool2d(x, 8)).flatten(1))

    got = _types(Late(), Policy())
    assert list(got) == ["input_quant", "conv", "conv_quant", "fc"]


def test_rescale_where_no_norm_follows() -> None:
    module = prepare(build("toynet", (32, 32, 3), 10), Policy(), (32, 32, 3))
    rescale = {
        n: m.weight_quant.rescale.value for n, m in module.named_modules() if hasattr(m, "weight_quant")
    }
    assert rescale["blocks.0.depthwise"] == "none"
    assert rescale["blocks.0.expand"] == "max"
    assert rescale["linear"] == "max"


def test_off_is_the_float_network() -> None:
    torch.manual_seed(0)
    model = build("digits", (8, 8, 1), 10).eval()
    x = torch.randn(4, 1, 8, 8)
    want = model(x)
    module = prepare(model, Policy.floating(), (8, 8, 1))
    assert torch.equal(module.eval()(x), want)
    off = off_tensors(module)
    assert calibrate_off(module, [x]) == off
    assert off_tensors(module) == []
    # 16-bit codes everywhere: within a hundredth of the largest logit
    assert (module(x) - want).abs().max() < 0.01 * want.abs().max()


def test_layers_keep_names_and_parameters() -> None:
    model = build("digits", (8, 8, 1), 10)
    before = dict(model.named_parameters())
    module = prepare(model, Policy(), (8, 8, 1))
    after = dict(module.named_parameters())
    assert all(after[k] is v for k, v in before.items())
    assert isinstance(module.get_submodule("block1.conv1"), QuantConv2d)
    assert "block1_relu2_quant" in table(describe(module))
    assert all(not isinstance(m, ActQuantizer) or m.off is False for m in module.modules())


class _Tanh(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.conv(x))


class _Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) if x.sum() > 0 else x


def test_tracing_leaves_torchs_compiler_alone() -> None:
    """Which takes as long to import as all the rest of a command."""
    code = (
        "import sys, torch\nfrom hwq.models import build\nfrom hwq.quant import Policy, prepare\n"
        "before = set(sys.modules)\nprepare(build('mlp', (8, 8, 1), 10), Policy(), (8, 8, 1))\n"
        "print([m for m in set(sys.modules) - before if m in ('torch._dynamo', 'torch._inductor')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unsupported_names_path_and_line() -> None:
    with pytest.raises(UnsupportedError, match=r"\(test_prepare.py:\d+\): tanh is not supported"):
        prepare(nn.Sequential(_Tanh()), Policy(), (8, 8, 3))
    with pytest.raises(UnsupportedError, match=r"'1'.*Softmax is supported only as the last operation"):
        prepare(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Softmax(1), nn.ReLU()), Policy(), (8, 8, 3))
    with pytest.raises(UnsupportedError, match="depends on tensor values"):
        prepare(_Branching(), Policy(), (8, 8, 3))
    with pytest.raises(UnsupportedError, match="does not take images"):
        prepare(nn.Sequential(nn.Conv2d(5, 4, 1)), Policy(), (8, 8, 3))
