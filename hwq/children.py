"""Programs that end with this process, however it ends, and with all that they start themselves.

A compiler is a driver of several programs: killing the driver leaves the others running. So each command
gets a process group of its own, and a guard in it (this file, run as a program) that holds one end of a
pipe. When the other end closes, because hwq is gone, the guard kills the group.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

NOT_STARTED = 127
"""Exit code of a command that could not be started; its output says why."""


def run(
    command: Sequence[str],
    *,
    output: int | IO[bytes],
    folder: Path | None = None,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end: exit code, and its output where `output` is subprocess.PIPE.

    Standard output and error both go to `output`. Whatever is raised meanwhile, Ctrl-C or TimeoutExpired,
    ends the command first.
    """
    read_end, write_end = os.pipe()
    try:
        guard = [sys.executable, "-I", "-S", os.path.abspath(__file__), str(read_end), *command]  # noqa: PTH100
        process = subprocess.Popen(
            guard,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(read_end,),
        )
        try:
            said, _ = process.communicate(timeout=timeout)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
    finally:
        os.close(read_end)
        os.close(write_end)
    return subprocess.CompletedProcess(command, process.returncode, said or b"")


def _guard() -> None:
    """LIFELINE COMMAND...: the command's exit code, or 128 + its signal."""
    import _thread

    lifeline, command = int(sys.argv[1]), sys.argv[2:]
    os.set_inheritable(lifeline, False)

    def watch() -> None:
        os.read(lifeline, 1)
        os.killpg(0, signal.SIGKILL)

    _thread.start_new_thread(watch, ())
    try:
        child = os.posix_spawnp(command[0], command, os.environ)
    except OSError as error:
        os.write(1, f"error: {command[0]} does not run: {error.strerror}\n".encode())
        os._exit(NOT_STARTED)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    _guard()
