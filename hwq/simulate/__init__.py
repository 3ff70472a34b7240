"""The exact Python reference: runs a graph on integers and keeps every op's output on request."""

from hwq.simulate.clipping import LogitRange, LogitWatch, logit_range, logit_sources, unclipped
from hwq.simulate.engine import Simulator
from hwq.simulate.oracle import run_oracle
from hwq.simulate.paths import Arithmetic, ExactPath, exact_path, exact_paths
from hwq.simulate.runner import Runner, Trace, storage_dtype
from hwq.simulate.score import accuracy

__all__ = [
    "Arithmetic",
    "ExactPath",
    "LogitRange",
    "LogitWatch",
    "Runner",
    "Simulator",
    "Trace",
    "accuracy",
    "exact_path",
    "exact_paths",
    "logit_range",
    "logit_sources",
    "run_oracle",
    "storage_dtype",
    "unclipped",
]
