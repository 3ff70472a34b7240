"""Every format of the constants through the commands: export, compile, and compare every op with Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwq.data import DataSpec, load_split, normalisation
from hwq.ir import Requantize
from hwq.models import build, code_of
from hwq.quant import Policy, calibrate, prepare
from hwq.serde import load
from hwq.train.checkpoint import Meta, save_checkpoint
from hwq.train.restore import Normalise
from tests.cosim.conftest import hwq

NET = """
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu = nn.ReLU()

    def forward(self, x):
        y = self.conv2(self.relu(self.bn1(self.conv1(x))))
        return self.relu(self.bn2(y) + x)

def make(classes=10, channels=1):
    stem = [nn.Conv2d(channels, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU()]
    return nn.Sequential(*stem, Block(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, classes))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated run of a network so small that its C++ compiles in seconds."""
    import torch
    from torch import nn

    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("run")
    (folder / "net.py").write_text(NET)
    spec = DataSpec(name="digits")
    images = load_split(spec, "train")
    mean, std = normalisation(spec)
    name, policy = f"{folder / 'net.py'}:make", Policy(weight_bits=8, act_bits=8)
    model = build(name, images.shape, 10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.1, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    prepared = prepare(model, policy, images.shape).eval()
    calibrate(prepared, [Normalise(mean, std, "cpu")(torch.from_numpy(images.head(100).pixels))])
    meta = Meta(
        model=name,
        image_shape=images.shape,
        classes=images.classes,
        data=spec,
        mean=mean,
        std=std,
        policy=policy,
        recipe={},
        code=code_of(name),
    )
    save_checkpoint(folder / "checkpoint.safetensors", meta, prepared, {})
    return folder


MIXED = ("3=16,auto", "*conv1=12,channel", "3.conv2=shift", "4=20,-3")


@pytest.mark.parametrize(
    ("options", "builds", "formats"),
    [
        (["--fixed", "16,auto", "--round", "trn"], ["native"], {"16,auto"}),
        (
            ["--fixed", "16,8,TRN,WRAP", *(word for text in MIXED for word in ("--layer", text))],
            ["ap", "native"],
            {"16,8,TRN,WRAP", "12,channel", "shift", "20,-3"},
        ),
    ],
    ids=["auto", "mixed"],
)
def test_every_format(
    run: Path, tmp_path: Path, options: list[str], builds: list[str], formats: set[str]
) -> None:
    out = tmp_path / "hls"
    done = hwq("export", str(run), "--out", str(out), "--allow-lossy", *options)
    assert done.returncode == 0, done.stderr
    graph = load(out)
    body = [op for op in graph if isinstance(op, Requantize)][1:-1]
    assert {op.requant.terms[0].format_name for op in body} == formats
    if "16,auto" in formats:  # multipliers of an 8-bit network lie far below 1
        assert min(int(op.requant.terms[0].integer.min()) for op in body) < 0
    for form in formats:
        assert form in done.stdout
    layers = [text for text in MIXED if "--layer" in options]
    assert json.loads((out / "project.json").read_text())["layers"] == layers
    assert all(f"`{text}`" in (out / "README.md").read_text() for text in layers)
    for build_ in builds:
        done = hwq("simulate", str(out), "--build", build_, "--images", "40")
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"values of {len(graph.ops)} ops equal, 0 mismatches" in done.stdout
    page = (out / "report.html").read_text()
    assert all(text in page for text in (*layers, *formats))
    verdict = json.loads((out / f"verdict-{builds[-1]}.json").read_text())
    assert (verdict["samples"], verdict["mismatches"]) == (40, 0)


def test_the_constants_reach_the_tables(run: Path, tmp_path: Path) -> None:
    """A changed override changes the C++ of that layer and of no other."""
    tables = []
    for text in ("3.conv1=20,-3", "3.conv1=18,-3"):
        out = tmp_path / text.replace(",", "_")
        assert hwq("export", str(run), "--out", str(out), "--allow-lossy", "--layer", text).returncode == 0
        found = {p.name: p.read_text() for p in (out / "firmware" / "ops").glob("*.h")}
        tables.append(found)
    changed = {name for name in tables[0] if tables[0][name] != tables[1][name]}
    assert len(changed) == 1
    assert "3_relu" in changed.pop()
