"""Graph <-> `graph.json` (structure) and `graph.safetensors` (integers): versioned, safe to load."""

from hwq.serde.files import GRAPH_JSON, GRAPH_TENSORS, Seal, dump, load, loads, read_seal, save
from hwq.serde.format import VERSION

__all__ = ["GRAPH_JSON", "GRAPH_TENSORS", "VERSION", "Seal", "dump", "load", "loads", "read_seal", "save"]
