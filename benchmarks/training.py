"""The cost of quantisation-aware training: a step of each method beside a float step and beside Brevitas.

    python -m benchmarks.training [--rounds 9] [--only lsq+lsq,brevitas] [--bits 4] [--batch 128]
        [--threads 1] [--device cpu|cuda] [--compile]

A step is forward, loss, backward and SGD update of ResNet-20 (option A) on one batch of random 32x32 images:
weights and activations of 4 bits, 8-bit edges. The networks take turns, one step each a round, so that other
work on the machine slows them alike, and the ratio is the median over rounds of a step over the float step
of the same round. On a CPU time is CPU time of the process, wall time stands beside it; on a GPU it is
wall time after synchronising. Weights are random: the speed does not depend on them. Every network is in the
memory layout that is fastest for it, channels last. "lsq+lsq+residual" has a residual path of 8 bits
(`residual_bits`), the others one of the bits of all activations.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

from benchmarks.brevitas_net import (
    DEFAULT,
    EDGE_BITS,
    LEARNED,
    brevitas_calibrate,
    brevitas_network,
    brevitas_version,
)
from hwq.models import build
from hwq.quant import ACT_METHODS, WEIGHT_METHODS, Policy, calibrate, prepare
from hwq.train.objective import Objective
from hwq.train.optimise import make_optimiser
from hwq.train.schedule import Schedule

FLOAT, RESIDUAL = "float", "lsq+lsq+residual"
Step = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """Seconds a step, medians; `ratio` to the float step, median over rounds (CPU time on a CPU)."""

    name: str
    cpu: float
    wall: float
    ratio: float
    rate: float


def pairs() -> list[tuple[str, str]]:
    """Weight and activation methods such that each stands in at least one row.

    Same names together, where both have one; other weights with mPACT, other activations with DoReFa.
    """
    same = [(name, name) for name in WEIGHT_METHODS if name in ACT_METHODS]
    weights = [(name, "mpact") for name in WEIGHT_METHODS if name not in ACT_METHODS]
    acts = [("dorefa", name) for name in ACT_METHODS if name not in WEIGHT_METHODS]
    return list(dict.fromkeys(same + weights + acts))


def networks(
    model: nn.Module, bits: int, shape: tuple[int, int, int], images: Tensor, only: set[str] | None
) -> Iterator[tuple[str, nn.Module]]:
    """(name, network ready to train); float first. only: names to keep beside float, None for all."""

    def wanted(name: str) -> bool:
        return only is None or name in only

    yield FLOAT, copy.deepcopy(model)
    rows = [(f"{weight}+{act}", weight, act, None) for weight, act in pairs()]
    for name, weight, act, residual in [*rows, (RESIDUAL, "lsq", "lsq", EDGE_BITS)]:
        if not wanted(name):
            continue
        policy = Policy(
            weight_bits=bits,
            act_bits=bits,
            residual_bits=residual,
            first_bits=EDGE_BITS,
            last_bits=EDGE_BITS,
            weight_method=weight,
            act_method=act,
        )
        prepared = prepare(copy.deepcopy(model), policy, shape)
        calibrate(prepared, [images])
        yield name, prepared
    for name, scales in (("brevitas", DEFAULT), ("brevitas-learned", LEARNED)):
        if wanted(name) and brevitas_version() is not None:
            peer = brevitas_network(model, bits, scales)
            brevitas_calibrate(peer, [images])
            yield name, peer


def training_step(
    model: nn.Module, images: Tensor, labels: Tensor, device: torch.device, compiled: bool
) -> Step:
    """One update of the network per call; the penalty on clipping values is part of it, as in training."""
    model = model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    schedule = Schedule(lr=1e-3)
    objective, optimiser = Objective(schedule, model, None), make_optimiser(model, schedule)
    forward = torch.compile(model) if compiled else model

    def step() -> None:
        total = objective.loss(images, forward(images), labels)
        penalty = objective.penalty()
        if penalty is not None:
            total = total + penalty
        optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return step


def measure(steps: dict[str, Step], rounds: int, batch: int, device: torch.device) -> list[Row]:
    """Time the steps in turn; the first of `steps` is what the others are divided by."""
    cpu: dict[str, list[float]] = {name: [] for name in steps}
    wall: dict[str, list[float]] = {name: [] for name in steps}
    on_gpu = device.type == "cuda"
    for turn in range(-2, rounds):  # the first two warm up: lazy allocations, compilation
        for name, step in steps.items():
            if on_gpu:
                torch.cuda.synchronize(device)
            started, began = time.process_time(), time.perf_counter()
            step()
            if on_gpu:
                torch.cuda.synchronize(device)
            if turn >= 0:
                cpu[name].append(time.process_time() - started)
                wall[name].append(time.perf_counter() - began)
    base = next(iter(steps))
    times = wall if on_gpu else cpu
    return [
        Row(
            name=name,
            cpu=statistics.median(cpu[name]),
            wall=statistics.median(wall[name]),
            ratio=statistics.median(a / b for a, b in zip(times[name], times[base], strict=True)),
            rate=batch / statistics.median(times[name]),
        )
        for name in steps
    ]


def table(rows: list[Row], device: torch.device) -> str:
    per = "s" if device.type == "cuda" else "CPU-s"
    lines = [
        f"| network | of the float step | CPU ms / step | wall ms / step | images / {per} |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.name} | {r.ratio:.2f} | {r.cpu * 1e3:.0f} | {r.wall * 1e3:.0f} | {r.rate:,.0f} |" for r in rows
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", help="names of the table, with commas; all without it")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=32, help="pixels a side")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile every network")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device, shape = torch.device(options.device), (options.size, options.size, 3)
    images = torch.randn(options.batch, *shape).permute(0, 3, 1, 2)
    labels = torch.randint(0, 10, (options.batch,))
    only = set(options.only.split(",")) if options.only else None
    model = build(options.model, shape, 10)
    ready = list(networks(model, options.bits, shape, images, only))
    unknown = (only or set()) - {name for name, _ in ready} - {"brevitas", "brevitas-learned"}
    if unknown:
        parser.error(f"no network is called {', '.join(sorted(unknown))}")
    images, labels = images.to(device), labels.to(device)
    steps = {name: training_step(net, images, labels, device, options.compile) for name, net in ready}
    rows = measure(steps, options.rounds, options.batch, device)
    peer = brevitas_version()
    print(
        f"{options.model}, W{options.bits}A{options.bits}, batch {options.batch}, {options.rounds} rounds, "
        f"{device}{', compiled' if options.compile else ''}, {options.threads} thread(s); "
        f"torch {torch.__version__}, Brevitas {peer or 'not installed (hwq[bench])'}"
    )
    print(table(rows, device))
    if options.out:
        about = {k: str(v) for k, v in vars(options).items()}
        figures = {"arguments": about, "torch": torch.__version__, "brevitas": peer}
        text = json.dumps({**figures, "rows": [asdict(r) for r in rows]}, indent=1)
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
