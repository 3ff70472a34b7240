"""Trained torch network -> Graph of integers (numerics, sections 1 to 3).

`lower` walks the fx graph that `hwq.quant.prepare` made; `report` lists what the constants' formats lost.
"""

from hwq.lower.formats import Formats
from hwq.lower.report import ConstantIssue, LossyError, LowerReport, RealConstants, constant_issues
from hwq.lower.walk import Lowered, lower

__all__ = [
    "ConstantIssue",
    "Formats",
    "LossyError",
    "LowerReport",
    "Lowered",
    "RealConstants",
    "constant_issues",
    "lower",
]
