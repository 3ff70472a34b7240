"""`issues.json` of a project: the constants that their format could not show at export.

A project holds integers only; what they were rounded from is known while it is exported.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from hwq.errors import InputError
from hwq.files import Missing, read_json

if TYPE_CHECKING:
    from hwq.lower import ConstantIssue

ISSUES = "issues.json"


def encode(issues: Sequence[ConstantIssue]) -> bytes:
    """The file's content."""
    return (json.dumps([asdict(issue) for issue in issues], indent=1) + "\n").encode()


def read_issues(folder: Path) -> list[ConstantIssue] | None:
    """Of an exported project; None where it has no such file. Raises InputError when it is damaged."""
    from hwq.lower import ConstantIssue

    path = folder / ISSUES
    try:
        listed = read_json(path, list, advice="export the project again")
        issues = [ConstantIssue(**entry) for entry in listed]
        for issue in issues:
            str(issue)  # its numbers are numbers
    except Missing:
        return None
    except (ValueError, TypeError):
        raise InputError(f"{path}: damaged; export the project again") from None
    return issues
