"""What every tensor gets under a policy: patterns, lists by position, first and last layer."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hwq.errors import InputError
from hwq.models import build
from hwq.quant import ACT_METHODS, WEIGHT_METHODS, LayerRule, Policy, Row, describe, prepare, summary, table

W4A4 = {"weight_bits": 4, "act_bits": 4}
RESNET8 = {  # of Policy(weight_bits=4, act_bits=4), in order
    "input_quant": "s8",
    "conv1": "s4",
    "relu_quant": "u4",
    "layer1.0.conv1": "s4",
    "layer1_0_relu1_quant": "u4",
    "layer1.0.conv2": "s4",
    "layer1_0_relu2_quant": "u4",
    "layer2.0.conv1": "s4",
    "layer2_0_relu1_quant": "u4",
    "layer2.0.conv2": "s4",
    "layer2_0_relu2_quant": "u4",
    "layer3.0.conv1": "s4",
    "layer3_0_relu1_quant": "u4",
    "layer3.0.conv2": "s4",
    "layer3_0_relu2_quant": "u4",
    "pool_quant": "u8",
    "linear": "s4",
}
LAYERS = [n for n in RESNET8 if not n.endswith("_quant")]
ACTS = [n for n in RESNET8 if n.endswith("_quant")]


def _rows(policy: Policy, name: str = "resnet8") -> list[Row]:
    return describe(prepare(build(name, (32, 32, 3), 10), policy, (32, 32, 3)))


def _types(policy: Policy, name: str = "resnet8") -> dict[str, str]:
    return {row.name: row.type for row in _rows(policy, name)}


def _rules(*texts: str) -> tuple[LayerRule, ...]:
    return tuple(map(LayerRule.parse, texts))


def test_without_anything_special() -> None:
    got = _types(Policy(**W4A4))
    assert got == RESNET8
    assert list(got) == list(RESNET8)


# -- patterns


@pytest.mark.parametrize(
    ("rules", "changes"),
    [
        (["layer1.0.conv1=w6"], {"layer1.0.conv1": "s6"}),
        (["layer1.0.conv1=a6"], {"layer1_0_relu1_quant": "u6"}),
        (["layer1.0.bn1=a6"], {"layer1_0_relu1_quant": "u6"}),
        (["layer1.0.relu1=a6"], {"layer1_0_relu1_quant": "u6"}),
        (["layer1_0_relu1_quant=a6"], {"layer1_0_relu1_quant": "u6"}),
        (["layer1.0.conv1=w6a5"], {"layer1.0.conv1": "s6", "layer1_0_relu1_quant": "u5"}),
        (["layer1.0.add=a7"], {"layer1_0_relu2_quant": "u7"}),
        # conv2 ends in the add, which is not its own result
        (["layer1.0.*2=w2a2"], {"layer1.0.conv2": "s2", "layer1_0_relu2_quant": "u2"}),
        (["conv1=w9a9"], {"conv1": "s9", "relu_quant": "u9"}),
        (
            ["layer1=w6a5"],
            {
                "layer1.0.conv1": "s6",
                "layer1_0_relu1_quant": "u5",
                "layer1.0.conv2": "s6",
                "layer1_0_relu2_quant": "u5",
            },
        ),
        (["layer[13].0.conv1=w3"], {"layer1.0.conv1": "s3", "layer3.0.conv1": "s3"}),
        (["*.conv?=w3"], {n: "s3" for n in LAYERS if "." in n}),
        (["*=w6a6"], {n: RESNET8[n][0] + "6" for n in RESNET8}),
        (["input=a32"], {"input_quant": "float"}),
        (["linear=w32"], {"linear": "float"}),
        (["pool=a3"], {"pool_quant": "u3"}),
        (
            ["*=w2", "layer2=w5", "layer2.0.conv2=w7"],
            {**dict.fromkeys(LAYERS, "s2"), "layer2.0.conv1": "s5", "layer2.0.conv2": "s7"},
        ),
        (["layer2.0.conv2=w7", "*=w2"], dict.fromkeys(LAYERS, "s2")),
        (["layer2=w7a3", "layer2.0.conv1=a5"], {
            "layer2.0.conv1": "s7",
            "layer2_0_relu1_quant": "u5",
            "layer2.0.conv2": "s7",
            "layer2_0_relu2_quant": "u3",
        }),
    ],
)  # fmt: skip
def test_patterns(rules: list[str], changes: dict[str, str]) -> None:
    assert _types(Policy(**W4A4, layers=_rules(*rules))) == {**RESNET8, **changes}


def test_a_block_number_is_not_a_prefix_of_another() -> None:
    got = _types(Policy(layers=_rules("layer1.1=w3")), "resnet20")
    assert {n for n, t in got.items() if t == "s3"} == {"layer1.1.conv1", "layer1.1.conv2"}
    rule = LayerRule.parse("layer1=w3")
    assert rule.matches(["layer1"])
    assert rule.matches(["layer1.0"])
    assert not rule.matches(["layer10", "xlayer1", "layer"])


def test_methods_and_scales_by_pattern() -> None:
    rules = _rules(
        "*=per-channel,weights:uniform", "layer2=weights:lsq,acts:pact,per-tensor", "pool=acts:lsq"
    )
    rows = {r.name: (r.method, r.scale) for r in _rows(Policy(**W4A4, layers=rules))}
    want = dict.fromkeys(LAYERS, ("uniform", "channel"))
    want |= {n: ("lsq", "tensor") for n in LAYERS if n.startswith("layer2")}
    want |= dict.fromkeys(ACTS, ("mpact", "tensor"))
    want |= {n: ("pact", "tensor") for n in ACTS if n.startswith("layer2")}
    want |= {"pool_quant": ("lsq", "tensor"), "input_quant": ("uniform", "tensor")}
    assert rows == want


@pytest.mark.parametrize("method", WEIGHT_METHODS)
def test_every_weight_method_by_pattern(method: str) -> None:
    rows = _rows(Policy(layers=_rules(f"layer1=weights:{method}")))
    assert {r.name for r in rows if r.kind == "weight" and r.method == method} >= {"layer1.0.conv1"}
    assert {r.method for r in rows if r.name == "conv1"} == {"dorefa"}


@pytest.mark.parametrize("method", ACT_METHODS)
def test_every_activation_method_by_pattern(method: str) -> None:
    rows = {r.name: r.method for r in _rows(Policy(layers=_rules(f"layer1=acts:{method}")))}
    assert rows["layer1_0_relu1_quant"] == method
    assert rows["relu_quant"] == "mpact"
    assert rows["input_quant"] == "uniform"


# -- lists


def toynet_types(w: list[int], a: list[int]) -> dict[str, str]:
    """ToyNet's table by hand: part k has w[k]-bit weights; a[k]-bit activations enter it and are inside."""

    def code(sign: str, bits: int) -> str:
        return "float" if bits == 32 else f"{sign}{bits}"

    want = {"input_quant": code("s", a[0]), "stem.0": code("s", w[0]), "stem_1_quant": code("s", a[1])}
    for i in range(10):
        k, b, n = i + 1, f"blocks.{i}", f"blocks_{i}"
        if i in (1, 7):  # stride 2
            want[f"{n}_down_0_quant"] = "s16"  # a BN that stands alone: norm_bits
            want[f"{b}.down.1"] = code("s", w[k])
            want[f"{n}_down_1_quant"] = code("s", a[k])
        want[f"{b}.depthwise"] = code("s", w[k])
        want[f"{n}_bn_quant"] = code("s", a[k])
        want[f"{b}.expand"] = code("s", w[k])
        want[f"{n}_relu_quant"] = code("u", a[k])
        want[f"{b}.reduce"] = code("s", w[k])
        want[f"{n}_add_quant"] = code("s", a[k + 1])
    want |= {"header.0": code("s", w[11]), "header_1_quant": code("s", a[12]), "pool_quant": code("s", a[12])}
    return want | {"linear": code("s", w[12])}


