"""Checkpoints and float weights: written with digests, read with distrust.

    file ─► kinds: what it is ─► format (hwq's own) or others (state dicts of other programs)
         ─► values: every number can be ─► fill: it fits the network

Loading runs no code that a file holds.
"""

from hwq.train.checkpoint.fill import fill
from hwq.train.checkpoint.format import (
    BEST,
    FORMAT,
    LAST,
    Checkpoint,
    find,
    load,
    read_meta,
    save_checkpoint,
)
from hwq.train.checkpoint.meta import Meta, impossible
from hwq.train.checkpoint.values import bad_tensor, check_values
from hwq.train.checkpoint.weights import load_weights

__all__ = [
    "BEST",
    "FORMAT",
    "LAST",
    "Checkpoint",
    "Meta",
    "bad_tensor",
    "check_values",
    "fill",
    "find",
    "impossible",
    "load",
    "load_weights",
    "read_meta",
    "save_checkpoint",
]
