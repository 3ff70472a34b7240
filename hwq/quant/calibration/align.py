"""Scales that suit a constant format: multipliers on numbers that it holds, before training goes on.

A multiplier M = gain * s_w * s_x / s_y far below the smallest stored number cannot be rescued by
training. But s_w is free: a larger step of the weights, of one channel, moves M to a stored number, for
fewer weight codes in use. So does s_y for a term without weights (the identity of a residual, a pool).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hwq.fixed import AutoFormat, ConstantFormat, FixedType, LiteralFormat
from hwq.quant.calibration.bias import channel_means, correct_biases
from hwq.quant.fixedpoint.folded import FoldedNetwork
from hwq.quant.fixedpoint.requantise import ActScale, Gain, Requantisation, Term
from hwq.quant.methods.contract import ActQuantizer
from hwq.quant.methods.modes import evaluating
from hwq.quant.placing.steps import step_of

_PER_OCTAVE = 16
_KEPT = 4096
"""Values a channel that a requantisation is judged on."""
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Aligned:
    """steps: layers with new steps. scales: activations with a new scale. coarser: geometric mean of new
    over old step. uncorrected: requantisations without a bias that could take up a shift of their mean.
    """

    steps: int
    scales: int
    coarser: float
    uncorrected: Sequence[str]


@torch.no_grad()
def align(
    network: FoldedNetwork,
    batches: Sequence[Tensor],
    *,
    progress: Callable[[int, int], object] | None = None,
) -> Aligned:
    """Choose scales of a network with steps of its own (`own_steps`), then correct its biases.

    Activations first: s_y makes the multiplier of a term without weights a stored number, and keeps the
    biases of a `W,I` format in range, at the least squared error on the images (N, C, H, W). Then every
    channel of weights takes the stored multiplier of least squared error of M * codes. Last, biases make
    up for what changed in the mean of every channel, which with Rounding.TRN is half a code.
    progress: told (steps done, all) of the last part, which takes longest.
    """
    graph = network.graph_module
    network.compare(real=True)
    try:
        wanted = channel_means(graph, batches)
        seen = _watch(network, batches)
    finally:
        network.compare(real=False)
    done: set[ActQuantizer] = set()
    for requantisation in network.requantisations:
        _fit_activation(requantisation, seen[requantisation], done)
    ratios = [r for requantisation in network.requantisations for r in _fit_weights(network, requantisation)]
    uncorrected = correct_biases(graph, batches, wanted, progress=progress)
    names = {name: m.name for name, m in graph.named_modules() if isinstance(m, Requantisation)}
    return Aligned(
        steps=len(ratios),
        scales=len(done),
        coarser=float(torch.cat(ratios).log().mean().exp()) if ratios else 1.0,
        uncorrected=[names[name] for name in uncorrected],
    )


def _watch(network: FoldedNetwork, batches: Sequence[Tensor]) -> dict[Requantisation, Tensor]:
    """(C, n) of the values of each requantisation on the first batch, evenly spread."""
    seen: dict[Requantisation, Tensor] = {}

    def note(requantisation: Requantisation, module: nn.Module, args: Any, out: Tensor) -> None:
        rows = out.transpose(0, 1).flatten(1)
        stride = max(1, rows.shape[1] // _KEPT) | 1  # odd: it does not meet the same columns again
        seen[requantisation] = rows[:, ::stride].double()

    hooks = [r.register_forward_hook(partial(note, r)) for r in network.requantisations]
    try:
        with evaluating(network):
            network(batches[0])
    finally:
        for hook in hooks:
            hook.remove()
    return seen


# -- activations


def _fit_activation(requantisation: Requantisation, values: Tensor, done: set[ActQuantizer]) -> None:
    end = requantisation.end
    if not isinstance(end, ActScale) or end.quantizer in done:
        return
    now = end.quantizer.scale()
    candidates = _scales(requantisation, now)
    if candidates == [now]:
        return
    errors = [_error(requantisation, values, end.quantizer, scale) for scale in candidates]
    best = candidates[int(np.argmin(errors))]
    if best != now:
        # a multiplier a little above a stored number is it also where constants are truncated
        least = 1 - 2.0**-20 if isinstance(requantisation.form, LiteralFormat) else 1.0
        end.quantizer.set_bound(best * least * end.quantizer.type.hi)
        done.add(end.quantizer)


def _scales(requantisation: Requantisation, now: float) -> list[float]:
    """Scales that make a multiplier without weights a stored number; else the present and larger ones."""
    octaves = np.arange(-_PER_OCTAVE // 2, _PER_OCTAVE // 2 + 1) / _PER_OCTAVE
    literal = isinstance(requantisation.form, LiteralFormat)
    if literal:  # room for biases
        octaves = np.arange(-_PER_OCTAVE // 2, 3 * _PER_OCTAVE + 1) / _PER_OCTAVE
    for term in requantisation.terms:
        multiplier = term.multiplier(torch.tensor(now, dtype=torch.float64))
        if term.layer is not None or multiplier.numel() > 1 or not float(multiplier):
            continue
        real = float(multiplier)
        form = _pinned(requantisation.form, np.array([real]))
        held = form.quantize(real * 2.0**-octaves, bias=False).values()
        near = held[(held * real > 0) & (held <= real * 1.5)]
        if near.size:
            return [now * real / float(m) for m in np.unique(near)]
    shift = requantisation.bias() / now
    stored = requantisation.form.quantize(shift.reshape(-1).cpu().numpy(), bias=True)
    lost = float((torch.from_numpy(stored.values()).to(shift.device) - shift).abs().max())
    if not literal or lost <= 2.0 ** -float(stored.fraction.min()):
        return [now]
    return [now * 2.0**o for o in octaves if o >= 0]


def _error(requantisation: Requantisation, values: Tensor, quantizer: ActQuantizer, scale: float) -> float:
    """Mean squared error of the codes' values, (C, n), with biases as they would be stored."""
    shift = requantisation.bias().to(values.device)  # of no layer at all: a zero on the CPU
    stored = requantisation.form.quantize((shift / scale).reshape(-1).cpu().numpy(), bias=True)
    kept = torch.from_numpy(stored.values()).to(shift.device) * scale
    moved = values + (kept - shift).reshape(-1, 1)
    kind = quantizer.type
    codes = torch.floor(moved / scale + 0.5).clamp(kind.lo, kind.hi)
    wanted = values if kind.lo else values.clamp_min(0)
    return float((codes * scale - wanted).square().mean())


