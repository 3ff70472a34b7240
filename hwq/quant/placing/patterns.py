"""Patterns that name tensors of a network: globs over names, and modules with everything below them."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase


def matches(pattern: str, names: Iterable[str]) -> bool:
    """Whether the pattern is one of the names, or a module above it. `*` also crosses dots."""
    below = pattern + ".*"
    return any(fnmatchcase(n, pattern) or fnmatchcase(n, below) for n in names)


def nothing_matches(pattern: str, names: Iterable[str]) -> str:
    """'matches nothing; near it: ...', for a pattern that none of the names fits."""
    known = list(dict.fromkeys(names))
    near = get_close_matches(pattern, known, n=3, cutoff=0.4)
    hint = f"near it: {', '.join(near)}" if near else f"names here are like {', '.join(known[:3])}"
    return f"matches nothing; {hint}"
