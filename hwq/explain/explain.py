"""One format of the constants under the glass: which layers it breaks, why, and what would repair them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import escape

import numpy as np
import numpy.typing as npt

from hwq.engine import simulator
from hwq.explain.edge import EdgeFacts, edge_facts, real_logits
from hwq.explain.observe import HEALTHY, HEALTHY_EDGE, Site, measure, observe
from hwq.explain.repair import Repair, repairs
from hwq.explain.vectors import Needs, VectorFacts, facts, layer_needs
from hwq.fixed import parse_edge, parse_format
from hwq.ir import Graph, Requantize
from hwq.lower import ConstantIssue, Formats, Lowered
from hwq.simulate import Runner, logit_sources
from hwq.simulate import accuracy as _right

Lower = Callable[[Formats], Lowered]
"""Lowers the network, also where constants saturate or vanish."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFacts:
    """A requantisation. names: what layer patterns know it as, the op's name first.

    edge: it holds the input's constants, whose format is --edge-fixed. share, far, predicted: see `Loss`.
    vectors: multipliers of each input, then biases. memory_bits: of them.
    repairs: formats that suffice, cheapest first; empty for a layer that is well, or an edge.
    """

    op: str
    names: tuple[str, ...]
    format: str
    edge: bool
    share: float
    far: float
    predicted: float
    memory_bits: int
    vectors: tuple[VectorFacts, ...]
    needs: Needs
    repairs: tuple[Repair, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """Formats of a whole network: `body`, but for the layers of some (pattern, format) pairs."""

    body: str
    layers: tuple[tuple[str, str], ...]

    def formats(self, given: Formats) -> Formats:
        """`given` with these instead."""
        own = tuple((pattern, parse_format(form)) for pattern, form in self.layers)
        return replace(given, body=parse_format(self.body), overrides=own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """layers: every requantisation but the logits', in order. threshold: share, 0..1, above which one is bad.

    uniform: formats that repair the whole network when all its layers have them, cheapest first. mixed: the
    cheapest repair of each bad layer, all others as given; None where there is nothing to repair. accuracy:
    percent on the images, of 'real' constants and logits that nothing clips, as 'given', 'uniform' (the
    first) and 'mixed', both with the repair of a bad edge, and 'edge': that alone. edge: --edge-fixed.
    memory_bits: of the constants that --edge-fixed leaves alone, for all but 'real'.
    """

    images: int
    threshold: float
    layers: tuple[LayerFacts, ...]
    uniform: tuple[Repair, ...]
    mixed: Mixed | None
    edge: EdgeFacts
    accuracy: Mapping[str, float]
    memory_bits: Mapping[str, int]

    @property
    def bad(self) -> tuple[LayerFacts, ...]:
        """Layers above the threshold, worst first."""
        found = [layer for layer in self.layers if layer.share > self.threshold]
        return tuple(sorted(found, key=lambda layer: -layer.share))


def explain(
    lower: Lower,
    formats: Formats,
    pixels: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    *,
    threshold: float = 0.01,
    threads: int | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    note: Callable[[str], None] = lambda text: None,
) -> Explanation:
    """Explain `formats` on images (N, H, W, C) and labels (N,), N >= 1.

    Every layer is looked at by itself: it gets the inputs of a network whose other constants are as
    good as real, so an early bad layer does not hide a later one. threshold: share of codes, 0..1.
    progress is told what is done, and how far. Raises InputError for a layer pattern that changes nothing.
    """
    given = lower(formats)
    # an edge of its own: what the given one clips must not be clipped in what it is compared with
    healthy = lower(replace(formats, body=HEALTHY, edge=HEALTHY_EDGE, overrides=()))
    runner = simulator(healthy.graph, threads, note=note)
    total = len(pixels)
    sites = observe(healthy, runner, pixels, progress=lambda done: progress("images", done, total))
    layers = [_layer(site, given) for site in sites.values()]
    body = {layer.op: sites[layer.op] for layer in layers if not layer.edge}
    bad = [layer.op for layer in layers if layer.share > threshold and layer.op in body]
    for count, name in enumerate(bad):
        progress("layers", count, len(bad))
        at = next(i for i, layer in enumerate(layers) if layer.op == name)
        layers[at] = replace(layers[at], repairs=repairs([body[name]], threshold))
    uniform = repairs(tuple(body.values()), threshold) if bad else ()
    mixed = _mixed([layer for layer in layers if layer.op in body])

    kept = runner.run(pixels, keep=logit_sources(healthy.graph)).outputs
    accuracy = {"real": _right(real_logits(healthy, kept).argmax(axis=1), labels)}
    edge = edge_facts(given, formats.edge, pixels, kept, threshold)
    repaired = formats
    tried = {"given": given}
    if edge.bad and edge.cheapest is not None:
        repaired = replace(formats, edge=parse_edge(edge.cheapest))
        tried["edge"] = lower(repaired)
    if uniform:
        tried["uniform"] = lower(Mixed(body=uniform[0].format, layers=()).formats(repaired))
    if mixed:
        tried["mixed"] = lower(mixed.formats(repaired))
    memory = {}
    for count, (name, lowered) in enumerate(tried.items()):
        progress("accuracy", count, len(tried))
        accuracy[name] = _accuracy(lowered.graph, runner, threads, pixels, labels)
        memory[name] = sum(_memory(lowered.graph, op) for op in body)
    return Explanation(
        images=len(pixels),
        threshold=threshold,
        layers=tuple(layers),
        uniform=uniform,
        mixed=mixed,
        edge=edge,
        accuracy=accuracy,
        memory_bits=memory,
    )


def _mixed(layers: Sequence[LayerFacts]) -> Mixed | None:
    """The format that most layers end up with, and a pattern for each of the others."""
    if not any(layer.repairs for layer in layers):
        return None
    chosen = {layer.op: layer.repairs[0].format if layer.repairs else layer.format for layer in layers}
    ((body, _),) = Counter(chosen.values()).most_common(1)
    # escaped, a name means itself
    return Mixed(body=body, layers=tuple((escape(op), f) for op, f in chosen.items() if f != body))


def _layer(site: Site, given: Lowered) -> LayerFacts:
    graph = given.graph
    op = graph[site.op.name]
    assert isinstance(op, Requantize)
    loss = measure(site, op.requant)
    return LayerFacts(
        op=op.name,
        names=site.names,
        format=op.requant.terms[0].format_name,
        edge=graph.input.name in op.inputs,
        share=loss.share,
        far=loss.far,
        predicted=loss.predicted,
        memory_bits=_memory(graph, op.name),
        vectors=facts(site, op.requant, _issues(given.report.issues, op.name)),
        needs=layer_needs([site]),
    )


def _issues(issues: Iterable[ConstantIssue], op: str) -> list[ConstantIssue]:
    return [issue for issue in issues if issue.op == op]


def _memory(graph: Graph, name: str) -> int:
    op = graph[name]
    assert isinstance(op, Requantize)
    return sum(constants.memory_bits for constants in (*op.requant.terms, op.requant.bias))


def _accuracy(
    graph: Graph,
    earlier: Runner,
    threads: int | None,
    pixels: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
) -> float:
    predictions = simulator(graph, threads, earlier=earlier).run(pixels).predictions
    return _right(predictions, labels)
