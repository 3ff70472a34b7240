"""Why a format of the constants breaks a network: what each layer's constants need, lost, and would cost."""

from hwq.explain.edge import EdgeFacts, edge_facts, real_logits
from hwq.explain.explain import Explanation, LayerFacts, explain
from hwq.explain.observe import Loss, Site, measure, observe
from hwq.explain.repair import Repair, repairs
from hwq.explain.vectors import Needs, VectorFacts
from hwq.explain.words import sentences, summary

__all__ = [
    "EdgeFacts",
    "Explanation",
    "LayerFacts",
    "Loss",
    "Needs",
    "Repair",
    "Site",
    "VectorFacts",
    "edge_facts",
    "explain",
    "measure",
    "observe",
    "real_logits",
    "repairs",
    "sentences",
    "summary",
]
