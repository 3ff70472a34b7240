"""Graph -> Graph functions that change no output bit, and the one ordered tuple of them."""

from hwq.passes.rewrite import (
    absorb_padding,
    drop_exact_requantize,
    drop_identity,
    drop_unread,
    tighten_sums,
)
from hwq.passes.runner import PIPELINE, Pass, run_passes

__all__ = [
    "PIPELINE",
    "Pass",
    "absorb_padding",
    "drop_exact_requantize",
    "drop_identity",
    "drop_unread",
    "run_passes",
    "tighten_sums",
]
