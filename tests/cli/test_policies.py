"""Policies from the command line: what is printed before training, what is refused, what an export needs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from hwq.train import Rich, load
from tests.cli.conftest import Hwq, snapshot
from tests.cli.test_bad_input import Arguments, Case, Place, _recipe, _train, check


def _listed(p: Place) -> Arguments:
    return _recipe('model = "mlp"\n[data]\nname = "digits"\n[quant]\nact_list = [8, 8]\n')(p)


DIGITS = '[data]\nname = "digits"\n'
BAD = [
    Case("no bits", _train("-w", 0), 2, ("weight_bits", "1..16")),
    Case("too many bits", _train("-a", 17), 2, ("act_bits", "1..16")),
    Case("bits of a layer", _train("--layer", "stem=w17"), 2, ("'stem'", "weight_bits", "1..16")),
    Case("unknown method", _train("--weights", "lsqq"), 2, ("lsqq", "known", "dorefa")),
    Case("method of a layer", _train("--layer", "stem=weights:lsqq"), 2, ("'stem'", "lsqq", "known")),
    Case("missing layer", _train("--layer", "block9=w4"), 2, ("'block9'", "matches nothing", "block")),
    Case("no layer of that pattern", _train("--layer", "*.conv9=w4"), 2, ("'*.conv9'", "nothing", "conv1")),
    Case(
        "no activation there", _train("--layer", "linear=w4a4"), 2, ("'linear'", "act_bits", "only weights")
    ),
    Case("no spelling", _train("--layer", "linear"), 2, ("--layer", "PATTERN=w6a6")),
    Case("unknown word", _train("--first", "weighs"), 2, ("first", "weights, same, off", "weighs")),
    Case("list too short", _listed, 2, ("act_list has 2 entries", "takes 3: fc1, fc2, fc3")),
    Case("float with bits", _train("--float", "--no-branch"), 2, ("--float",)),
    Case("model of a wrong type", _recipe(f"model = 5\n{DIGITS}"), 2, ("recipe.toml", "model", "not 5")),
    Case("start of a wrong type", _recipe(f"init_from = true\n{DIGITS}"), 2, ("init_from", "not True")),
    Case("pretrained of a wrong type", _recipe(f"pretrained = 3\n{DIGITS}"), 2, ("pretrained", "not 3")),
    Case("float of a wrong type", _recipe(f'float = "no"\n{DIGITS}'), 2, ("float", "true or false")),
    Case("float and bits", _recipe(f"float = true\n{DIGITS}[quant]\n"), 2, ("float", "[quant]")),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_bad_policies(case: Case, tmp_path: Path, hwq: Hwq) -> None:
    arguments = case.build(Place(tmp=tmp_path, run=tmp_path))
    before = snapshot(tmp_path)
    check(hwq(*arguments), case)
    assert snapshot(tmp_path) == before


def test_a_policy_from_flags_to_the_export(tmp_path: Path, hwq: Hwq) -> None:
    out = tmp_path / "run"
    flags = ["--no-quantize-input", "-w", 4, "-a", 5, "--last", "weights"]
    flags += ["--layer", "fc2=w3,weights:lsq,per-channel"]
    done = hwq("train", "--model", "mlp", "--epochs", 1, *flags, "--out", out)
    assert done.code == 0, done.err
    first, *lines = done.out.splitlines()
    # 64 x 128 + 128 x 128 + 128 x 10 weights, 10 biases, two batch norms of 128
    assert first.startswith(
        "mlp: 26,378 parameters; digits: 1,442 training images of 8 x 8 x 1, 10 classes; "
    )
    assert first.endswith(
        "weights 4-bit dorefa x 1, 3-bit lsq x 1, 8-bit dorefa x 1; activations 5-bit mpact x 2, float x 1"
    )
    assert lines[:7] == [
        "tensor       of             type   method  scale    shape",
        "input_quant  input          float                   1 x 8 x 8",
        "fc1          weights        s4     dorefa  tensor   128 x 64",
        "relu1_quant  fc1 bn1 relu1  u5     mpact   tensor   128",
        "fc2          weights        s3     lsq     channel  128 x 128",
        "relu2_quant  fc2 bn2 relu2  u5     mpact   tensor   128",
        "fc3          weights        s8     dorefa  tensor   10 x 128",
    ]
    assert load(out).meta.policy.input_bits == 32

    refused = hwq("export", out)
    check(refused, Case("off", _train(), 2, ("not quantised (32 bits): input_quant", "--off-bits 16")))
    assert not (out / "hls").exists()
    assert hwq("export", out, "--off-bits", 16).code == 0
    assert hwq("evaluate", out).code == 0
    again = hwq("train", "--resume", "--out", out)
    assert again.code == 0, again.err


def test_float_training_prints_no_table(tmp_path: Path, hwq: Hwq) -> None:
    done = hwq("train", "--model", "mlp", "--epochs", 0, "--float", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0].endswith("10 classes; float")
    assert "tensor" not in done.out


def test_the_table_on_a_terminal(trained: Path) -> None:
    from hwq.quant import describe
    from hwq.train import restore

    stream = io.StringIO()
    Rich(Console(file=stream, force_terminal=True, width=100, color_system=None)).opening(
        "mlp", describe(restore(trained)[0])
    )
    text = stream.getvalue()
    assert text.startswith("mlp\n")
    assert [line.split()[0] for line in text.splitlines() if "_quant" in line or "weights" in line] == [
        "input_quant",
        "fc1",
        "relu1_quant",
        "fc2",
        "relu2_quant",
        "fc3",
    ]
