"""Graph -> an HLS project: files in memory, rendered by strict templates."""

from hwq.emit.assemble import Golden, emit
from hwq.emit.folding import Folding, complete, default_folding, parse_fold, read_folding
from hwq.emit.project import Project, is_project

__all__ = [
    "Folding",
    "Golden",
    "Project",
    "complete",
    "default_folding",
    "emit",
    "is_project",
    "parse_fold",
    "read_folding",
]
