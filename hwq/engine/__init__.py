"""The native engine: exact integers at the speed of vector code, for whole data sets and sweeps."""

from hwq.engine.auditing import Audit, LayerErrors, audit, real_codes
from hwq.engine.choice import Preference, simulator
from hwq.engine.engine import Engine
from hwq.engine.library import CpuPath, best_path
from hwq.engine.methods import Method

__all__ = [
    "Audit",
    "CpuPath",
    "Engine",
    "LayerErrors",
    "Method",
    "Preference",
    "audit",
    "best_path",
    "real_codes",
    "simulator",
]
