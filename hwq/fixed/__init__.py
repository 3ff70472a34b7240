"""What a fixed-point number is: formats, rounding, saturation and shifts on exact integers.

The only Python home of these rules: `types` says what a number is, `constants` how real multipliers
and biases become stored integers.
"""

from hwq.fixed.constants import (
    AutoFormat,
    ChannelFormat,
    ConstantFormat,
    Constants,
    LiteralFormat,
    ShiftFormat,
    parse_edge,
    parse_format,
)
from hwq.fixed.types import MAX_WIDTH, FixedType, Ints, IntType, Overflow, Rounding, code_limit, shift_right

__all__ = [
    "MAX_WIDTH",
    "AutoFormat",
    "ChannelFormat",
    "ConstantFormat",
    "Constants",
    "FixedType",
    "IntType",
    "Ints",
    "LiteralFormat",
    "Overflow",
    "Rounding",
    "ShiftFormat",
    "code_limit",
    "parse_edge",
    "parse_format",
    "shift_right",
]
