"""The HTML page of a run: verdict, accuracies, ops, formats, training curve, how to reproduce."""

from hwq.report.content import Build, CodesRow, ConstantRow, Curve, Histogram, OpRow, Report, Series, Stage
from hwq.report.page import render, write_report
from hwq.report.rows import code_histogram, constant_rows, op_rows, training_curves

__all__ = [
    "Build",
    "CodesRow",
    "ConstantRow",
    "Curve",
    "Histogram",
    "OpRow",
    "Report",
    "Series",
    "Stage",
    "code_histogram",
    "constant_rows",
    "op_rows",
    "render",
    "training_curves",
    "write_report",
]