CFG = {
    1: ([32, *[8] * 10, 16, 16], [32, *[8] * 10, 32, 32]),
    2: ([32, 8, *[6] * 6, *[8] * 3, 16, 16], [32, *[8] * 10, 32, 32]),
    3: ([32, 8, *[6] * 9, 16, 16], [32, 8, *[6] * 9, 32, 32]),
}


@pytest.mark.parametrize("number", CFG)
def test_the_three_configurations_of_toynet(number: int) -> None:
    w, a = CFG[number]
    assert _types(Policy(weight_list=tuple(w), act_list=tuple(a)), "toynet") == toynet_types(w, a)


WIDTHS = st.one_of(st.integers(1, 16), st.just(32))
LIST13 = st.lists(WIDTHS, min_size=13, max_size=13)


@settings(max_examples=4, deadline=None)
@given(LIST13, LIST13)
def test_any_lists_of_toynet(w: list[int], a: list[int]) -> None:
    assert _types(Policy(weight_list=tuple(w), act_list=tuple(a)), "toynet") == toynet_types(w, a)


def test_lists_of_mobilenet() -> None:
    w = [(k % 16) + 1 for k in range(20)]
    a = [16 - (k % 16) for k in range(20)]
    got = _types(Policy(weight_list=tuple(w), act_list=tuple(a)), "mobilenetv2")
    assert (got["input_quant"], got["stem.0"], got["stem_2_quant"]) == (f"s{a[0]}", f"s{w[0]}", f"u{a[1]}")
    for i in range(17):
        layers = {n: t for n, t in got.items() if n.startswith(f"blocks.{i}.")}
        assert set(layers.values()) == {f"s{w[i + 1]}"}
        assert got[f"blocks_{i}_body_2_quant"] == got[f"blocks_{i}_body_5_quant"] == f"u{a[i + 1]}"
        joins = f"blocks_{i}_add_quant" in got  # a block of stride 2 ends in its last BN
        assert got[f"blocks_{i}_add_quant" if joins else f"blocks_{i}_body_7_quant"] == f"s{a[i + 2]}"
    assert (got["head.0"], got["head_2_quant"], got["pool_quant"]) == (f"s{w[18]}", f"u{a[19]}", f"u{a[19]}")
    assert got["linear"] == f"s{w[19]}"


