"""Whether the integers answer what the trained network does: its answers, and its codes on equal inputs."""

from hwq.agreement.answers import Answers, beyond_chance, compare_answers
from hwq.agreement.facts import Agreement, LayerCodes, recorded_warnings

__all__ = ["Agreement", "Answers", "LayerCodes", "beyond_chance", "compare_answers", "recorded_warnings"]
