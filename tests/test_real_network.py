"""A trained ResNet-20 of somebody else, from its checkpoint to C++ on real photographs."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hwq.cosim.build import Build
from hwq.cosim.manifest import read_manifest
from hwq.cosim.project import Batch, verify_project, write_project
from hwq.fixed import parse_format
from hwq.lower import Formats, lower
from hwq.models import build
from hwq.passes import run_passes
from hwq.quant import Policy, calibrate, estimate_norms, prepare
from hwq.train.checkpoint import fill, load_weights

DATA = Path(__file__).parents[2] / "shared" / "data"
CHECKPOINT, ARCHIVE = DATA / "resnet20-cifar10jpeg-fp32.pt", DATA / "cifar10-jpeg.tar.xz"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
IMAGES = 300


def _photographs() -> tuple[np.ndarray, np.ndarray]:
    """Every hundredth file or so of the archive, of either split: pixels and labels."""
    pixels, labels = [], []
    with tarfile.open(ARCHIVE, "r|xz") as archive:
        for number, member in enumerate(archive):
            if len(pixels) == IMAGES:
                break
            stream = archive.extractfile(member) if number % 97 == 0 and member.isfile() else None
            if stream is not None:
                pixels.append(np.asarray(Image.open(io.BytesIO(stream.read())).convert("RGB")))
                labels.append(CLASSES.index(Path(member.name).parent.name))
    return np.stack(pixels), np.array(labels, dtype=np.int64)


@pytest.mark.skipif(not (CHECKPOINT.is_file() and ARCHIVE.is_file()), reason="needs ../shared/data")
def test_a_trained_network_reaches_cpp_bit_for_bit(tmp_path: Path) -> None:
    pixels, labels = _photographs()
    model = build("resnet20", (32, 32, 3), len(CLASSES))
    weights, _ = load_weights(CHECKPOINT, model)
    fill(model, weights, CHECKPOINT, "resnet20")
    prepared = prepare(model, Policy(weight_bits=8, act_bits=8), (32, 32, 3))
    floats = (torch.from_numpy(pixels).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    batches = [floats.permute(0, 3, 1, 2)[i : i + 100].contiguous() for i in range(0, IMAGES, 100)]
    estimate_norms(prepared, batches, floating=True)
    calibrate(prepared, batches)
    estimate_norms(prepared, batches)
    prepared.eval()
    formats = Formats(body=parse_format("32,10"))
    lowered = lower(prepared, shape=(3, 32, 32), mean=MEAN, std=STD, formats=formats)
    folder = tmp_path / "hls"
    write_project(run_passes(lowered.graph), folder, golden=pixels[:1])
    report = verify_project(
        read_manifest(folder), Build.NATIVE, Batch(pixels=pixels, labels=labels, what="photographs")
    )
    assert report.verdict.mismatches == 0
    # chance is 10%: the integers are still that network
    assert report.accuracy["integer"] == report.accuracy["C++"]
    assert (report.accuracy["integer"] or 0) > 75
