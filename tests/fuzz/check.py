"""One random graph through emit, both compilers and both Python simulators, compared at every op."""

from __future__ import annotations
