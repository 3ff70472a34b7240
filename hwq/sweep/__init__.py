"""Accuracy and code errors of a trained network over a grid of constant formats."""

from hwq.sweep.evaluate import Candidate, FormatResult, body_layers, evaluate_format, real_codes
from hwq.sweep.grid import Grid, GridPoint, run_grid
from hwq.sweep.store import Store

__all__ = [
    "Candidate",
    "FormatResult",
    "Grid",
    "GridPoint",
    "Store",
    "body_layers",
    "evaluate_format",
    "real_codes",
    "run_grid",
]
