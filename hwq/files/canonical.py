"""The digest of JSON content, however its text is laid out."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical(content: Any) -> bytes:
    """The one spelling of what `json.loads` gives: sorted keys, no spaces, ASCII. 1 and 1.0 differ."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def json_digest(content: Any) -> str:
    """SHA-256 of the canonical spelling, in hex."""
    return hashlib.sha256(canonical(content)).hexdigest()
