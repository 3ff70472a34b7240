"""The exact Python reference: runs a graph on integers and keeps every op's output on request."""

from hwq.simulate.engine import Simulator, Trace, storage_dtype
from hwq.simulate.oracle import run_oracle
from hwq.simulate.paths import Arithmetic, ExactPath, exact_path, exact_paths

__all__ = [
    "Arithmetic",
    "ExactPath",
    "Simulator",
    "Trace",
    "exact_path",
    "exact_paths",
    "run_oracle",
    "storage_dtype",
]
