"""Every spelling that hwq takes is the user's network: as floats, as integers, in the fixed-point phase."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize, prune
from torch.utils import _pytree as pytree

from hwq.cosim.build import Build
from hwq.errors import UnsupportedError
from hwq.fixed import Rounding, parse_edge, parse_format
from hwq.ir import Graph
from hwq.lower import Formats, lower
from hwq.quant import ActQuantizer, Policy, calibrate, notes, prepare, trace
from hwq.quant.tracing.spelling import forms
from hwq.quant.tracing.spelling.respell import BOUND, spellings
from hwq.simulate import Simulator
from hwq.train.checkpoint import fill
from tests.fuzz.check import check_graph
from tests.lower.spellings import ACTIVATED_ENDS, BAKED, CLAMPS, MOVED, SHAPE, ZOO, Net, randomised
from tests.quant.test_folded import assert_equal

MEAN, STD = (0.45, 0.5, 0.55), (0.25, 0.2, 0.22)
TWELVE = Policy(
    weight_bits=12,
    act_bits=12,
    first_bits=12,
    last_bits=12,
    input_bits=12,
    pool_bits=12,
    norm_bits=12,
    weight_method="uniform",
    act_method="uniform",
)
PIXELS = np.random.default_rng(3).integers(0, 256, (48, *SHAPE), dtype=np.uint8)
IMAGES = (torch.from_numpy(PIXELS).double().permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN).view(3, 1, 1)) / (
    torch.tensor(STD).view(3, 1, 1)
)


def network(case: str) -> nn.Module:
    torch.manual_seed(7)
    return randomised(ZOO[case](), 7)


def eager(case: str) -> Tensor:
    """What the user's own network, which nothing of hwq has seen, makes of the images; logits."""
    net = network(case).double()
    if case in ACTIVATED_ENDS:
        net = _Logits(net, case)
    with torch.no_grad():
        (found,) = (v for v in pytree.tree_leaves(net(IMAGES)) if v is not None)
    assert isinstance(found, Tensor)
    return found.flatten(1)


class _Logits(nn.Module):
    """Softmax and sigmoid undone: exactly up to a constant an image, which argmax and correlation ignore."""

    def __init__(self, net: nn.Module, case: str) -> None:
        super().__init__()
        self.net, self.log, self.each = net, "og" in case, "igmoid" in case

    def forward(self, x: Tensor) -> Tensor:
        (y,) = pytree.tree_leaves(self.net(x))
        logs = y if self.log else y.log()
        if self.each:
            logs = logs - torch.log1p(-logs.exp())
        flat = logs.flatten(1)
        return flat if self.each else flat - flat.mean(1, keepdim=True)


def prepared(case: str) -> fx.GraphModule:
    model = prepare(network(case), TWELVE, SHAPE).eval()
    calibrate(model, [IMAGES.float()])
    return model


@pytest.mark.parametrize("case", ZOO)
def test_the_traced_network_is_the_users(case: str) -> None:
    traced = trace(network(case).double(), SHAPE).eval()
    with torch.no_grad():
        got = traced(IMAGES).flatten(1)
    want = eager(case)
    if case in ACTIVATED_ENDS and "igmoid" not in case:
        got = got - got.mean(1, keepdim=True)
    # undoing a softmax in float64 costs more than pooling in another order does
    bound = 1e-9 if case in ACTIVATED_ENDS else BOUND
    if case in CLAMPS:
        assert torch.equal(got, want)
    assert float((got - want).abs().max() / want.abs().max()) <= bound


@pytest.mark.parametrize("case", ZOO)
def test_its_integers_are_close_to_the_floats(case: str) -> None:
    """Pearson's correlation of integer logits with the user's network in float64."""
    model = prepared(case)
    graph = lowered(model)
    got = Simulator(graph).run(PIXELS, keep="all").outputs[graph.output.name].reshape(len(PIXELS), -1)
    want = eager(case).numpy()
    if case in ACTIVATED_ENDS and "igmoid" not in case:
        got = got - got.mean(1, keepdims=True)
    assert float(want.std()) > 0.01
    assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > 0.999


OTHERS = [case for case in ZOO if case not in MOVED]
FOLDED = [(case, rounding) for case in MOVED for rounding in Rounding if rounding.value in ("RND", "TRN")]
FOLDED += [(case, Rounding.TRN) for case in OTHERS[::6]] + [(case, Rounding.RND) for case in OTHERS[3::6]]


