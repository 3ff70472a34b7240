"""Policies on their way: recipe files, flags, checkpoints, and the recipes in examples/."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from hwq.data import DataSpec
from hwq.errors import InputError
from hwq.models import build
from hwq.quant import LayerRule, Policy, Row, describe, prepare, summary
from hwq.train import Meta, Recipe, load, read_recipe, recipe_from_dict
from hwq.train.checkpoint import save_checkpoint
from hwq.train.fixedpoint import FixedPoint
from hwq.train.flags import calibration_recipe, recipe_from_flags
from tests.checkpoints import rewrite
from tests.quant.test_policy import CFG, POLICIES, toynet_types

EXAMPLES = Path(__file__).parents[2] / "examples"
DIGITS = DataSpec(name="digits")
FULL = Policy(
    weight_bits=4,
    first="8/8",
    last="off",
    input_bits=7,
    weight_list=(4, 5, 6),
    act_list=(8, 32, 7),
    layers=(
        LayerRule(pattern="fc2", weight_bits=3, weight_method="lsq", per_channel=True),
        LayerRule(pattern='a "quoted".*\\', act_bits=32),
    ),
)


# -- recipe files


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(POLICIES)
def test_a_recipe_comes_back_from_its_toml(tmp_path: Path, policy: Policy) -> None:
    recipe = Recipe(model="mlp", data=DIGITS, policy=policy)
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.to_toml(), encoding="utf-8", newline="")
    back = read_recipe(path)
    assert back == recipe
    assert [r.pattern for r in back.policy.layers] == [r.pattern for r in policy.layers]
    assert recipe_from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_the_section_as_people_write_it() -> None:
    quant = {
        "weight_list": [32, 8, 8],
        "first": "weights",
        "layers": {"fc1": {"weight_bits": 6}, "fc*": {"act_bits": 5, "act_method": "pact"}},
    }
    policy = recipe_from_dict({"model": "mlp", "data": {"name": "digits"}, "quant": quant}).policy
    assert policy == Policy(
        weight_list=(32, 8, 8),
        first="weights",
        layers=(
            LayerRule(pattern="fc1", weight_bits=6),
            LayerRule(pattern="fc*", act_bits=5, act_method="pact"),
        ),
    )


@pytest.mark.parametrize(
    ("quant", "says"),
    [
        ({"weight_list": 8}, "[quant] weight_list must be a list of whole numbers, not 8"),
        ({"act_list": [8, "8"]}, "[quant] act_list must be a list of whole numbers"),
        ({"act_list": [8.0]}, "[quant] act_list must be a list of whole numbers"),
        ({"weight_list": [8, 17]}, "entry 2 of weight_list must be 1..16"),
        ({"layers": [1]}, "must be a table: [quant.layers]"),
        ({"layers": {"conv1": 6}}, 'takes "conv1" = { weight_bits = 6 }'),
        ({"layers": {"conv1": {"bits": 6}}}, "[quant.layers.'conv1'] has no key 'bits'; known: act_bits"),
        ({"layers": {"conv1": {"pattern": "x"}}}, 'takes "conv1" = { weight_bits = 6 }'),
        (
            {"layers": {"conv1": {"weight_bits": "6"}}},
            "[quant.layers.'conv1'] weight_bits must be int, not '6'",
        ),
        ({"layers": {"conv1": {}}}, "'conv1' sets nothing"),
        ({"first": 8}, "[quant] first must be str, not 8"),
        ({"first": "8-8"}, "first must be weights, same, off, or W/A"),
    ],
)
def test_sections_that_cannot_be(quant: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        recipe_from_dict({"model": "mlp", "data": {"name": "digits"}, "quant": quant})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


# -- flags


@pytest.mark.parametrize(
    ("given_", "want"),
    [
        ({"first": "8/8", "last": "off"}, Policy(first="8/8", last="off")),
        ({"branch": True, "per_channel": True}, Policy(branch=True, per_channel=True)),
        ({"quantize_input": False}, Policy(input_bits=32)),
        ({"quantize_input": True}, Policy()),
        ({"layer": ("fc1=w6a6",)}, Policy(layers=(LayerRule(pattern="fc1", weight_bits=6, act_bits=6),))),
        (
            {"layer": ("fc1=w6,per-channel", "*=a5,weights:lsq,acts:pact")},
            Policy(
                layers=(
                    LayerRule(pattern="fc1", weight_bits=6, per_channel=True),
                    LayerRule(pattern="*", act_bits=5, weight_method="lsq", act_method="pact"),
                )
            ),
        ),
    ],
)
def test_flags(given_: dict[str, Any], want: Policy) -> None:
    assert recipe_from_flags(None, {"model": "mlp", **given_}).policy == want


RULED = (LayerRule(pattern="fc1", weight_bits=6), LayerRule(pattern="fc2", weight_bits=5, act_bits=5))


def _wide(pattern: str, bits: int) -> LayerRule:
    return LayerRule(pattern=pattern, weight_bits=bits)


def _image(**keys: Any) -> LayerRule:
    return LayerRule(pattern="input", **keys)


@pytest.mark.parametrize(
    ("start", "given_", "changes"),
    [
        # a flag takes back what the recipe says elsewhere about the same tensors
        ({"weight_list": (3, 3, 3)}, {"weight_bits": 4}, {"weight_bits": 4, "weight_list": None}),
        ({"act_list": (3, 3, 3)}, {"act_bits": 4}, {"act_bits": 4, "act_list": None}),
        ({"weight_list": (3, 3, 3)}, {"act_bits": 4}, {"act_bits": 4}),
        ({"first_bits": 3}, {"first": "8/8"}, {"first": "8/8", "first_bits": None}),
        ({"input_bits": 3}, {"first": "8/8"}, {"first": "8/8", "input_bits": None}),
        ({"last_bits": 3, "input_bits": 3}, {"last": "same"}, {"last": "same", "last_bits": None}),
        ({"first": "8/8"}, {"first_bits": 3}, {"first_bits": 3}),
        ({"first": "8/8"}, {"first": "same", "first_bits": 3}, {"first": "same", "first_bits": 3}),
        ({"branch": True}, {"branch": False}, {"branch": False}),
        # the image
        ({"first": "off"}, {"quantize_input": True}, {"input_bits": 8}),
        ({"act_list": (32, 4, 4)}, {"quantize_input": True}, {"input_bits": 8}),
        ({"act_list": (6, 4, 4)}, {"quantize_input": True}, {}),
        ({"input_bits": 5}, {"quantize_input": True}, {}),
        ({"input_bits": 5}, {"quantize_input": False}, {"input_bits": 32}),
        ({"layers": (_image(act_bits=32),)}, {"quantize_input": True}, {"layers": ()}),
        ({"layers": (_image(act_bits=9),)}, {"quantize_input": False}, {"layers": (), "input_bits": 32}),
        (
            {"layers": (_image(act_bits=9, act_method="lsq"),)},
            {"quantize_input": False},
            {"layers": (_image(act_method="lsq"),), "input_bits": 32},
        ),
        ({"layers": (_image(act_bits=9),)}, {"act_bits": 4}, {"act_bits": 4}),
        # rules of flags come later; one of the same name replaces
        ({"layers": RULED}, {"layer": ("fc3=w2",)}, {"layers": (*RULED, _wide("fc3", 2))}),
        ({"layers": RULED}, {"layer": ("fc1=w2",)}, {"layers": (RULED[1], _wide("fc1", 2))}),
        ({"layers": RULED}, {"layer": ("fc3=w2", "fc3=w4")}, {"layers": (*RULED, _wide("fc3", 4))}),
    ],
)
def test_flags_over_a_recipe(
    tmp_path: Path, start: dict[str, Any], given_: dict[str, Any], changes: dict[str, Any]
) -> None:
    recipe = Recipe(model="mlp", data=DIGITS, policy=Policy(**start))
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.to_toml(), encoding="utf-8")
    assert recipe_from_flags(str(path), given_).policy == replace(recipe.policy, **changes)


@pytest.mark.parametrize(
    "flag", [{"first": "off"}, {"layer": ("x=w4",)}, {"quantize_input": True}, {"branch": False}]
)
def test_float_training_takes_no_bits(flag: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="--float trains without quantisation"):
        recipe_from_flags(None, {"floating": True, **flag})


def test_a_calibration_has_no_fixed_point_phase(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(Recipe(model="mlp", data=DIGITS, fixed=FixedPoint(format="16,8")).to_toml())
    assert recipe_from_flags(str(path), {}).fixed is not None
    assert calibration_recipe(tmp_path / "float.pt", str(path), {}).fixed is None


# -- checkpoints


def _save(path: Path, policy: Policy) -> Meta:
    model = build("mlp", (8, 8, 1), 10)
    meta = Meta(
        model="mlp",
        image_shape=(8, 8, 1),
        classes=tuple("0123456789"),
        data=DIGITS,
        mean=(0.5,),
        std=(0.5,),
        policy=policy,
        recipe=Recipe(model="mlp", data=DIGITS, policy=policy).to_dict(),
    )
    save_checkpoint(path, meta, model, {})
    return meta


def test_a_checkpoint_keeps_the_policy_and_its_recipe(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    meta = _save(path, FULL)
    assert load(path).meta.policy == FULL
    assert recipe_from_dict(load(path).meta.recipe).policy == FULL
    assert load(path).meta.recipe == meta.recipe


def test_a_checkpoint_written_before_these_keys_existed(tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    _save(path, Policy())
    keys = ("weight_bits", "act_bits", "first_bits", "last_bits", "input_bits", "pool_bits", "norm_bits")
    policy: dict[str, Any] = {
        **dict.fromkeys(keys, 5),
        "first_bits": None,
        "branch": True,
        "weight_method": "uniform",
        "act_method": "pact",
        "per_channel": True,
        "rescale": "max",
    }
    rewrite(path, header=lambda about: about.update(policy=policy), version=1)
    assert load(path).meta.policy == Policy(
        weight_bits=5,
        act_bits=5,
        last_bits=5,
        input_bits=5,
        pool_bits=5,
        norm_bits=5,
        branch=True,
        weight_method="uniform",
        act_method="pact",
        per_channel=True,
        rescale="max",
    )
    policy |= {"layers": {"fc1": {"weight_bits": 99}}}
    rewrite(path, header=lambda about: about.update(policy=policy), version=1)
    with pytest.raises(InputError, match=r"weight_bits must be 1\.\.16"):
        load(path)


# -- the recipes of examples/

TABLES = {
    "digits-w4a4.toml": (
        "weights 4-bit dorefa x 7, 8-bit dorefa x 2",
        "activations 4-bit mpact x 7, 8-bit uniform x 1, 8-bit mpact x 1",
    ),
    "mobilenet_v2-lsq-w4a4-8-8.toml": (
        "weights 4-bit lsq x 51, 8-bit lsq x 2",
        "activations 4-bit lsq x 51, 8-bit lsq x 12, 8-bit uniform x 1",
    ),
    "mobilenetv2-w8a8.toml": (
        "weights 8-bit dorefa x 68",
        "activations 8-bit mpact x 54, 8-bit uniform x 1",
    ),
    "own_network/recipe.toml": (
        "weights 4-bit dorefa x 4, 8-bit dorefa x 2",
        "activations 4-bit mpact x 5, 8-bit uniform x 1, 8-bit mpact x 1",
    ),
    "resnet20-distilled-lsq-w4a4-8-8.toml": (
        "weights 4-bit lsq x 18, 8-bit lsq x 2",
        "activations 4-bit lsq x 19, 8-bit uniform x 1, 8-bit lsq x 1",
    ),
    "resnet20-lsq-w4a4-8-8.toml": (
        "weights 4-bit lsq x 18, 8-bit lsq x 2",
        "activations 4-bit lsq x 19, 8-bit uniform x 1, 8-bit lsq x 1",
    ),
    "resnet18-lsq-w4a4-8-8.toml": (
        "weights 4-bit lsq x 19, 8-bit lsq x 2",
        "activations 4-bit lsq x 16, 8-bit lsq x 7, 8-bit uniform x 1",
    ),
    "resnet18-lsq-w4a4-off.toml": (
        "weights 4-bit lsq x 19, float x 2",
        "activations 4-bit lsq x 16, 8-bit lsq x 6, float x 2",
    ),
    "resnet18-lsq-w4a4-same.toml": (
        "weights 4-bit lsq x 21",
        "activations 4-bit lsq x 17, 8-bit lsq x 6, 4-bit uniform x 1",
    ),
    "resnet18-lsq-w4a4-weights.toml": (
        "weights 4-bit lsq x 19, 8-bit lsq x 2",
        "activations 4-bit lsq x 17, 8-bit lsq x 6, 4-bit uniform x 1",
    ),
    "resnet20-w8a8.toml": (
        "weights 8-bit dorefa x 20",
        "activations 8-bit mpact x 20, 8-bit uniform x 1",
    ),
    "resnet50-lsq-w4a4-8-8.toml": (
        "weights 4-bit lsq x 52, 8-bit lsq x 2",
        "activations 4-bit lsq x 48, 8-bit lsq x 14, 8-bit uniform x 1",
    ),
    "toynet-cfg-1.toml": (
        "weights 8-bit dorefa x 32, 16-bit dorefa x 2, float x 1",
        "activations 8-bit mpact x 32, float x 4, 16-bit mpact x 2",
    ),
    "toynet-cfg-2.toml": (
        "weights 6-bit dorefa x 19, 8-bit dorefa x 13, 16-bit dorefa x 2, float x 1",
        "activations 8-bit mpact x 32, float x 4, 16-bit mpact x 2",
    ),
    "toynet-cfg-3.toml": (
        "weights 6-bit dorefa x 29, 8-bit dorefa x 3, 16-bit dorefa x 2, float x 1",
        "activations 6-bit mpact x 29, float x 4, 8-bit mpact x 3, 16-bit mpact x 2",
    ),
    "toynet-w8a8.toml": (
        "weights 8-bit dorefa x 34, 16-bit dorefa x 1",
        "activations 8-bit mpact x 35, 16-bit mpact x 2, 8-bit uniform x 1",
    ),
}
"""What `hwq train` says in its opening line."""


@cache
def _rows(name: str) -> list[Row]:
    recipe = read_recipe(EXAMPLES / name)
    shape, classes = {"digits": ((8, 8, 1), 10), "imagenet": ((64, 64, 3), 1000)}.get(
        recipe.data.name, ((32, 32, 3), 10)
    )
    return describe(prepare(build(recipe.model, shape, classes), recipe.policy, shape))


def test_every_example_is_here() -> None:
    assert {str(p.relative_to(EXAMPLES)) for p in EXAMPLES.rglob("*.toml")} == set(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_what_the_examples_give(name: str) -> None:
    rows = _rows(name)
    assert summary(rows) == "; ".join(TABLES[name])
    types = {r.name: r.type for r in rows}
    if "cfg" in name:
        assert types == toynet_types(*CFG[int(name.removesuffix(".toml")[-1])])
    if "lsq" in name:
        words = {"weights": ("s8", "s4", "s8", "u4"), "8-8": ("s8", "s8", "s8", "u8")}
        words |= {"same": ("s4", "s4", "s4", "u4"), "off": ("float",) * 4}
        sums = {r.type for r in rows if r.name.endswith("_residual_quant")}
        assert sums == (set() if "resnet20" in name else {"u8", "s8"} if "mobilenet" in name else {"u8"})
        rows = [r for r in rows if not r.name.endswith("_residual_quant")]
        weights, acts = ([r.type for r in rows if r.kind == kind] for kind in ("weight", "activation"))
        (want,) = (edges for word, edges in words.items() if name.endswith(f"-w4a4-{word}.toml"))
        # first layer, image, last layer, what it reads
        assert (weights[0], acts[0], weights[-1], acts[-1]) == want
        assert {*weights[1:-1], *acts[1:-1]} <= {"s4", "u4"}


@pytest.mark.parametrize("name", [n for n in TABLES if "cfg" in n or "lsq" in n])
def test_the_examples_name_their_own_command(name: str) -> None:
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    assert f"hwq train examples/{name} " in text
    assert ("--off-bits" in text) is any(r.type == "float" for r in _rows(name))
