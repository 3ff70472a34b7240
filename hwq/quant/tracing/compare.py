"""Two networks side by side: whether they compute the same, and where they part."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

SEED = 20_240_229


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first thing that differs. training: the mode; what: "what 'layer1.conv2' returns".

    error: the largest difference over the largest value of the first network, infinite where shapes,
    types, numbers that are none, or anything but tensors differ.
    """

    training: bool
    what: str
    error: float

    def __str__(self) -> str:
        return f"in {'training' if self.training else 'evaluation'}, {self.what} differs"


@contextmanager
def untouched(model: nn.Module) -> Iterator[Callable[[], dict[str, Tensor]]]:
    """Afterwards every parameter, buffer and mode of the network is as before, to the bit.

    What was put in the place of a parameter or buffer is taken out again. What the forward counts in plain
    Python stays counted. Yields a function: copies, by name, of what has changed since then.
    """
    held = [(m, m.training, dict(m._parameters), dict(m._buffers)) for m in model.modules()]
    copies = {name: (tensor, tensor.detach().clone()) for name, tensor in _state(model)}

    def changed() -> dict[str, Tensor]:
        return {
            name: tensor.detach().clone()
            for name, tensor in _state(model)
            if name not in copies or not torch.equal(tensor, copies[name][1])
        }

    try:
        yield changed
    finally:
        for module, training, parameters, buffers in held:
            module.training = training
            for kept, now in ((parameters, module._parameters), (buffers, module._buffers)):
                now.clear()
                now.update(kept)  # type: ignore[arg-type]  # parameters to parameters, buffers to buffers
        with torch.no_grad():
            for tensor, copy in copies.values():
                if not torch.equal(tensor, copy):
                    tensor.copy_(copy)


def _state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


@contextmanager
def seeded(device: torch.device, seed: int = SEED) -> Iterator[None]:
    """Random numbers from a seed, torch's, numpy's and Python's; afterwards they go on as before.

    device: of torch's, beside those on the CPU.
    """
    others = [] if device.type == "cpu" else [device]
    kind = "cuda" if device.type == "cpu" else device.type
    python, array = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(others, device_type=kind):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)


def random_images(model: nn.Module, image_shape: tuple[int, int, int], count: int) -> Tensor:
    """(count, C, H, W) of normal noise, always the same, where and of what type the parameters are.

    image_shape: (H, W, C).
    """
    h, w, c = image_shape
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    noise = torch.randn(count, c, h, w, generator=torch.Generator().manual_seed(SEED))
    return noise.to(device=first.device, dtype=first.dtype)


def difference(
    left: nn.Module,
    right: nn.Module,
    images: Tensor,
    *,
    bound: float = 0.0,
    ignoring: Collection[str] = (),
) -> Difference | None:
    """The first difference between two networks on images (N, C, H, W), in evaluation, then in training.

    Compared are the tensors that they return (in whatever they are packed), the parameters and buffers of
    one name afterwards, but for those of `ignoring`, and how many random numbers were drawn; both start from
    the same random state. bound: the largest difference that passes, as a share of the largest value of
    `left`'s tensor; with 0 numbers are equal, equal NaNs are, too. Where something differs, both run again
    and modules that have the same path in both are compared call by call: the first that reads, or returns,
    something else is named. Both networks, and the random state, are left as they were, see `untouched`; the
    networks may share modules. Raises whatever a forward raises.
    """
    names = [dict(_state(network)) for network in (left, right)]
    shared = [name for name in names[0] if name in names[1] and name not in ignoring]
    for training in (False, True):
        one, other = (_run(network, images, training) for network in (left, right))
        found = _between(one, other, shared, training, bound)
        if found is not None:
            return _first_call(left, right, images, training, bound) or found
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """state: what the forward changed."""

    result: list[object]
    state: dict[str, Tensor]
    generators: list[object]


