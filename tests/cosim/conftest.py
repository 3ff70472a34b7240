"""A small run and its project, and the command line run in this process."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from hwq.cli import main
from hwq.data import DataSpec, load_split, normalisation
from hwq.models import build
from hwq.quant import Policy, calibrate, estimate_norms, prepare
from hwq.train.checkpoint import Meta, save_checkpoint
from hwq.train.restore import Normalise


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the digits network: not trained, but calibrated, so that codes use their ranges."""
    torch.manual_seed(0)
    spec = DataSpec(name="digits")
    images = load_split(spec, "train")
    mean, std = normalisation(spec)
    model = build("digits", images.shape, len(images.classes))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    policy = Policy(weight_bits=4, act_bits=4)
    prepared = prepare(model, policy, images.shape)
    batch = Normalise(mean, std, "cpu")(torch.from_numpy(images.head(200).pixels))
    estimate_norms(prepared, [batch])
    calibrate(prepared, [batch])
    run = tmp_path_factory.mktemp("run")
    meta = Meta(
        model="digits",
        image_shape=images.shape,
        classes=images.classes,
        data=spec,
        mean=mean,
        std=std,
        policy=policy,
        recipe={},
        accuracy={"float": 1.5, "fake_quant": 2.5},
    )
    save_checkpoint(run / "checkpoint.safetensors", meta, prepared, {})
    return run


@pytest.fixture(scope="session")
def exported(run_folder: Path) -> Path:
    """RUN/hls of `run_folder`, as `hwq export` writes it. Copy it before changing anything."""
    done = hwq("export", str(run_folder))
    assert done.returncode == 0, done.stderr
    return run_folder / "hls"


@pytest.fixture
def project(exported: Path, tmp_path: Path) -> Path:
    """A copy of `exported` of one's own."""
    return Path(shutil.copytree(exported, tmp_path / "hls"))


def hwq(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line as `python -m hwq` runs it, in this process: torch need not load each time.

    An exception that `main` lets through (a traceback for the user) ends the test.
    """
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["hwq", *arguments])
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
