"""The verdict of one `hwq simulate` as JSON: what was run, what was compared, what differs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq.agreement import Agreement, recorded_warnings
from hwq.cosim.compare import Verdict
from hwq.cosim.manifest import Edit
from hwq.files import write_atomically
from hwq.simulate import LogitRange

MEASURED = ("integer", "C++")
"""The accuracies that a comparison itself measures."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Report:
    """Passed means: no value differs and every file is as generated, or the edits were accepted.

    reference: what computed the Python side, `torch` or `native`. accuracy: percent by stage; those of
    `MEASURED` are of these images, the others are training's, of its whole test split. whole: that is the
    same. logits: against their type. predictions: the Python side's classes (N,), not part of the JSON.
    agreement: with the trained network, or why that is not known.
    """

    project: str
    build: str
    compiler: str
    compile_seconds: float
    cached: bool
    images: str
    verdict: Verdict
    seconds: float
    reference: str = "torch"
    edits: Sequence[Edit] = ()
    accepted: bool = False
    accuracy: Mapping[str, float | None] = field(default_factory=dict)
    whole: bool = False
    logits: LogitRange | None = None
    predictions: npt.NDArray[np.int64] | None = None
    agreement: Agreement | str = ""

    @property
    def passed(self) -> bool:
        return self.verdict.mismatches == 0 and (self.accepted or not self.edits)

    @property
    def warnings(self) -> list[str]:
        """Loud lines about numbers that nobody can have meant; the exit code is about equality alone."""
        found = [] if self.logits is None else self.logits.warnings()
        if isinstance(self.agreement, Agreement):
            found += self.agreement.warnings()
        if self.whole and not any("right" in line for line in found):
            found += recorded_warnings(self.accuracy, self.verdict.samples)
        return found

    @property
    def meaning(self) -> list[str]:
        """What was found of the logits and of the trained network, in words, without the warnings."""
        lines = [str(self.logits)] if self.logits is not None and not self.logits.clipped else []
        if isinstance(self.agreement, Agreement):
            return lines + self.agreement.lines()
        return [*lines, self.agreement] if self.agreement else lines

    def to_json(self) -> dict[str, Any]:
        from hwq import __version__

        first = self.verdict.first_mismatch
        return {
            "hwq": __version__,
            "passed": self.passed,
            "project": self.project,
            "build": self.build,
            "compiler": self.compiler,
            "compile_cpu_seconds": self.compile_seconds,
            "compile_cached": self.cached,
            "images": self.images,
            "reference": self.reference,
            "samples": self.verdict.samples,
            "values": self.verdict.values,
            "mismatches": self.verdict.mismatches,
            "first_mismatch": None
            if first is None
            else {
                "op": first.op,
                "index": list(first.index),
                "expected": first.expected,
                "got": first.got,
            },
            "edited_files": [{"path": e.path, "what": e.what, "op": e.op} for e in self.edits],
            "edits_accepted": self.accepted,
            "accuracy": dict(self.accuracy),
            "logits": None if self.logits is None else asdict(self.logits),
            "agreement": self.agreement.to_json() if isinstance(self.agreement, Agreement) else None,
            "agreement_unknown": "" if isinstance(self.agreement, Agreement) else self.agreement,
            "warnings": self.warnings,
            "run_seconds": round(self.seconds, 3),
            "messages": self.verdict.messages,
            "ops": [row.to_json() for row in self.verdict.rows],
        }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write in one step: an earlier file stays whole until the new one is."""
    write_atomically(path, json.dumps(content, indent=1) + "\n")
