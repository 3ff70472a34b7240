"""hwq beside Brevitas, trained in lockstep: same float start, recipe, batches and thread; accuracy and speed.

    python -m benchmarks.brevitas_compare --data folder:/data/cifar10 --start float.pt --out runs/compare
        [--epochs 1] [--bits 4] [--lr 0.02] [--peers hwq,brevitas,brevitas-learned] [--threads 1]

Every batch goes through every network before the next is drawn, so that other work on the machine slows
them alike; seconds are CPU-seconds of a network's own steps (forward, loss, backward, update; drawing the
batch is not counted). The same command goes on after an interruption. Results: OUT/result.json and a table.

The recipe is hwq's own training code: SGD with Nesterov momentum, one cycle, no decay of norms and scales.
Before the first step ranges are set from 1,024 images, each by the tool's own means, and batch-norm
statistics re-estimated from the same images.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.brevitas_net import (
    DEFAULT,
    EDGE_BITS,
    LEARNED,
    Scales,
    brevitas_calibrate,
    brevitas_network,
    brevitas_version,
)
from hwq.data import DataSpec, Split, load_split
from hwq.fixed import parse_format
from hwq.lower import Formats, lower
from hwq.models import build
from hwq.quant import INPUT_QUANT, Policy, calibrate, estimate_norms, prepare
from hwq.simulate import Simulator
from hwq.train.batches import Batches
from hwq.train.checkpoint import fill, load_weights
from hwq.train.optimise import make_optimiser, set_rate
from hwq.train.restore import Normalise, evaluate
from hwq.train.schedule import Schedule, learning_rate

CALIBRATION = 1024
STATE, RESULT = "state.pt", "result.json"
PEERS = ("hwq", "brevitas", "brevitas-learned")
Channels = tuple[float, ...]


@dataclass(frozen=True)
class Setting:
    """What all networks share. mean, std: per channel, 0..1 scale."""

    batches: Batches
    schedule: Schedule
    test: Split
    mean: Channels
    std: Channels
    bits: int

    def about(self) -> dict[str, Any]:
        """What a stored state must agree with to go on from it."""
        return {**asdict(self.schedule), "bits": self.bits, "mean": self.mean, "std": self.std}


@dataclass
class Figures:
    """Accuracies in percent on the test split; CPU-seconds and wall seconds of `images` training images."""

    calibrated: float = 0.0
    trained: float = 0.0
    integer: float | None = None
    seconds: float = 0.0
    wall: float = 0.0
    images: int = 0
    losses: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.images / max(self.seconds, 1e-9)


class Entrant:
    """One network in training."""

    def __init__(self, model: nn.Module, setting: Setting) -> None:
        self.setting, self.figures = setting, Figures()
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = make_optimiser(self.model, setting.schedule)

    def start(self) -> None:
        """Ranges and batch-norm statistics before the first step."""
        raise NotImplementedError

    def step(self, images: Tensor, labels: Tensor, rate: float) -> None:
        self.model.train()
        cpu, wall = time.process_time(), time.perf_counter()
        loss = functional.cross_entropy(self.model(images), labels)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        set_rate(self.optimiser, rate)
        self.optimiser.step()
        self.figures.losses.append(float(loss.detach()))
        self.figures.seconds += time.process_time() - cpu
        self.figures.wall += time.perf_counter() - wall
        self.figures.images += len(labels)

    def accuracy(self) -> float:
        return evaluate(self.model, self.setting.test, self.setting.mean, self.setting.std)

    def integer_accuracy(self) -> float | None:
        """As integers, in percent; None where the tool has no integer simulator."""
        return None

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "figures": asdict(self.figures),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.figures = Figures(**state["figures"])


class Hwq(Entrant):
    """LSQ weights and activations."""

    def __init__(self, model: nn.Module, setting: Setting) -> None:
        bits = setting.bits
        policy = Policy(
            weight_bits=bits,
            act_bits=bits,
            first_bits=EDGE_BITS,
            last_bits=EDGE_BITS,
            weight_method="lsq",
            act_method="lsq",
        )
        super().__init__(prepare(model, policy, setting.test.shape), setting)

    def start(self) -> None:
        sample = self.setting.batches.sample(CALIBRATION)
        estimate_norms(self.model, sample, floating=True)
        calibrate(self.model, sample)
        # of black and white, as `hwq train` sets it: no pixel is clipped
        bound = max(max(m, 1 - m) / s for m, s in zip(self.setting.mean, self.setting.std, strict=True))
        self.model.get_submodule(INPUT_QUANT).set_bound(bound)  # type: ignore[operator]
        estimate_norms(self.model, sample)

    def integer_accuracy(self) -> float | None:
        test = self.setting.test
        height, width, channels = test.shape
        graph = lower(
            self.model.eval(),  # type: ignore[arg-type]
            shape=(channels, height, width),
            mean=self.setting.mean,
            std=self.setting.std,
            formats=Formats(body=parse_format("32,auto")),
            allow_lossy=True,
        ).graph
        simulator, right = Simulator(graph, threads=1), 0
        for pixels, labels in test.batches(250):
            right += int((simulator.run(pixels).predictions == labels).sum())
        return 100 * right / len(test)


class Brevitas(Entrant):
    def __init__(self, model: nn.Module, setting: Setting, scales: Scales = DEFAULT) -> None:
        super().__init__(brevitas_network(model, setting.bits, scales), setting)

    def start(self) -> None:
        sample = self.setting.batches.sample(CALIBRATION)
        brevitas_calibrate(self.model, sample)
        estimate_norms(self.model, sample)


def enter(name: str, model: nn.Module, setting: Setting) -> Entrant:
    match name:
        case "hwq":
            return Hwq(model, setting)
        case "brevitas":
            return Brevitas(model, setting)
        case "brevitas-learned":
            return Brevitas(model, setting, LEARNED)
    raise SystemExit(f"error: no peer '{name}'; there are {', '.join(PEERS)}")


def compare(
    entrants: dict[str, Entrant], setting: Setting, out: Path, save_every: int = 50
) -> dict[str, Figures]:
    """Calibrate, train in lockstep and evaluate; the state in `out` lets the same call go on."""
    done = _restore(entrants, setting, out / STATE)
    if not done:
        for name, entrant in entrants.items():
            entrant.start()
            entrant.figures.calibrated = entrant.accuracy()
            print(f"{name}: calibrated {entrant.figures.calibrated:.2f} %", flush=True)
    steps = setting.batches.steps
    total = setting.schedule.epochs * steps
    while done < total:
        for images, labels in setting.batches.epoch(done // steps, done % steps):
            rate = learning_rate(setting.schedule, steps, done)
            for entrant in entrants.values():
                entrant.step(images, labels, rate)
            done += 1
            if done % 10 == 0 or done == total:
                print(f"step {done}/{total}  {_progress(entrants)}", flush=True)
            if done % save_every == 0 or done == total:
                states = {n: e.state() for n, e in entrants.items()}
                torch.save({"done": done, "about": setting.about(), "entrants": states}, out / "state.part")
                (out / "state.part").replace(out / STATE)
    for name, entrant in entrants.items():
        entrant.figures.trained = entrant.accuracy()
        entrant.figures.integer = entrant.integer_accuracy()
        print(f"{name}: trained {entrant.figures.trained:.2f} %", flush=True)
    return {name: entrant.figures for name, entrant in entrants.items()}


def _restore(entrants: dict[str, Entrant], setting: Setting, path: Path) -> int:
    """Steps done already, with the networks as they were after them."""
    if not path.exists():
        return 0
    stored = torch.load(path, weights_only=True)
    if set(stored["entrants"]) != set(entrants) or stored["about"] != setting.about():
        raise SystemExit(f"error: {path} is of a run with other options; choose another --out")
    for name, entrant in entrants.items():
        entrant.restore(stored["entrants"][name])
    print(f"going on after step {stored['done']}", flush=True)
    return int(stored["done"])


def _progress(entrants: dict[str, Entrant]) -> str:
    parts = []
    for name, entrant in entrants.items():
        recent = entrant.figures.losses[-10:]
        parts.append(f"{name}: loss {sum(recent) / len(recent):.3f}, {entrant.figures.rate:.0f} images/CPU-s")
    return "  ".join(parts)


def table(results: dict[str, Figures]) -> str:
    base = next(iter(results.values()))
    lines = [
        "| network | calibrated, % | trained, % | as integers, % | images / CPU-s | of the first |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in results.items():
        integer = "no simulator" if row.integer is None else f"{row.integer:.2f}"
        figures = f"{row.calibrated:.2f} | {row.trained:.2f} | {integer}"
        lines.append(f"| {name} | {figures} | {row.rate:.0f} | {row.rate / base.rate:.2f} |")
    return "\n".join(lines)


def _channels(text: str) -> Channels:
    return tuple(float(part) for part in text.split(","))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, help="as for hwq train, such as folder:/data/cifar10")
    parser.add_argument("--start", type=Path, help="float state dict or checkpoint; random without it")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--peers", default=",".join(PEERS), help="in the order of the table")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--mean", type=_channels, default=(0.485, 0.456, 0.406))
    parser.add_argument("--std", type=_channels, default=(0.229, 0.224, 0.225))
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    schedule = Schedule(
        epochs=options.epochs,
        batch=options.batch,
        lr=options.lr,
        schedule="onecycle",
        weight_decay=1e-4,
        seed=options.seed,
    )
    spec = DataSpec.parse(options.data)
    training, test = load_split(spec, "train"), load_split(spec, "test")
    batches = Batches(training, schedule, Normalise(options.mean, options.std, "cpu"), "cpu")
    setting = Setting(batches, schedule, test, options.mean, options.std, options.bits)
    names = options.peers.split(",")
    if any(name.startswith("brevitas") for name in names) and brevitas_version() is None:
        names = [name for name in names if not name.startswith("brevitas")]
        print("Brevitas left out: not installed (pip install 'hwq[bench]')")
    entrants = {}
    for name in names:
        model = build(options.model, training.shape, len(training.classes))
        if options.start is not None:
            fill(model, load_weights(options.start)[0], options.start, options.model)
        entrants[name] = enter(name, model, setting)
    options.out.mkdir(parents=True, exist_ok=True)
    results = compare(entrants, setting, options.out)
    print(f"torch {torch.__version__}, Brevitas {brevitas_version()}, {options.threads} thread(s)")
    print(table(results))
    about = {"arguments": {k: str(v) for k, v in vars(options).items()}, "torch": torch.__version__}
    rows = {name: {**asdict(row), "rate": row.rate} for name, row in results.items()}
    text = json.dumps({**about, "brevitas": brevitas_version(), "results": rows}, indent=1)
    (options.out / RESULT).write_text(text + "\n")


if __name__ == "__main__":
    main()
