"""Where hwq keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Decoded images, downloads, compiled libraries: $XDG_CACHE_HOME/hwq, or ~/.cache/hwq.

    A relative $XDG_CACHE_HOME is passed over, as the XDG base directory specification demands: it would
    mean another folder wherever hwq is started.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "hwq"
