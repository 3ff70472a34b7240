"""The verdict of one `hwq simulate` as JSON: what was run, what was compared, what differs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwq.cosim.compare import Verdict
from hwq.cosim.manifest import Edit
from hwq.files import write_atomically

MEASURED = ("integer", "C++")
"""The accuracies that a comparison itself measures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Passed means: no value differs and every file is as generated, or the edits were accepted.

    reference: what computed the Python side, `torch` or `native`. accuracy: percent by stage; those of
    `MEASURED` are of these images, the others are training's, of its whole test split. whole: that is the
    same.
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

    @property
    def passed(self) -> bool:
        return self.verdict.mismatches == 0 and (self.accepted or not self.edits)

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
            "run_seconds": round(self.seconds, 3),
            "messages": self.verdict.messages,
            "ops": [row.to_json() for row in self.verdict.rows],
        }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write in one step: an earlier file stays whole until the new one is."""
    write_atomically(path, json.dumps(content, indent=1) + "\n")
