"""What was measured, in sentences."""

from __future__ import annotations

from math import log2

from hwq.explain.explain import Explanation, LayerFacts
from hwq.explain.vectors import VectorFacts

SMALL = 0.005
"""Codes: an error of a sum below it is not worth a word."""


def power(value: float) -> str:
    """A magnitude as a power of two: '2^-8.3'; '0' for 0."""
    if value == 0:
        return "0"
    text = f"{log2(value):.1f}"
    return f"2^{text.removesuffix('.0')}"


def span(low: float, high: float) -> str:
    """'2^-12.3 to 2^-8', or one of them."""
    ends = (power(low), power(high))
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def percent(share: float) -> str:
    """0..1 as '38%', '4.2%', '0.031%'."""
    value = 100 * share
    return f"{value:.0f}%" if value >= 10 or value == 0 else f"{value:.2g}%"


def codes(value: float) -> str:
    """A number of codes: '21.5', '0.0039'."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def sentences(layer: LayerFacts) -> tuple[str, ...]:
    """Why a layer's codes change, what its constants need, and what repairs it."""
    lines = [_head(layer)]
    lines += [_vector(v, layer.format) for v in layer.vectors if v.matter or v.worst_codes >= SMALL]
    lines += _needs(layer)
    if layer.repairs:
        best, *others = layer.repairs
        rest = "".join(f"; {r.format}: {percent(r.share)}, {r.memory_bits:,} bits" for r in others)
        lines.append(
            f"Cheapest repair: {best.format}, {percent(best.share)} of its codes change, constants of "
            f"{best.memory_bits:,} bits instead of {layer.memory_bits:,}{rest}."
        )
    elif layer.edge:
        lines.append("These are the input's constants: choose another --edge-fixed (below).")
    else:
        lines.append("No format of up to 40 bits keeps its codes.")
    return tuple(lines)


def _needs(layer: LayerFacts) -> list[str]:
    matter = [vector for vector in layer.vectors if vector.matter]
    if not matter:
        return []
    largest = max(matter, key=lambda v: v.needs_integer)
    finest = max(matter, key=lambda v: v.needs_fraction)
    return [
        f"To keep every error below half a code, {_name(largest)} need I = {largest.needs_integer} and "
        f"{_name(finest)} F = {finest.needs_fraction}: {layer.needs.literal[0]} bits where one W,I serves "
        f"all, {layer.needs.auto} as W,auto, {layer.needs.channel} as W,channel."
    ]


def _name(vector: VectorFacts) -> str:
    return f"multipliers of {vector.source}" if vector.source else "biases"


def _head(layer: LayerFacts) -> str:
    far = f", {percent(layer.far)} by more than one" if layer.far else ", none by more than one"
    return (
        f"In {layer.format} {percent(layer.share)} of its codes change{far}; the errors of its constants let "
        f"one expect {percent(layer.predicted)}."
    )


def _vector(vector: VectorFacts, form: str) -> str:
    if not vector.source:
        return f"Biases are {span(vector.smallest, vector.largest)} codes{_lost(vector, form)}"
    what = f"The multiplier of {vector.source} is"
    if vector.count > 1:
        what = f"Multipliers of {vector.source} are"
    reach = f", of values up to {vector.reach:,}"
    return f"{what} {span(vector.smallest, vector.largest)}{reach}{_lost(vector, form)}"


def _lost(vector: VectorFacts, form: str) -> str:
    """'; 16,8 steps by 2^-8: 15 of 16 become 0, ... .'"""
    low, high = vector.fraction
    step = f"2^{-high}" if low == high else f"2^{-high} to 2^{-low}"
    parts = []
    if vector.vanished:
        gone = f"{vector.vanished} of {vector.matter} become 0" if vector.matter > 1 else "it becomes 0"
        effect = "so those channels no longer see their input"
        if vector.matter == 1:
            effect = "so nothing of that input arrives"
        parts.append(f"{gone}, {effect}" if vector.source else gone)
    if vector.saturated:
        top = (1 << (vector.integer[1] - 1)) if vector.integer[1] > 0 else 2.0 ** (vector.integer[1] - 1)
        which = f"{vector.saturated} of {vector.matter}" if vector.matter > 1 else "it"
        parts.append(f"{which} lie{'s' if which == 'it' else ''} beyond its end at {top:g}")
    if vector.source and vector.worst_relative > 0:
        off = "it is off by" if vector.matter == 1 else "those left are off by up to"
        parts.append(f"{off} {percent(vector.worst_relative)}")
    if vector.worst_codes >= SMALL:
        parts.append(f"sums move by up to {codes(vector.worst_codes)} codes")
    lost = ", ".join(parts) if parts else "no harm"
    return f". {form} steps by {step} there: {lost}."


def _edges(found: Explanation) -> list[str]:
    """--edge-fixed: the logits against it, the input's constants, and what repairs it."""
    edge, lines = found.edge, [str(found.edge)]
    if edge.input_share > edge.threshold:
        lines.append(f"In {edge.form} {percent(edge.input_share)} of the input's codes change.")
    if "edge" in found.accuracy:
        lines.append(
            f"--edge-fixed {edge.cheapest} alone: accuracy {found.accuracy['edge']:.2f}% instead of "
            f"{found.accuracy['given']:.2f}%, with real constants and logits {found.accuracy['real']:.2f}%."
        )
    return lines


def summary(found: Explanation) -> tuple[str, ...]:
    """What the whole network needs, and what each way out costs and gives."""
    bad = found.bad
    edges = _edges(found)
    body = [layer for layer in found.layers if not layer.edge]
    limit = percent(found.threshold)
    accuracy, memory = found.accuracy, found.memory_bits
    on = f"on {found.images} images"
    real = f"with real constants {accuracy['real']:.2f}%"
    if not bad:
        return (
            *edges,
            f"No layer has more than {limit} of its codes changed: accuracy {accuracy['given']:.2f}%, "
            f"{real}, {on}.",
        )
    lines = [
        *edges,
        f"{len(bad)} of {len(found.layers)} layers have more than {limit} of their codes changed. "
        f"Accuracy {on}: {accuracy['given']:.2f}%, {real}.",
    ]
    if found.uniform:
        best = found.uniform[0]
        others = ", ".join(f"{r.format} ({r.memory_bits:,} bits)" for r in found.uniform[1:])
        lines.append(
            f"Cheapest format for all {len(body)} layers: {best.format}, accuracy "
            f"{accuracy['uniform']:.2f}%, at most {percent(best.share)} of any layer's codes change, "
            f"constants of {best.memory_bits:,} bits instead of {memory['given']:,}"
            f"{f'; also: {others}' if others else ''}."
        )
    if found.mixed:
        lines.append(
            f"Or for each bad layer its own cheapest format, the others as they are: accuracy "
            f"{accuracy['mixed']:.2f}%, {memory['mixed']:,} bits."
        )
    return tuple(lines)
