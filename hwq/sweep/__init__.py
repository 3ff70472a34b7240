"""Accuracy, code errors and memory of a trained network over a grid of constant formats."""

from hwq.sweep.evaluate import Candidate, Measured, evaluate, logits_snr, sampled
from hwq.sweep.local import LocalErrors, body_layers, local_errors
from hwq.sweep.memory import digest, layer_bits, memory_bits
from hwq.sweep.mixed import search
from hwq.sweep.picture import draw
from hwq.sweep.points import (
    OWN,
    REAL,
    Point,
    grid,
    parse_bits,
    parse_roundings,
    parse_rules,
    parse_widths,
    width_formats,
)
from hwq.sweep.rows import clipping_warning, first_wrong, pareto, point_of, smallest, width_and_rule, within
from hwq.sweep.run import Network, Sweep, Unwatched, Watcher
from hwq.sweep.store import Row, Store
from hwq.sweep.workers import BACKENDS, Backend, Workers, WorkersLost, each

__all__ = [
    "BACKENDS",
    "OWN",
    "REAL",
    "Backend",
    "Candidate",
    "LocalErrors",
    "Measured",
    "Network",
    "Point",
    "Row",
    "Store",
    "Sweep",
    "Unwatched",
    "Watcher",
    "Workers",
    "WorkersLost",
    "body_layers",
    "clipping_warning",
    "digest",
    "draw",
    "each",
    "evaluate",
    "first_wrong",
    "grid",
    "layer_bits",
    "local_errors",
    "logits_snr",
    "memory_bits",
    "pareto",
    "parse_bits",
    "parse_roundings",
    "parse_rules",
    "parse_widths",
    "point_of",
    "sampled",
    "search",
    "smallest",
    "width_and_rule",
    "width_formats",
    "within",
]
