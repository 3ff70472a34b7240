"""What a comparison of the trained network with its integers found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hwq.agreement.answers import Answers, beyond_chance


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCodes:
    """Codes of one quantiser. op: the op of the graph that yields them. differing: of `values`."""

    op: str
    values: int
    differing: int

    @property
    def share(self) -> float:
        """0..1."""
        return self.differing / self.values


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """trained: what the integers are compared with, in words. answers: on `answers.images` images.

    layers: codes that differ on equal inputs, in order, on `code_images` images; see `layers.code_agreement`.
    """

    trained: str
    answers: Answers
    layers: Sequence[LayerCodes] = ()
    code_images: int = 0

    @property
    def share(self) -> float:
        """Of codes that differ on equal inputs, 0..1: the mean over layers."""
        return sum(layer.share for layer in self.layers) / len(self.layers) if self.layers else 0.0

    @property
    def worst(self) -> LayerCodes | None:
        """The layer with the largest share."""
        return max(self.layers, key=lambda layer: layer.share, default=None)

    def lines(self) -> list[str]:
        """What was found, in words; `warnings` has what is wrong."""
        a = self.answers
        text = f"agreement with the {self.trained} network: {a.agreement:.2f}% of {a.images:,} answers"
        if a.labelled:
            one, other = a.accuracies
            text += (
                f" ({self.trained} {one:.2f}%, integers {other:.2f}%; standard error of the difference "
                f"{a.standard_error:.2f})"
            )
        found = [text]
        worst = self.worst
        if worst is not None:
            found.append(
                f"codes that differ on equal inputs: {_percent(self.share)}, mean over {len(self.layers)} "
                f"layers, of {self.code_images:,} images; most in {worst.op}: {_percent(worst.share)}"
            )
        return found

    def warnings(self) -> list[str]:
        """Loud lines, none where chance explains what differs."""
        a, found = self.answers, []
        if a.differs:
            one, other = a.accuracies
            found.append(
                f"WARNING: the integers answer {other:.2f}% right, the {self.trained} network {one:.2f}%: "
                f"{a.only_trained:,} images only it gets right, {a.only_integers:,} only the integers; "
                f"chance allows {2 * a.standard_error:.2f} points. {self._where()}"
            )
        if a.disagrees:
            found.append(
                f"WARNING: of {a.images:,} answers only {a.agreement:.2f}% are those of the {self.trained} "
                f"network. {self._where()}"
            )
        return found

    def _where(self) -> str:
        worst = self.worst
        where = "" if worst is None or not worst.differing else f"; most codes differ in {worst.op}"
        return f"This is not the network that was trained: `hwq explain` looks at its constants{where}"

    def to_json(self) -> dict[str, Any]:
        """All of it; shares 0..1."""
        return {
            "trained_network": self.trained,
            "answers": self.answers.to_json(),
            "codes": {
                "images": self.code_images,
                "share": self.share,
                "layers": [
                    {"op": x.op, "values": x.values, "differing": x.differing, "share": x.share}
                    for x in self.layers
                ],
            },
            "warnings": self.warnings(),
        }


STAGES = {"fixed": "fixed-point trained", "fake_quant": "fake-quantised", "float": "float"}
"""Accuracies that a training records, the last stage first."""


def recorded_warnings(accuracy: Mapping[str, float | None], images: int) -> list[str]:
    """A loud line where the integers' accuracy is not that which training recorded of the same images."""
    integers = accuracy.get("integer")
    for stage, name in STAGES.items():
        trained = accuracy.get(stage)
        if trained is None or integers is None:
            continue
        if not beyond_chance(trained, integers, images):
            return []
        return [
            f"WARNING: the integers answer {integers:.2f}% of {images:,} images right, the {name} "
            f"network {trained:.2f}% in training: more than chance explains. This is not the network "
            "that was trained: `hwq explain` looks at its constants"
        ]
    return []


def _percent(share: float) -> str:
    """0..1 with two significant digits: '0.047%', '12%', '0%'."""
    return f"{100 * share:.2g}%" if share else "0%"
