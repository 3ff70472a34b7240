"""`hwq inspect --scales`: exact in the CSV, readable on the terminal."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from hwq.cli.scales import as_csv
from hwq.data import DataSpec
from hwq.models import build
from hwq.quant import ActQuantizer, Policy, QuantConv2d, QuantLinear, calibrate, prepare
from hwq.quant.placing.scales import Scale, scales, tensors
from hwq.train import LAST, restore
from hwq.train.checkpoint import Meta, save_checkpoint
from tests.cli.conftest import Hwq

SHAPE = (8, 8, 1)
POLICIES = {
    "lsq": Policy(weight_method="lsq", act_method="lsq", weight_bits=3, act_bits=4),
    "dsq": Policy(weight_method="dsq", act_method="dsq", weight_bits=4, act_bits=4, per_channel=True),
    "mixed": Policy(weight_bits=5, first_bits=1, last_bits=32, weight_method="mse"),
}


def _run(folder: Path, model: str, policy: Policy, seed: int = 0) -> Path:
    """A checkpoint of a network whose quantiser parameters are anything but round."""
    torch.manual_seed(seed)
    net = prepare(build(model, SHAPE, 10), policy, SHAPE).eval()
    calibrate(net, [torch.randn(8, 1, 8, 8)])
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("_quant.raw"):
                parameter.mul_(1 + torch.rand(()) / 3)
    meta = Meta(
        model=model,
        image_shape=SHAPE,
        classes=tuple("0123456789"),
        data=DataSpec(name="digits"),
        mean=(0.3,),
        std=(0.4,),
        policy=policy,
        recipe={},
    )
    folder.mkdir()
    save_checkpoint(folder / LAST, meta, net, {})
    return folder


@pytest.fixture(scope="module", params=list(POLICIES))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = "digits" if request.param == "dsq" else "mlp"
    return _run(tmp_path_factory.mktemp("scales") / request.param, model, POLICIES[request.param])


def test_the_csv_reads_back_as_the_very_numbers(run: Path, tmp_path: Path, hwq: Hwq) -> None:
    path = tmp_path / "scales.csv"
    done = hwq("inspect", run / LAST, "--scales", "--csv", path)
    assert done.code == 0, done.err
    assert str(path) in done.out
    with path.open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    model, _ = restore(run)
    rows: dict[tuple[str, str], list[dict[str, str]]] = {}
    for line in lines:
        rows.setdefault((line["name"], line["kind"]), []).append(line)
    for name, module in model.named_modules():
        if isinstance(module, ActQuantizer):
            (line,) = rows.pop((name, "activation"))
            assert float(line["scale"]) == module.scale()
            assert float(line["clip"]) == module.scale() * module.type.hi
            _check_common(line, module)
            assert line["channel"] == line["low"] == line["high"] == line["used"] == line["saturated"] == ""
        if isinstance(module, QuantConv2d | QuantLinear) and not module.weight_quant.off:
            found = rows.pop((name, "weight"))
            codes, scale = module.weight_quant.codes(module.weight)
            assert [float(line["scale"]) for line in found] == scale.reshape(-1).tolist()
            for channel, line in enumerate(found):
                whole = scale.dim() == 0
                assert line["channel"] == ("" if whole else str(channel))
                weight = module.weight.detach() if whole else module.weight.detach()[channel]
                own = codes if whole else codes[channel]
                assert (float(line["low"]), float(line["high"])) == (float(weight.min()), float(weight.max()))
                levels = 2 if line["bits"] == "1" else 2 * module.weight_quant.type.hi + 1
                assert float(line["used"]) == len(own.unique()) / levels
                _check_common(line, module.weight_quant)
    assert rows == {}


def _check_common(line: dict[str, str], quantizer: nn.Module) -> None:
    assert line["method"] == quantizer.method
    assert (line["bits"], line["type"]) == (str(quantizer.bits), str(quantizer.type))
    if line["method"] == "dsq":
        assert float(line["alpha"]) == float(quantizer.alpha().detach())  # type: ignore[operator]
        assert 0 < float(line["alpha"]) <= 0.5
    else:
        assert line["alpha"] == ""


def test_saturated_weights_are_those_that_clamping_moved() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2, bias=False))
    model = prepare(net, Policy(weight_bits=3, weight_method="lsq", per_channel=True), SHAPE).eval()
    layer = next(m for m in model.modules() if isinstance(m, QuantLinear))
    with torch.no_grad():
        layer.weight_quant.raw.fill_(0.25)  # type: ignore[operator, union-attr]
        layer.weight.zero_()
        # clip at 0.75; 0.875 is the first that rounds to 4 steps, -0.875 goes up to -3
        layer.weight[0, :6] = torch.tensor([0.75, 0.8749, 0.875, 5.0, -0.875, -0.876])
        layer.weight[1, :2] = torch.tensor([0.25, -0.5])
    first, second = (row for row in scales(model) if row.kind == "weight")
    assert (first.saturated, second.saturated) == (3 / 64, 0.0)
    assert (first.clip, first.low, first.high) == (0.75, float(torch.tensor(-0.876)), 5.0)
    assert (first.used, second.used) == (3 / 7, 3 / 7)


def test_any_float_survives_the_csv() -> None:
    values = [5e-324, 0.1, 1 / 3, 1e308, 2**-1074 * 3, 0.30000000000000004]
    rows = [
        Scale(name='a,"b\n', kind="weight", method="lsq", bits=4, type="s4", channel=i, scale=v, clip=v * 0.7)
        for i, v in enumerate(values)
    ]
    lines = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert [float(line["scale"]) for line in lines] == values
    assert [float(line["clip"]) for line in lines] == [v * 0.7 for v in values]
    assert {line["name"] for line in lines} == {'a,"b\n'}


def test_the_table(run: Path, hwq: Hwq) -> None:
    done = hwq("inspect", run, "--scales")
    assert done.code == 0, done.err
    model, meta = restore(run)
    rows = scales(model)
    for group in tensors(rows):
        line = next(text for text in done.out.splitlines() if re.search(rf" {group[0].name} ", text))
        assert f" {group[0].method} " in line
        low, high = (f"{pick(row.scale for row in group):.4g}" for pick in (min, max))
        assert (f" {low} " if low == high else f"{low}..{high}") in line
        if group[0].alpha is not None:
            assert f" {group[0].alpha:.4g} " in line
    assert ("alpha" in done.out) is (meta.policy.weight_method == "dsq")
    said = done.out.splitlines()[-1]
    assert said.startswith(f"{len(rows)} scales of {len(tensors(rows))} tensors")
    assert said.endswith("; 1 tensors are floats") is (meta.policy.last_bits == 32)


def test_json(run: Path, hwq: Hwq) -> None:
    found = json.loads(hwq("inspect", run, "--scales", "--json").out)
    assert [Scale(**row) for row in found] == scales(restore(run)[0])


def test_a_float_run_is_told_kindly(tmp_path: Path, hwq: Hwq) -> None:
    run = _run(tmp_path / "run", "mlp", Policy.floating())
    done = hwq("inspect", run, "--scales", "--csv", tmp_path / "s.csv")
    assert (done.code, done.err) == (0, "")
    assert "a float network; nothing is quantised" in done.out
    assert (tmp_path / "s.csv").read_text().count("\n") == 1  # the heading


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda run, project: [run / "nowhere", "--scales"], "no such file or folder"),
        (lambda run, project: [project, "--scales"], "reads the run folder or checkpoint"),
        (lambda run, project: [run, "--csv", run / "s.csv"], "give --scales, too"),
        (lambda run, project: [run, "--scales", "--csv", run / "no" / "s.csv"], "s.csv"),
    ],
)
def test_mistakes(make: object, said: str, trained: Path, exported: Path, hwq: Hwq) -> None:
    done = hwq("inspect", *make(trained, exported / "hls"))  # type: ignore[operator]
    assert done.code in (2, 4)
    assert len(done.err.strip().splitlines()) == 1
    assert said in done.err
    assert not (trained / "s.csv").exists()


def test_folding_of_a_project(exported: Path, hwq: Hwq) -> None:
    folding = json.loads((exported / "hls" / "project.json").read_text())["folding"]
    assert folding
    done = hwq("inspect", exported / "hls")
    for op, (pe, simd) in folding.items():
        line = next(text for text in done.out.splitlines() if f" {op} " in text)
        assert f" {pe}, {simd} " in line
    ops = json.loads(hwq("inspect", exported / "hls", "--json").out)["ops"]
    assert {op["name"]: op["folding"] for op in ops if op["folding"]} == folding
    assert "PE, SIMD" not in hwq("inspect", exported).out