# -- weights


def _fit_weights(network: FoldedNetwork, requantisation: Requantisation) -> list[Tensor]:
    """New over old steps, (O,), of the layers whose sums end here; edge constants need none."""
    if not isinstance(requantisation.end, ActScale):
        return []
    uses = Counter(id(t.layer) for r in network.requantisations for t in r.terms if t.layer is not None)
    found = []
    scale = requantisation.end().detach()
    for term in requantisation.terms:
        if term.layer is not None and uses[id(term.layer)] == 1:
            found.append(_fit_steps(term, scale, requantisation.form))
    return found


def _fit_steps(term: Term, scale: Tensor, form: ConstantFormat) -> Tensor:
    layer = term.layer
    assert layer is not None
    step, quantizer = step_of(layer), layer.weight_quant
    old = step.detach().double().abs()
    multiplier = term.multiplier(scale)
    multiplier = multiplier.expand_as(old)
    factor = multiplier / old  # M = factor * step
    weight = layer.weight.detach().double().flatten(1)
    # what the network computes now, whose codes were trained, not the floats behind them
    goal = quantizer.codes(layer.weight)[0].double().flatten(1) * multiplier[:, None]
    best, least = old.clone(), torch.full_like(old, torch.inf)
    for held in _candidates(multiplier.cpu().numpy(), form):
        m = torch.from_numpy(held).to(old.device)
        usable = (m * multiplier > 0) & torch.isfinite(factor)
        steps = torch.where(usable, m / torch.where(usable, factor, 1.0), 1.0)
        v = weight / steps[:, None]
        codes = (v >= 0).to(v.dtype) * 2 - 1 if quantizer.bits == 1 else torch.floor(v + 0.5)
        codes = codes.clamp(quantizer.type.lo, quantizer.type.hi)
        error = (codes * m[:, None] - goal).square().sum(1)
        better = usable & (error < least)
        best, least = torch.where(better, steps, best), torch.where(better, error, least)
    step.copy_(_stored(best, factor, form, step))
    return step.detach().double() / old


def _candidates(multiplier: Floats, form: ConstantFormat) -> list[Floats]:
    """Vectors of stored numbers of each multiplier's sign: from 1/2 to 4 times it, and the smallest ones."""
    form = _pinned(form, multiplier)
    octaves = np.arange(-_PER_OCTAVE, 2 * _PER_OCTAVE + 1) / _PER_OCTAVE
    made = [form.quantize(multiplier * 2.0**o, bias=False).values() for o in octaves]
    smallest = np.ldexp(np.sign(multiplier), -form.quantize(multiplier, bias=False).fraction)
    return made + [form.quantize(smallest * k, bias=False).values() for k in (1, 2, 3, 4)]


def _pinned(form: ConstantFormat, values: Floats) -> ConstantFormat:
    """`W,auto` with the binary point that these values get, so that it does not depend on candidates."""
    if not isinstance(form, AutoFormat):
        return form
    integer = int(form.quantize(values, bias=False).integer[0])
    return LiteralFormat(FixedType(width=form.width, integer=integer))


def _stored(steps: Tensor, factor: Tensor, form: ConstantFormat, like: Tensor) -> Tensor:
    """The steps in their own precision, nudged where a format that truncates would round M away."""
    made = steps.to(like.dtype)
    if not isinstance(form, LiteralFormat):
        return made
    wanted = np.rint(np.ldexp((factor * steps).cpu().numpy(), form.type.fraction))
    for nudge in (1 + 2.0**-20, 1 - 2.0**-20):
        got = form.quantize((factor * made.double()).cpu().numpy(), bias=False).raw
        off = torch.from_numpy(wanted != got).to(like.device)
        made = torch.where(off, (steps * nudge).to(like.dtype), made)
    return made


@torch.no_grad()
def settle(network: FoldedNetwork) -> None:
    """Scales and aligned multipliers do not learn any more: steps, ranges, and the gains of layers' BNs.

    What is left, weights and biases, can do whatever they did: a weight's own size is a channel's gain.
    """
    for quantizer in network.model.modules():
        if isinstance(quantizer, ActQuantizer):
            quantizer.requires_grad_(False)
    for requantisation in network.requantisations:
        for term in requantisation.terms:
            if term.layer is None:
                continue
            term.layer.weight_quant.requires_grad_(False)
            for factor in term.factors:
                if isinstance(factor, Gain) and isinstance(factor.norm.weight, nn.Parameter):
                    factor.norm.weight.requires_grad_(False)
