"""Ctrl-C and SIGTERM end a run between two steps, with everything saved."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from hwq.errors import HwqError


class Interrupted(HwqError):
    """Ctrl-C; the message says how to go on."""

    exit_code = 130


@contextmanager
def stop_flag(*, patient: bool) -> Iterator[list[bool]]:
    """[False], which Ctrl-C or SIGTERM turns to [True]; a second Ctrl-C interrupts at once.

    patient: no second one does, for torchrun passes on what the terminal has sent already.
    """
    flag, owner = [False], os.getpid()

    def on_signal(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a worker that decodes images, forked off with this handler
            sys.exit(128 + signum)
        if flag[0] and not patient and signum == signal.SIGINT:
            raise KeyboardInterrupt
        flag[0] = True

    try:
        before = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals go elsewhere
        yield flag
        return
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
