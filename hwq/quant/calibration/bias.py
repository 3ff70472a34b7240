"""Bias correction: quantised layers whose channels have the mean that they had as floats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, fx, nn

from hwq.quant.fixedpoint.requantise import Requantisation
from hwq.quant.methods.modes import evaluating
from hwq.quant.placing.layers import QuantConv2d, QuantLinear

MEMORY = 1 << 30
"""Bytes of activations that a correction holds at once."""


def correctable(model: fx.GraphModule) -> dict[str, nn.Module]:
    """Module path -> the module whose output is compared and whose bias takes the correction.

    A layer, or the BN that alone reads it; of a folded network its requantisations. Layers that are
    called more than once are left out.
    """
    calls: dict[str, list[fx.Node]] = {}
    for node in model.graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    found: dict[str, nn.Module] = {}
    for name, nodes in calls.items():
        module = model.get_submodule(name)
        if isinstance(module, Requantisation):
            found[name] = module
        if not isinstance(module, QuantConv2d | QuantLinear) or len(nodes) != 1:
            continue
        reader = next(iter(nodes[0].users), None)
        if len(nodes[0].users) == 1 and reader is not None and reader.op == "call_module":
            after = model.get_submodule(str(reader.target))
            if isinstance(after, nn.BatchNorm1d | nn.BatchNorm2d) and len(calls[str(reader.target)]) == 1:
                name, module = str(reader.target), after
        found[name] = module
    return found


@torch.no_grad()
def channel_means(model: fx.GraphModule, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """(C,) float64 mean of each `correctable` output over images, positions and batches, in eval mode."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def note(name: str, module: nn.Module, args: object, out: Tensor) -> None:
        total, count = _channel_sum(out)
        sums[name] = sums[name] + total if name in sums else total
        counts[name] = counts.get(name, 0) + count

    modules = correctable(model)
    hooks = [module.register_forward_hook(partial(note, name)) for name, module in modules.items()]
    try:
        with evaluating(model):
            for batch in batches:
                model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: total / counts[name] for name, total in sums.items()}


@torch.no_grad()
def correct_biases(
    model: fx.GraphModule,
    batches: Sequence[Tensor],
    wanted: dict[str, Tensor],
    *,
    progress: Callable[[int, int], object] | None = None,
) -> list[str]:
    """Shift biases until every channel has its mean in `wanted`, that of `channel_means` as floats.

    Each output is corrected on inputs that earlier corrections have changed already: all batches go
    through the network together, node by node. The shift goes into the bias of a BN (the running mean of
    one without) or of a layer. Returns the layers that have neither, which stay as they are.
    progress: told (nodes done, all nodes).
    """
    modules = correctable(model)
    left: list[str] = []
    with evaluating(model):
        runs = [fx.Interpreter(model) for _ in batches]
        for run, batch in zip(runs, batches, strict=True):
            run.args_iter = iter([batch])
        nodes = [node for node in model.graph.nodes if node.op != "output"]
        for number, node in enumerate(nodes):
            if progress is not None:
                progress(number, len(nodes))
            _step(runs, node)
            name = str(node.target)
            if node.op == "call_module" and name in wanted:
                parts = [_channel_sum(run.env[node]) for run in runs]
                mean = sum((s for s, _ in parts[1:]), parts[0][0]) / sum(count for _, count in parts)
                if _shift(modules[name], wanted[name] - mean):
                    _step(runs, node)
                else:
                    left.append(name)
            for run in runs:
                for dead in run.user_to_last_uses.get(node, []):
                    del run.env[dead]
    return left


def fitting(model: fx.GraphModule, sample: Sequence[Tensor]) -> list[Tensor]:
    """As many images of a sample as `correct_biases` may hold at once."""
    room = max(1, MEMORY // bytes_per_image(model, sample[0][:1]))
    few = []
    for batch in sample:
        few.append(batch[:room])
        room -= len(few[-1])
        if not room:
            break
    return few


@torch.no_grad()
def bytes_per_image(model: fx.GraphModule, image: Tensor) -> int:
    """Most bytes of tensors that are alive at once for one image (1, C, H, W) in `correct_biases`."""
    most = 0
    with evaluating(model):
        run = fx.Interpreter(model)
        run.args_iter = iter([image])
        for node in model.graph.nodes:
            _step([run], node)
            alive = {v.data_ptr(): v.nbytes for v in run.env.values() if isinstance(v, Tensor)}
            most = max(most, sum(alive.values()))
            for dead in run.user_to_last_uses.get(node, []):
                del run.env[dead]
    return most


def _step(runs: Sequence[fx.Interpreter], node: fx.Node) -> None:
    for run in runs:
        run.env[node] = run.run_node(node)


def _channel_sum(out: Tensor) -> tuple[Tensor, int]:
    """(float64 sums (C,), values summed a channel) of (N, C, ...)."""
    others = [d for d in range(out.dim()) if d != 1]
    return out.sum(others, dtype=torch.float64), out.numel() // out.shape[1]


def _shift(module: nn.Module, by: Tensor) -> bool:
    """Add (C,) to every output of a channel; False where there is nothing to hold it."""
    if isinstance(module, Requantisation):
        holder = module.bias.holder()
        # what rounding its own bias added stays, however the bias is moved
        return holder is not None and _shift(holder, by + module.bias_error(by.device))
    bias = module.bias
    if isinstance(bias, Tensor):
        bias.add_(by)
        return True
    mean, var = getattr(module, "running_mean", None), getattr(module, "running_var", None)
    if mean is None or var is None:
        return False
    assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    mean.sub_(by * (var + module.eps).sqrt())  # a BN has bias and weight, or neither
    return True