def _run(network: nn.Module, images: Tensor, training: bool) -> _Run:
    device = images.device
    with (
        untouched(network) as changed,
        seeded(device),
        torch.inference_mode(False),
        torch.no_grad(),
        _reproducible(device),
    ):
        network.train(training)
        result = pytree.tree_leaves(network(images.clone()))
        state = changed()
        generators: list[object] = [torch.get_rng_state(), random.getstate()]
        parts = tuple(np.random.get_state())
        generators += [part.tolist() if isinstance(part, np.ndarray) else part for part in parts]
        if device.type == "cuda":
            generators.append(torch.cuda.get_rng_state(device))
    return _Run(result=result, state=state, generators=generators)


def _between(one: _Run, other: _Run, shared: list[str], training: bool, bound: float) -> Difference | None:
    error = _error(one.result, other.result)
    if error > bound:
        return Difference(training=training, what="the result", error=error)
    for name in shared:
        sides = [[run.state[name]] if name in run.state else [] for run in (one, other)]
        if (error := _error(*sides)) > bound:
            return Difference(training=training, what=f"'{name}' after a forward pass", error=error)
    if _error(one.generators, other.generators) > 0:
        return Difference(training=training, what="how many random numbers are drawn", error=float("inf"))
    return None


@contextmanager
def _reproducible(device: torch.device) -> Iterator[None]:
    """The same kernel for the same convolution, every time."""
    if device.type != "cuda":
        yield
        return
    backend = torch.backends.cudnn
    kept = backend.benchmark, backend.deterministic
    backend.benchmark, backend.deterministic = False, True
    try:
        yield
    finally:
        backend.benchmark, backend.deterministic = kept


def _error(one: Sequence[object], other: Sequence[object]) -> float:
    if len(one) != len(other):
        return float("inf")
    return max((_apart(a, b) for a, b in zip(one, other, strict=True)), default=0.0)


def _apart(a: object, b: object) -> float:
    """The largest difference over the largest value of a; infinite for what has none."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return 0.0 if type(a) is type(b) and a == b else float("inf")
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        return float("inf")
    same = (a == b) | ((a != a) & (b != b))
    if bool(same.all()):
        return 0.0
    wide = a.to(torch.complex128 if a.is_complex() else torch.float64)
    rest = (wide - b).masked_fill(same, 0).abs().max()
    error = float(rest / wide.masked_fill(~torch.isfinite(wide), 0).abs().max())
    return error if error == error else float("inf")


# -- where


_Event = tuple[str, str, list[object]]
"""Path of a module, 'reads' or 'returns', copies of the tensors."""


def _first_call(
    left: nn.Module, right: nn.Module, images: Tensor, training: bool, bound: float
) -> Difference | None:
    paths = {n for n, _ in left.named_modules() if n} & {n for n, _ in right.named_modules() if n}
    one, other = (_events(network, paths, images, training) for network in (left, right))
    counts = [Counter((path, verb) for path, verb, _ in events) for events in (one, other)]
    by_call: dict[tuple[str, str], list[list[object]]] = {}
    for path, verb, tensors in one:
        by_call.setdefault((path, verb), []).append(tensors)
    for path, verb, tensors in other:
        if counts[0][path, verb] != counts[1][path, verb]:
            continue  # calls of one that the other lacks
        error = _error(by_call[path, verb].pop(0), tensors)
        if error > bound:
            return Difference(training=training, what=f"what '{path}' {verb}", error=error)
    return None


def _events(network: nn.Module, paths: set[str], images: Tensor, training: bool) -> list[_Event]:
    """What the modules of these paths read and return in a forward pass, in order."""
    events: list[_Event] = []

    def note(path: str, verb: str, value: object) -> None:
        leaves = pytree.tree_leaves(value)
        # a copy: what comes later may work in place
        events.append((path, verb, [v.clone() if isinstance(v, Tensor) else v for v in leaves]))

    with ExitStack() as hooks:
        for path in paths:
            module = network.get_submodule(path)
            before = module.register_forward_pre_hook(
                lambda _, args, kwargs, path=path: note(path, "reads", (args, kwargs)), with_kwargs=True
            )
            after = module.register_forward_hook(lambda _, __, out, path=path: note(path, "returns", out))
            hooks.callback(before.remove)
            hooks.callback(after.remove)
        _run(network, images, training)
    return events