@pytest.mark.parametrize(("case", "rounding"), FOLDED)
def test_the_fixed_point_phase_sees_the_same_integers(case: str, rounding: Rounding) -> None:
    chosen = Formats(body=parse_format("16,auto"), edge=parse_edge("24,12"), rounding=rounding)
    assert assert_equal(prepared(case), SHAPE, chosen, 5) >= 2


@pytest.mark.parametrize("case", ZOO)
def test_all_of_it_trains(case: str) -> None:
    model = prepare(network(case), Policy(), SHAPE)
    calibrate(model, [IMAGES.float()])
    torch.manual_seed(0)
    out = model.train()(IMAGES.float())
    out.square().sum().backward()
    used = {str(n.target) for n in model.graph.nodes if n.op == "call_module"}
    wanted = {n: p for n, p in model.named_parameters() if p.requires_grad and n.split(".")[0] in used}
    assert {n for n, p in wanted.items() if p.grad is None or not bool(torch.isfinite(p.grad).all())} == set()
    assert any(bool(p.grad.any()) for n, p in wanted.items() if n.startswith("conv."))


def test_every_spelling_has_a_network() -> None:
    """As torch's own tracer, which knows nothing of hwq, sees their calls."""
    seen: set[object] = set()
    for make in ZOO.values():
        net = make()
        for node in fx.Tracer().trace(net).nodes:
            seen.add(type(net.get_submodule(node.target)) if node.op == "call_module" else node.target)
    assert {
        known.text for known in spellings() if known.target not in seen and known.text not in ZOO
    } == set()


def test_names_stay() -> None:
    """Of networks that need no respelling but ReLU's: checkpoints hold these names."""
    net = Net(
        lambda s, x: s.fc(
            torch.cat(
                [
                    F.relu(s.act(s.stem(x)) + torch.relu(s.side(x))).mean([2, 3]),
                    F.adaptive_avg_pool2d(s.side(x), 1).relu().squeeze(),
                ],
                1,
            )
        ),
        act=nn.ReLU6(inplace=True),
        fc=nn.Linear(8, 5),
    )
    names = [n for n, m in prepare(net, Policy(), SHAPE).named_modules() if isinstance(m, ActQuantizer)]
    of = ("act", "input", "relu_2", "relu_3", "relu", "side", "squeeze_cat")
    assert sorted(names) == sorted(f"{name}_quant" for name in of)


