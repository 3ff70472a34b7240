"""C simulation, measured: export and compile CPU-seconds, images per CPU-second, beside hls4ml.

    python -m benchmarks.hls [--images-ap 8] [--images-native 256] [--no-hls4ml] [--out TABLE.md]

Networks: ResNet-20 for 32x32x3 (random weights: the speed does not depend on them) and a small CNN. hls4ml
refuses the quantised ResNet-20 as exported, so it gets both from plain torch, `ap_fixed<16,6>` throughout:
the speeds compare, the outputs do not.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hwq.cosim.build import Build
from hwq.cosim.library import Library
from hwq.cosim.manifest import read_manifest
from hwq.cosim.project import compile_project, write_project
from hwq.cosim.taps import TapPlan
from hwq.fixed import parse_format
from hwq.ir import Conv2d, Graph, Linear
from hwq.lower import Formats, lower
from hwq.models.resnet import ResNet
from hwq.passes import run_passes
from hwq.quant import Policy, calibrate, prepare

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Row:
    network: str
    tool: str
    macs: int
    export: float
    compile: float
    rate: float


class Clock:
    """CPU-seconds of this process and its finished children."""

    seconds = 0.0


@contextmanager
def cpu() -> Iterator[Clock]:
    def now() -> float:
        own, children = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime

    clock, before = Clock(), now()
    yield clock
    clock.seconds = now() - before


def resnet20() -> nn.Module:
    """With shortcuts by convolution and a fixed pool: hls4ml takes neither slices nor adaptive pools."""
    model = ResNet(20, option="B")
    model.pool = nn.AvgPool2d(8)  # type: ignore[assignment]
    return model.eval()


def small_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, 10),
    ).eval()


def lowered(model: nn.Module, shape: Shape, name: str) -> Graph:
    height, width, channels = shape
    module = prepare(model.eval(), Policy(), shape)
    calibrate(module, [torch.randn(16, channels, height, width)])
    formats = Formats(body=parse_format("32,10"))
    zeros, ones = [0.5] * channels, [0.25] * channels
    sizes = (channels, height, width)
    graph = lower(
        module, shape=sizes, mean=zeros, std=ones, formats=formats, allow_lossy=True, name=name
    ).graph
    return run_passes(graph)


def measure_hwq(name: str, graph: Graph, counts: dict[Build, int]) -> Iterator[Row]:
    pixels = np.random.default_rng(0).integers(
        0, 256, (max(counts.values()), *graph.input.out.shape), np.uint8
    )
    macs = sum(op.macs for op in graph if isinstance(op, Conv2d | Linear))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        project = Path(folder) / "hls"
        with cpu() as export:
            write_project(graph, project, golden=pixels[:4])
        for kind, count in counts.items():
            built = compile_project(read_manifest(project), kind)
            plan = TapPlan.of(graph)
            size = min(count, 32)
            # the worker's own time: it is waited for when the library closes
            with cpu() as idle, Library(built.library, plan, capacity=size):
                pass
            with cpu() as run, Library(built.library, plan, capacity=size, timeout=None) as library:
                for first in range(0, count, size):
                    library.run(pixels[first : first + size])
            rate = count / max(1e-9, run.seconds - idle.seconds)
            yield Row(name, f"hwq {kind.value}", macs, export.seconds, built.seconds, rate)


def measure_hls4ml(name: str, model: nn.Module, shape: Shape, macs: int, count: int) -> Row:
    """What hls4ml prints about every layer goes nowhere."""
    import hls4ml

    height, width, channels = shape
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        with cpu() as export:
            config = hls4ml.utils.config_from_pytorch_model(
                model, (channels, height, width), granularity="name", default_precision="ap_fixed<16,6>"
            )
            converted = hls4ml.converters.convert_from_pytorch_model(
                model, output_dir=folder, hls_config=config, io_type="io_stream", backend="Vitis"
            )
        with cpu() as compiling:
            converted.compile()
        images = np.random.default_rng(0).random((count, height, width, channels), dtype=np.float32)
        converted.predict(images[:2])
        with cpu() as run:
            converted.predict(images)
    tool = f"hls4ml {hls4ml.__version__} io_stream"
    return Row(name, tool, macs, export.seconds, compiling.seconds, count / run.seconds)


def table(rows: list[Row]) -> str:
    lines = [
        "| network | tool | MMAC an image | export, CPU-s | compile, CPU-s | images / CPU-s |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        figures = f"{row.macs / 1e6:.2f} | {row.export:.1f} | {row.compile:.1f} | {row.rate:.3g}"
        lines.append(f"| {row.network} | {row.tool} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images-ap", type=int, default=8)
    parser.add_argument("--images-native", type=int, default=256)
    parser.add_argument("--no-hls4ml", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    counts = {Build.NATIVE: options.images_native, Build.AP: options.images_ap}
    started = time.perf_counter()
    rows: list[Row] = []
    more = {Build.NATIVE: 20_000, Build.AP: 400}
    for name, model, shape, images, peer in (
        ("ResNet-20", resnet20(), (32, 32, 3), counts, 4),
        ("small CNN", small_cnn(), (8, 8, 1), more, 400),
    ):
        rows += measure_hwq(name, lowered(model, shape, name.replace(" ", "_")), images)
        if not options.no_hls4ml:
            rows.append(measure_hls4ml(name, model, shape, rows[-1].macs, peer))
    text = table(rows)
    print(text)
    print(f"\ntook {time.perf_counter() - started:.0f} s")
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
