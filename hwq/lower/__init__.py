"""Trained torch network -> Graph of integers (numerics, sections 1 to 3).

`lower` walks the fx graph that `hwq.quant.prepare` made; `report` lists what the constants' formats lost.
"""

from hwq.lower.formats import Formats, parse_override
from hwq.lower.report import ConstantIssue, LossyError, LowerReport, RealConstants, constant_issues
from hwq.lower.usage import FormatUse, RangeUse, format_uses, range_use
from hwq.lower.values import Codes
from hwq.lower.walk import Lowered, lower

__all__ = [
    "Codes",
    "ConstantIssue",
    "FormatUse",
    "Formats",
    "LossyError",
    "LowerReport",
    "Lowered",
    "RangeUse",
    "RealConstants",
    "constant_issues",
    "format_uses",
    "lower",
    "parse_override",
    "range_use",
]