REFUSED: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "1..6": (
        lambda s, x: s.head(s.stem(x).clamp(1, 6)),
        r"x\.clamp is supported only where the range holds 0",
    ),
    "tensor bound": (lambda s, x: s.head(s.stem(x).clamp(s.fc.bias.mean())), r"x\.clamp is supported only"),
    "leaky": (lambda s, x: s.head(F.leaky_relu(s.stem(x))), r"F\.leaky_relu is supported only with slope 0"),
    "threshold": (lambda s, x: s.head(F.threshold(s.stem(x), 1, 0)), "with threshold and value 0"),
    "softmax": (lambda s, x: s.head(s.stem(x).softmax(1)), r"x\.softmax is supported only as the last"),
    "softmax over images": (
        lambda s, x: s.head(s.stem(x)).softmax(0),
        r"x\.softmax is supported only as the last",
    ),
    "sigmoid, then scaled": (
        lambda s, x: torch.sigmoid(s.head(s.stem(x))).neg(),
        "torch.sigmoid is supported only",
    ),
    "3 of 8": (
        lambda s, x: s.head(F.adaptive_max_pool2d(s.stem(x), 3)),
        "only into sizes that divide the map's",
    ),
    "first row": (
        lambda s, x: s.fc(s.next(s.stem(x))[:, :, 0].mean(-1)),
        "indexing is supported as subsampling",
    ),
    "over channels": (
        lambda s, x: s.head(s.stem(x) + s.side(x).amax(1, keepdim=True)),
        "over rows and columns",
    ),
    "add 1": (lambda s, x: s.head(s.stem(x) + 1), "adds a constant"),
    "two results": (lambda s, x: {"a": s.head(s.stem(x)), "b": s.stem(x)}, "returns several values"),
    "swapped": (lambda s, x: s.next(s.stem(x)).view(-1, 8, 6, 8).mean((2, 3)), "view"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_says_why(case: str) -> None:
    forward, message = REFUSED[case]
    with pytest.raises(UnsupportedError, match=message) as caught:
        lowered(prepare(Net(forward), TWELVE, SHAPE))
    assert "\n" not in str(caught.value)


def lowered(model: fx.GraphModule) -> Graph:
    formats = Formats(body=parse_format("24,auto"), edge=parse_edge("32,16"))
    return lower(model, shape=(SHAPE[2], *SHAPE[:2]), mean=MEAN, std=STD, formats=formats).graph


def test_the_last_activation_is_told() -> None:
    for case in ACTIVATED_ENDS:
        (note,) = notes(trace(network(case), SHAPE))
        assert "logits have the same largest class, and the loss uses logits" in note
    assert notes(trace(network("nn.Softmax"), SHAPE))[0].startswith(
        "the last nn.Softmax of 'end' is left out: "
    )
    one = Net(lambda s, x: torch.sigmoid(s.one(s.stem(x).mean((2, 3)))), one=nn.Linear(4, 1))
    assert notes(trace(one, SHAPE)) == (
        "the last torch.sigmoid is left out: its logit decides alike, above 0 where the sigmoid is above "
        "1/2; the loss uses the logit",
    )
    assert notes(trace(network("nn.ReLU6"), SHAPE)) == ()


@pytest.mark.parametrize("case", BAKED)
def test_baking_leaves_the_users_layers_alone(case: str) -> None:
    net = network(case).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    layers = dict(net.named_modules())
    model = prepare(net, Policy(), SHAPE)
    after = net.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(net.get_submodule(path) is layer for path, layer in layers.items())
    assert all(m.training for m in net.modules())
    plain = {n for n, _ in Net(lambda s, x: x).named_parameters() if not n.startswith("side.")}
    assert {n for n, _ in model.named_parameters() if "_quant" not in n} == plain
    assert any("computed once" in note for note in notes(model))


def test_a_checkpoint_of_baked_weights_fills_the_network_that_computes_them() -> None:
    source = network("both, and of a linear layer")
    weights = {
        k: v for k, v in prepare(source, Policy.floating(), SHAPE).state_dict().items() if "_quant" not in k
    }
    fresh = ZOO["both, and of a linear layer"]()
    side = {k: v for k, v in fresh.state_dict().items() if k.startswith("side.")}
    fill(fresh, {**weights, **side}, "run", "net")
    assert torch.equal(fresh.conv.weight, weights["conv.weight"])  # type: ignore[union-attr,arg-type]
    assert type(fresh.conv) is nn.Conv2d


def test_other_parametrized_layers_are_refused() -> None:
    net = Net(lambda s, x: s.head(s.stem(x)))
    parametrize.register_parametrization(net.norm, "weight", nn.Identity())
    with pytest.raises(UnsupportedError, match=r"'norm'.*remove_parametrizations"):
        prepare(net, Policy(), SHAPE)
    net = Net(lambda s, x: s.head(s.stem(x)))
    prune.l1_unstructured(net.conv, "weight", 0.5)
    with pytest.raises(UnsupportedError, match=r"'conv'.*prune"):
        prepare(net, Policy(), SHAPE)


def test_a_wrong_rewriting_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison after respelling, on a rewriting that takes one mean for another."""
    monkeypatch.setattr(forms, "_REDUCTIONS", {**forms._REDUCTIONS, "amax": forms.MEAN})
    with pytest.raises(UnsupportedError, match="compute something else than the network"):
        trace(network("amax, one by one"), SHAPE)


def test_several_together_in_cpp(tmp_path: Path) -> None:
    net = Net(
        lambda s, x: s.fc2(
            torch.cat(
                [
                    s.act(torch.cat([F.max_pool2d(s.stem(x), 2).clamp(-0.5, 1), s.pool(s.side(x))], 1))
                    .mean(-1)
                    .mean(-1),
                    F.relu6(F.relu(s.side(x))).flatten(2).amax(-1),
                ],
                1,
            )
        ),
        act=nn.Hardtanh(0, 0.75),
        pool=nn.AdaptiveMaxPool2d(4),
        fc2=nn.Linear(12, 3),
    )
    torch.manual_seed(7)
    model = prepare(randomised(net, 7), Policy(weight_bits=4, act_bits=6), SHAPE).eval()
    calibrate(model, [IMAGES.float()])
    assert check_graph(lowered(model), 1, tmp_path, (Build.AP,)) is None
