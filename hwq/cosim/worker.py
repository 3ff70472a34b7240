"""The child process that loads a simulation library: `python -m hwq.cosim.worker LIB PIXELS TAPS R W`.

A crash of the C++ ends this process, not hwq. Standard library only, so that it starts at once. PIXELS and
TAPS are files mapped by both sides; R and W are pipe ends: commands come in as JSON lines, answers go out.
Standard output and error belong to the C++.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import sys
from typing import Any

ABI = 1


def _map(path: str) -> mmap.mmap:
    with open(path, "r+b") as file:  # noqa: PTH123 -- pathlib is not worth its start-up here
        return mmap.mmap(file.fileno(), 0)


def _load(path: str) -> Any:
    library = ctypes.CDLL(path)
    library.hwq_abi.restype = ctypes.c_int
    if library.hwq_abi() != ABI:
        raise OSError(f"it has ABI {library.hwq_abi()}, expected {ABI}")
    library.hwq_run.restype = ctypes.c_int
    library.hwq_run.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
    return library


def _serve(library: Any, pixels: int, taps: int, commands: Any, answers: Any) -> None:
    """Each command {"count", "first", "pixels", "taps"}: byte offsets; a null tap is not recorded."""
    for line in commands:
        order = json.loads(line)
        places = [None if at is None else taps + at for at in order["taps"]]
        pointers = (ctypes.c_void_p * len(places))(*places)
        code = library.hwq_run(pixels + order["pixels"], order["count"], pointers)
        answers.write(json.dumps({"code": code}) + "\n")
        answers.flush()


def main() -> None:
    """Serve runs until the command pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    # however the parent ends, endless C++ ends with it (Linux: PR_SET_PDEATHSIG)
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(1, int(signal.SIGKILL), 0, 0, 0)
    path, pixels_path, taps_path, read_end, write_end = sys.argv[1:6]
    pixels, taps = _map(pixels_path), _map(taps_path)
    with os.fdopen(int(read_end)) as commands, os.fdopen(int(write_end), "w") as answers:
        try:
            library = _load(path)
        except (OSError, AttributeError) as error:
            answers.write(json.dumps({"error": str(error)}) + "\n")
            return
        answers.write(json.dumps({"ready": True}) + "\n")
        answers.flush()
        first, second = (ctypes.c_char.from_buffer(m) for m in (pixels, taps))
        _serve(library, ctypes.addressof(first), ctypes.addressof(second), commands, answers)
    os._exit(0)  # leave without the C++ library's destructors


if __name__ == "__main__":
    main()
