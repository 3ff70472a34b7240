"""The exact integer simulator beside onnxruntime and float torch: ResNet-20, CIFAR shape, one thread.

    python benchmarks/simulate.py [--images 512] [--rounds 3]

Prints a markdown table of images per CPU-second, best of the rounds; the peers take turns, so a busy
machine slows them alike. Weights are random: none of the speeds depends on them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from hwq.fixed import parse_format
from hwq.ir import Graph
from hwq.lower import Formats, lower
from hwq.models import build
from hwq.quant import Policy, calibrate, prepare
from hwq.simulate import Simulator

SHAPE = (32, 32, 3)
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
BATCH = 64
Run = Callable[[], object]


def _floats(pixels: np.ndarray) -> torch.Tensor:
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return (x - 0.5) / 0.25


def lowered(model: torch.nn.Module, bits: int, fixed: str, pixels: np.ndarray) -> Graph:
    """ResNet-20 at W`bits`A`bits`, ranges from a few images."""
    policy = Policy(weight_bits=bits, act_bits=bits, first_bits=8, last_bits=8)
    ready = prepare(model, policy, SHAPE).eval()
    calibrate(ready, [_floats(pixels[:32])])
    form = Formats(body=parse_format(fixed))
    return lower(ready, shape=(3, 32, 32), mean=MEAN, std=STD, formats=form, allow_lossy=True).graph


def simulator(graph: Graph, pixels: np.ndarray) -> Run:
    ready = Simulator(graph, threads=1)
    return lambda: ready.run(pixels)


def float_torch(model: torch.nn.Module, pixels: np.ndarray) -> Run:
    model = model.to(memory_format=torch.channels_last)

    def run() -> None:
        with torch.inference_mode():
            for i in range(0, len(pixels), BATCH):
                model(_floats(pixels[i : i + BATCH]))

    return run


class Reader:
    """onnxruntime's calibration data: one batch."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.batches: Iterator[dict[str, np.ndarray]] = iter([{"x": _floats(pixels[:32]).numpy()}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def onnx_models(model: torch.nn.Module, pixels: np.ndarray) -> dict[str, bytes]:
    """Float, and int8 as QDQ and as QLinearConv (ranges from a few images); IR version 10, opset 17."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        exported, ready, target = (str(Path(folder) / f"{name}.onnx") for name in ("a", "b", "c"))
        torch.onnx.export(
            model.to(memory_format=torch.contiguous_format),
            (torch.zeros(1, 3, 32, 32),),
            exported,
            input_names=["x"],
            dynamic_axes={"x": {0: "n"}},
            opset_version=17,
            dynamo=False,
        )
        plain = onnx.load(exported)
        plain.ir_version = 10
        onnx.save(plain, exported)
        # turns shared biases into initializers, which the quantizer needs
        quant_pre_process(exported, ready, skip_symbolic_shape=True)
        found = {"float": Path(exported).read_bytes()}
        for name, form in (("QDQ", QuantFormat.QDQ), ("QLinearConv", QuantFormat.QOperator)):
            quantize_static(
                ready,
                target,
                Reader(pixels),
                quant_format=form,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
            found[f"int8 ({name}, not exact)"] = Path(target).read_bytes()
        return found


def onnxruntime(content: bytes, pixels: np.ndarray) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    batches = [_floats(pixels[i : i + BATCH]).numpy() for i in range(0, len(pixels), BATCH)]

    def run() -> None:
        for batch in batches:
            session.run(None, {"x": batch})

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (options.images, *SHAPE), dtype=np.uint8)
    model = build("resnet20", SHAPE, 10).eval()
    runs = {
        f"hwq, exact integers, W{bits}A{bits} <{fixed}>": simulator(
            lowered(model, bits, fixed, pixels), pixels
        )
        for bits, fixed in ((8, "32,10"), (8, "16,auto"), (8, "48,auto"), (4, "32,10"))
    }
    try:
        for name, content in onnx_models(model, pixels).items():
            runs[f"onnxruntime, {name}"] = onnxruntime(content, pixels)
    except ImportError as error:
        print(f"onnxruntime left out: {error} (pip install 'hwq[bench]')")
    runs["torch float, channels last"] = float_torch(model, pixels)
    best = dict.fromkeys(runs, 0.0)
    for run in runs.values():
        run()
    for _ in range(options.rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            best[name] = max(best[name], len(pixels) / (time.process_time() - start))
    base = best["torch float, channels last"]
    print("| ResNet-20, 32x32x3, 1 thread | images / CPU-s | of float torch |")
    print("|---|---|---|")
    for name, rate in best.items():
        print(f"| {name} | {rate:,.0f} | {rate / base:.2f} |")


if __name__ == "__main__":
    main()
