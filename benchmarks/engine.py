"""The native engine beside torch, onnxruntime, qonnx's executor and hls4ml: ResNet-20, 32x32, one thread.

    python -m benchmarks.engine [--images 256] [--rounds 5] [--project FOLDER] [--hls4ml]

Prints markdown tables: images per CPU-second, best of the rounds, the peers taking turns, so that a busy
machine slows them alike; then the native engine's latency, its threads and its memory. Weights are random
unless --project names an exported project: none of the speeds depends on them. Every row of hwq is first
checked to be equal to the torch engine at every op of some images.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from benchmarks.hls import measure_hls4ml, resnet20
from benchmarks.simulate import SHAPE, Run, float_torch, lowered, onnx_models, onnxruntime
from hwq.engine import CpuPath, Engine, audit, best_path
from hwq.errors import ToolError
from hwq.fixed import AutoFormat
from hwq.ir import Graph, Op, Requantize
from hwq.lower import RealConstants
from hwq.models import build
from hwq.serde import dump, load
from hwq.simulate import Runner, Simulator

QONNX_IMAGES = 64
WIDTHS = range(8, 28)
FORMATS = ((8, "32,10"), (8, "16,auto"), (8, "12,channel"), (8, "48,auto"), (4, "32,10"))
_MEMORY = """
import resource, sys
import numpy as np
from pathlib import Path
from hwq.engine import Engine
from hwq.serde import load
engine = Engine(load(Path(sys.argv[1])), threads=1)
pixels = np.zeros((int(sys.argv[2]), *engine.graph.input.out.shape), np.uint8)
engine.run(pixels[:1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
engine.run(pixels)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def runs(engine: Runner, pixels: np.ndarray) -> Run:
    return lambda: engine.run(pixels)


def engines(pixels: np.ndarray, model: torch.nn.Module, project: Path | None) -> dict[str, Runner]:
    """The rows of hwq: the best path at every format, then every other path that runs here, then torch."""
    made: dict[str, Runner] = {}
    graphs = {f"W{b}A{b} `{f}`": lowered(model, b, f, pixels) for b, f in FORMATS} if project is None else {}
    if project is not None:
        graphs = {project.name: load(project)}
    best = best_path()
    for name, graph in graphs.items():
        made[f"hwq native, {best.value}, {name}"] = Engine(graph, 1, best)
    name, graph = next(iter(graphs.items()))
    for path in CpuPath:
        if path is best:
            continue
        try:
            made[f"hwq native, {path.value}, {name}"] = Engine(graph, 1, path)
        except ToolError as error:
            print(f"{path.value} left out: {error}")
    made[f"hwq torch, {name}"] = Simulator(graph, 1)
    return made


def check(engine: Runner, pixels: np.ndarray) -> None:
    """Every op of 32 images equal to the torch engine's, or the benchmark ends."""
    ours = engine.run(pixels[:32], keep="all").outputs
    theirs = Simulator(engine.graph, 1).run(pixels[:32], keep="all").outputs
    for name, codes in theirs.items():
        if not np.array_equal(ours[name], codes):
            raise SystemExit(f"{name} differs from the torch engine")


def qonnx(content: bytes) -> Run:
    """qonnx's executor, which runs node after node; the float network, as quantiser nodes only add to it."""
    import onnx
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    plain = onnx.load_from_string(content)
    onnx.IR_VERSION = plain.ir_version  # of the models it makes of nodes: onnxruntime reads older ones
    del plain.graph.value_info[:]  # shapes of any batch: qonnx wants known ones
    for value in (*plain.graph.input, *plain.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = QONNX_IMAGES
    ready = ModelWrapper(plain).transform(InferShapes())
    images = np.zeros((QONNX_IMAGES, 3, 32, 32), np.float32)
    return lambda: execute_onnx(ready, {"x": images})


def rates(runs: dict[str, Run], images: int, rounds: int) -> dict[str, float]:
    """Images per CPU-second, best of the rounds."""
    counts = {name: QONNX_IMAGES if name.startswith("qonnx") else images for name in runs}
    best = dict.fromkeys(runs, 0.0)
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            best[name] = max(best[name], counts[name] / (time.process_time() - start))
    return best


def seconds(work: Callable[[], object], rounds: int, clock: Callable[[], float]) -> float:
    """The best of the rounds."""
    found = []
    for _ in range(rounds):
        start = clock()
        work()
        found.append(clock() - start)
    return min(found)


def sweep(engine: Engine, pixels: np.ndarray) -> float:
    """Twenty widths of the constants, each prepared and run on the images: CPU-seconds."""
    graphs = [stored(engine.graph, width) for width in WIDTHS]

    def work() -> None:
        for graph in graphs:
            engine.with_constants(graph).run(pixels)

    return seconds(work, 1, time.process_time)


def stored(graph: Graph, width: int) -> Graph:
    """The graph with every requantisation's constants stored again in `width`,auto."""
    form = AutoFormat(width)

    def change(op: Op) -> Op:
        if not isinstance(op, Requantize):
            return op
        terms = tuple(form.quantize(t.values(), bias=False) for t in op.requant.terms)
        bias = form.quantize(op.requant.bias.values(), bias=True)
        return replace(op, requant=replace(op.requant, terms=terms, bias=bias))

    return Graph(name=graph.name, ops=tuple(change(op) for op in graph))


def details(engine: Engine, pixels: np.ndarray, rounds: int, folder: Path) -> None:
    """Latency, a data set of 10,000, two threads, memory, preparing for other constants, code errors."""
    many = np.concatenate([pixels] * -(-10_000 // len(pixels)))[:10_000]
    one = seconds(lambda: engine.run(pixels[:1]), 50, time.process_time)
    all_images = seconds(lambda: engine.run(many), max(1, rounds // 2), time.process_time)
    pair = Engine(engine.graph, 2, engine.path)
    walls = [seconds(lambda e=e: e.run(many), max(1, rounds // 2), time.perf_counter) for e in (engine, pair)]
    again = seconds(lambda: engine.with_constants(engine.graph), rounds, time.process_time)
    some = many[:1000]
    alone = seconds(lambda: engine.run(some), rounds, time.process_time)
    real = {
        op.name: RealConstants(terms=tuple(t.values() for t in r.terms), bias=r.bias.values())
        for op in engine.graph
        if isinstance(op, Requantize) and (r := op.requant)
    }
    audited = seconds(lambda: audit(engine, some, real), rounds, time.process_time)
    for name, content in dump(engine.graph).items():
        (folder / name).write_bytes(content)
    command = [sys.executable, "-c", _MEMORY, str(folder), "1000"]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print("\n| native engine, first row above | |")
    print("|---|---|")
    print(f"| a single image | {1000 * one:.2f} ms |")
    print(f"| 10,000 images, 1 thread | {all_images:.2f} CPU-s |")
    print(f"| 10,000 images, 2 threads against 1, wall clock | {walls[0] / walls[1]:.2f} times as fast |")
    print(f"| memory that 1,000 images add | {grown / 1024:.1f} MiB |")
    print(f"| {len(WIDTHS)} widths, in evaluations of the same images | {sweep(engine, some) / alone:.1f} |")
    print(f"| with the code errors of every layer counted | {len(some) / audited:,.0f} images / CPU-s |")
    print(f"| prepare again with other constants | {1000 * again:.0f} ms |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--project", type=Path, help="An exported project instead of a random ResNet-20.")
    parser.add_argument("--hls4ml", action="store_true", help="Also its C++ of a plain ResNet-20, a minute.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (options.images, *SHAPE), dtype=np.uint8)
    model = build("resnet20", SHAPE, 10).eval()
    made = engines(pixels, model, options.project)
    for engine in made.values():
        check(engine, pixels)
    peers = {name: runs(engine, pixels) for name, engine in made.items()}
    int8 = ""
    try:
        for name, content in onnx_models(model, pixels).items():
            peers[f"onnxruntime, {name}"] = onnxruntime(content, pixels)
            int8 = f"onnxruntime, {name}" if "int8" in name else int8
            if name == "float":
                peers["qonnx's executor, float, 64 at a time"] = qonnx(content)
    except ImportError as error:
        print(f"left out: {error} (pip install 'hwq[bench]')")
    peers["torch float, channels last"] = float_torch(model, pixels)
    found = rates(peers, len(pixels), options.rounds)
    base = found.get(int8, 0.0)
    print("| ResNet-20, 32x32x3, 1 thread | images / CPU-s | of onnxruntime int8 |")
    print("|---|---|---|")
    for name, rate in found.items():
        print(f"| {name} | {rate:,.0f} | {f'{rate / base:.2f}' if base else ''} |")
    if options.hls4ml:
        row = measure_hls4ml("ResNet-20", resnet20(), SHAPE, 0, 4)
        note = f"after {row.compile:.0f} CPU-s of compiling, for every width"
        print(f"| {row.tool} ({note}) | {row.rate:.2f} | {f'{row.rate / base:.5f}' if base else ''} |")
    first = next(iter(made.values()))
    assert isinstance(first, Engine)
    with tempfile.TemporaryDirectory() as folder:
        details(first, pixels, options.rounds, Path(folder))


if __name__ == "__main__":
    main()