def test_without_named_parts_every_layer_is_an_entry() -> None:
    w, a = (1, 2, 3, 4, 5, 6, 7, 9), (2, 3, 4, 5, 6, 7, 10, 11)
    got = _types(Policy(weight_list=w, act_list=a))
    assert [got[n] for n in LAYERS] == [f"s{b}" for b in w]
    # what the layer of an entry reads; the pool stands between the last block and the linear layer
    bits = [*a[:7], a[7], a[7]]
    assert [got[n][1:] for n in ACTS] == [str(b) for b in bits]


def test_an_activation_that_no_layer_reads_has_the_last_entry() -> None:
    net = nn.Sequential(
        *(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    )
    got = {r.name: r.type for r in describe(prepare(net, Policy(act_list=(4, 6)), (4, 4, 3)))}
    assert got == {"input_quant": "s4", "0": "s8", "1_quant": "u6", "2": "s8", "3_quant": "u6"}


def test_one_list_leaves_the_other_kind_alone() -> None:
    assert _types(Policy(**W4A4, weight_list=(3,) * 8)) == {**RESNET8, **dict.fromkeys(LAYERS, "s3")}
    assert _types(Policy(**W4A4, act_list=(3,) * 8)) == {**RESNET8, **{n: RESNET8[n][0] + "3" for n in ACTS}}


def test_a_user_network_names_its_own_parts() -> None:
    class Net(nn.Sequential):
        bit_entries = ("0", "2")

    net = Net(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
    module = prepare(net, Policy(weight_list=(3, 5), act_list=(4, 6)), (1, 1, 3))
    got = {r.name: r.type for r in describe(module)}
    assert list(got.items()) == [
        ("input_quant", "s4"),
        ("0", "s3"),
        ("0_quant", "s6"),
        ("2.0", "s5"),
        ("2_1_quant", "u6"),
        ("2.2", "s5"),
    ]
    Net.bit_entries = ("0", "3")
    with pytest.raises(InputError, match="bit_entries of the network names '3', but no layer is below it"):
        prepare(net, Policy(), (1, 1, 3))


# -- first and last layer


@pytest.mark.parametrize(
    ("policy", "first", "last"),  # (weights, image), (weights, what the last layer reads)
    [
        ({}, ("s4", "s8"), ("s4", "u8")),
        ({"first": "weights", "last": "weights"}, ("s8", "s4"), ("s8", "u4")),
        ({"first": "8/8", "last": "8/8"}, ("s8", "s8"), ("s8", "u8")),
        ({"first": "same", "last": "same"}, ("s4", "s4"), ("s4", "u4")),
        ({"first": "off", "last": "off"}, ("float", "float"), ("float", "float")),
        ({"first": "4/6", "last": "5/7"}, ("s4", "s6"), ("s5", "u7")),
        ({"first": "8/32"}, ("s8", "float"), ("s4", "u8")),
        # the older keys are about one tensor each, and so beat the words
        ({"first": "weights", "first_bits": 6}, ("s6", "s4"), ("s4", "u8")),
        ({"first": "same", "input_bits": 10}, ("s4", "s10"), ("s4", "u8")),
        ({"last": "off", "last_bits": 6}, ("s4", "s8"), ("s6", "float")),
        ({"last": "same", "pool_bits": 10}, ("s4", "s8"), ("s4", "u4")),
        # words beat lists, patterns beat all
        ({"last": "8/8", "weight_list": (3,) * 8, "act_list": (3,) * 8}, ("s3", "s3"), ("s8", "u8")),
        ({"first": "8/7", "act_list": (3,) * 8}, ("s8", "s7"), ("s4", "u3")),
        ({"input_bits": 9, "act_list": (3,) * 8}, ("s4", "s9"), ("s4", "u3")),
        ({"first": "8/8", "layers": _rules("conv1=w5", "input=a6")}, ("s5", "s6"), ("s4", "u8")),
    ],
)
def test_first_and_last(policy: dict[str, Any], first: tuple[str, str], last: tuple[str, str]) -> None:
    got = _types(Policy(**W4A4, **policy))
    assert (got["conv1"], got["input_quant"]) == first
    assert (got["linear"], got["pool_quant"]) == last
    if "act_list" not in policy:  # nothing else moved
        edges = ("conv1", "input_quant", "linear", "pool_quant")
        middle = {n: t for n, t in RESNET8.items() if n not in edges}
        assert {n: t for n, t in got.items() if n not in edges} == middle


def test_what_the_last_layer_reads() -> None:
    got = _types(Policy(**W4A4, last="9/9"), "mlp")
    assert (got["fc2"], got["relu1_quant"]) == ("s4", "u4")
    assert (got["fc3"], got["relu2_quant"]) == ("s9", "u9")
    # through moves of codes: max pool, flatten, dropout
    net = nn.Sequential(
        *(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(16, 2))
    )
    types = {r.name: r.type for r in describe(prepare(net, Policy(last="9/9"), (4, 4, 3)))}
    assert types == {"input_quant": "s8", "0": "s8", "1_quant": "u9", "5": "s9"}
    # one layer is first and last
    single = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    types = {r.name: r.type for r in describe(prepare(single, Policy(first="5/6", last="9/9"), (4, 4, 3)))}
    assert types == {"input_quant": "s6", "1": "s5"}


# -- the table


def test_table_and_summary() -> None:
    policy = Policy(**W4A4, first="8/8", last="off", per_channel=True, layers=_rules("layer1=acts:lsq"))
    rows = _rows(policy)
    assert table(rows[:5]).splitlines() == [
        "tensor                of                        type  method   scale    shape",
        "input_quant           input                     s8    uniform  tensor   3 x 32 x 32",
        "conv1                 weights                   s8    dorefa   channel  16 x 3 x 3 x 3",
        "relu_quant            conv1 bn1 relu            u4    mpact    tensor   16 x 32 x 32",
        "layer1.0.conv1        weights                   s4    dorefa   channel  16 x 16 x 3 x 3",
        "layer1_0_relu1_quant  layer1.0.conv1 bn1 relu1  u4    lsq      tensor   16 x 32 x 32",
    ]
    assert table(rows).splitlines()[-2:] == [
        "pool_quant            pool                      float                    64 x 1 x 1",
        "linear                weights                   float                    10 x 64",
    ]
    assert summary(rows) == (
        "weights 4-bit dorefa x 6, 8-bit dorefa x 1, float x 1; "
        "activations 4-bit mpact x 5, 4-bit lsq x 2, 8-bit uniform x 1, float x 1"
    )


def test_every_name_in_the_table_works_as_a_pattern() -> None:
    rows = _rows(Policy())
    bits = {row.name: 1 + i % 16 for i, row in enumerate(rows)}
    rules = _rules(*(f"{r.name}={'w' if r.kind == 'weight' else 'a'}{bits[r.name]}" for r in rows))
    assert {n: int(t[1:]) for n, t in _types(Policy(layers=rules)).items()} == bits


def test_the_rows_survive_a_copy() -> None:
    import copy

    module = prepare(build("resnet8", (32, 32, 3), 10), Policy(), (32, 32, 3))
    assert describe(copy.deepcopy(module)) == describe(module)


# -- mistakes


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Policy(weight_bits=0), "weight_bits must be 1..16, or 32 for off, not 0"),
        (lambda: Policy(act_bits=17), "act_bits must be 1..16, or 32 for off, not 17"),
        (lambda: Policy(input_bits=31), "input_bits must be 1..16"),
        (lambda: Policy(weight_list=(8, 0)), "entry 2 of weight_list must be 1..16"),
        (lambda: Policy(act_list=(17,)), "entry 1 of act_list must be 1..16"),
        (
            lambda: Policy(first="wheights"),
            "first must be weights, same, off, or W/A as in 8/8, not 'wheights'",
        ),
        (lambda: Policy(last="8/17"), "last = '8/17' must be 1..16, or 32 for off, not 17"),
        (lambda: Policy(weight_method="lsqq"), "unknown weight method 'lsqq'; known: "),
        (lambda: Policy(act_method="lsqq"), "unknown activation method 'lsqq'; known: "),
        (lambda: Policy(rescale="most"), "rescale must be auto, none, "),
        (lambda: Policy(layers=_rules("a=w4", "a=w5")), "'a' is given twice"),
        (lambda: LayerRule(pattern="conv1"), "'conv1' sets nothing; known: weight_bits"),
        (lambda: LayerRule(pattern="", weight_bits=3), "must not be empty"),
        (lambda: LayerRule.parse("conv1=w0"), "'conv1': weight_bits must be 1..16"),
        (lambda: LayerRule.parse("conv1=a17"), "'conv1': act_bits must be 1..16"),
        (lambda: LayerRule.parse("conv1=weights:lsqq"), "'conv1': unknown weight method 'lsqq'"),
        (lambda: LayerRule.parse("conv1"), "--layer takes PATTERN=w6a6, not 'conv1'"),
        (lambda: LayerRule.parse("conv1=6"), "'6' is none of w6a6"),
        (lambda: LayerRule.parse("conv1="), "'' is none of w6a6"),
        (lambda: LayerRule.parse("conv1=w6,lsq"), "'lsq' is none of w6a6"),
    ],
)
def test_policies_that_cannot_be(make: Any, says: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("policy", "model", "says"),
    [
        (
            {"weight_list": (8,) * 12},
            "toynet",
            "weight_list has 12 entries, this network takes 13: stem, blocks.0, blocks.1, blocks.2, "
            "blocks.3, blocks.4, blocks.5, blocks.6, blocks.7, blocks.8, blocks.9, header, linear",
        ),
        ({"act_list": (8,) * 13}, "mobilenetv2", "act_list has 13 entries, this network takes 20: stem, "),
        ({"act_list": ()}, "mlp", "act_list has 0 entries, this network takes 3: fc1, fc2, fc3"),
        ({"layers": _rules("blokcs.*.expnd=w4")}, "toynet", "matches nothing; near it: blocks."),
        ({"layers": _rules("Conv1=w4")}, "resnet8", "'Conv1' matches nothing; near it: conv1"),
        ({"layers": _rules("layer9=w4")}, "resnet8", "'layer9' matches nothing; near it: layer"),
        ({"layers": _rules("%=w4")}, "mlp", "'%' matches nothing; names here are like fc1, fc2, fc3"),
        ({"layers": _rules("linear=w4a4")}, "resnet8", "'linear' gives act_bits, but matches only weights"),
        (
            {"layers": _rules("*relu*=w4")},
            "resnet8",
            "gives weight_bits, but matches no layer, only activations",
        ),
        ({"layers": _rules("input=acts:lsq")}, "mlp", "gives act_method, but matches only the image"),
        # what comes later may win everywhere: the earlier one did match
        ({"layers": _rules("fc1=w4", "fc9=w5")}, "mlp", "'fc9' matches nothing; near it: fc"),
    ],
)
def test_policies_that_do_not_fit(policy: dict[str, Any], model: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        _types(Policy(**policy), model)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_overridden_rule_is_no_mistake() -> None:
    assert _types(Policy(layers=_rules("conv1=w4", "*=w5")))["conv1"] == "s5"


# -- what is stored

RULES = st.builds(
    LayerRule,
    pattern=st.text(min_size=1, max_size=6),
    weight_bits=WIDTHS,
    act_bits=st.none() | WIDTHS,
    weight_method=st.none() | st.sampled_from(sorted(WEIGHT_METHODS)),
    act_method=st.none() | st.sampled_from(sorted(ACT_METHODS)),
    per_channel=st.none() | st.booleans(),
    rescale=st.none() | st.sampled_from(["auto", "none", "max"]),
)
EDGES = st.none() | st.sampled_from(["weights", "same", "off", "8/8", "1/32"])
POLICIES = st.builds(
    Policy,
    weight_bits=WIDTHS,
    first=EDGES,
    last=EDGES,
    first_bits=st.none() | WIDTHS,
    input_bits=st.none() | WIDTHS,
    branch=st.booleans(),
    weight_list=st.none() | st.lists(WIDTHS, max_size=4).map(tuple),
    act_list=st.none() | st.lists(WIDTHS, max_size=4).map(tuple),
    layers=st.lists(RULES, max_size=3, unique_by=lambda r: r.pattern).map(tuple),
)


@settings(max_examples=30, deadline=None)
@given(POLICIES)
def test_a_policy_comes_back_from_json(policy: Policy) -> None:
    assert Policy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy


def test_a_policy_of_an_earlier_checkpoint() -> None:
    stored = {
        "weight_bits": 4, "act_bits": 4, "first_bits": None, "last_bits": 8, "input_bits": 8, "pool_bits": 8,
        "norm_bits": 16, "branch": False, "weight_method": "dorefa", "act_method": "mpact",
        "per_channel": False, "rescale": "auto",
    }  # fmt: skip
    assert _types(Policy.from_dict(stored)) == {**RESNET8, "linear": "s8"}
    off = {k: 32 if k.endswith("_bits") else v for k, v in stored.items()}
    assert Policy.from_dict(off) == Policy.floating()


@pytest.mark.parametrize(
    ("policy", "floats"),
    [
        (Policy.floating(), True),
        (Policy(), False),
        (Policy(weight_bits=32, act_bits=32, input_bits=32, pool_bits=32, norm_bits=32), True),
        (Policy(weight_bits=32, act_bits=32, first="off", pool_bits=32, norm_bits=32), True),
        (Policy(weight_bits=32, act_bits=32, first="off", last="8/32", pool_bits=32, norm_bits=32), False),
        (Policy(weight_bits=32, act_bits=32, pool_bits=32, norm_bits=32), False),  # the image has 8 bits
    ],
)
def test_float_training_is_known(policy: Policy, floats: bool) -> None:
    assert policy.floats is floats


@pytest.mark.parametrize("rule", ["*=w32", "*=a32", "input=a32", "layer2=w32a32", "pool=a32", "conv1=w32a32"])
def test_partly_off_trains(rule: str) -> None:
    torch.manual_seed(0)
    net = build("resnet8", (8, 8, 1), 10)
    policy = Policy(**W4A4, weight_method="lsq", act_method="lsq", layers=_rules(rule))
    module = prepare(net, policy, (8, 8, 1)).train()
    module(torch.randn(4, 1, 8, 8)).square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())
    # what a step cannot reach asks for no gradient: processes that train together wait for every other one
    for name, parameter in module.named_parameters():
        found = parameter.grad is not None and bool(parameter.grad.isfinite().all())
        assert found is parameter.requires_grad, name
