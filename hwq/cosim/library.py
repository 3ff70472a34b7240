"""Runs a compiled simulation library in a child process of its own."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq.cosim.taps import TapPlan
from hwq.errors import ToolError
from hwq.files import scratch

_ROOT = Path(__file__).resolve().parents[2]


def _shared_folder(size: int) -> str | None:
    """Memory-backed where the system offers enough of it, else the usual place of temporary files."""
    shm = Path("/dev/shm")
    if not shm.is_dir() or not os.access(shm, os.W_OK) or shutil.disk_usage(shm).free < 2 * size:
        return None
    return str(shm)


class Library:
    """One worker process around one library. Use as a context manager.

    capacity: images a batch. timeout: seconds a batch may take, None for ever. Raises ToolError when the
    library does not load, crashes, hangs or reports a failure; the worker is gone then.
    """

    def __init__(self, path: Path, plan: TapPlan, *, capacity: int, timeout: float | None = 600.0) -> None:
        self.path, self.plan, self.capacity, self.timeout = path, plan, capacity, timeout
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 -- closed by close()
        self._process: subprocess.Popen[bytes] | None = None
        self._pending: tuple[int, int] | None = None
        try:
            size = capacity * (plan.pixel_bytes + plan.image_bytes)
            # gone from the file system as soon as both sides have mapped it: nothing is left behind,
            # however this process ends
            with scratch("run", _shared_folder(size)) as folder:
                self._start(folder)
        except BaseException:
            self.close()
            raise

    def _start(self, folder: Path) -> None:
        self._pixels = self._mapped(folder / "pixels", self.capacity * self.plan.pixel_bytes)
        self._taps = self._mapped(folder / "taps", self.capacity * self.plan.image_bytes)
        command_read, command_write = os.pipe()
        answer_read, answer_write = os.pipe()
        self._commands = os.fdopen(command_write, "w")
        self._answers = os.fdopen(answer_read)
        ends = (str(command_read), str(answer_write))
        files = (str(self.path), str(folder / "pixels"), str(folder / "taps"))
        # the worker must find this very package, wherever it is started from
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hwq.cosim.worker", *files, *ends],
                pass_fds=(command_read, answer_write),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
        finally:
            os.close(command_read)
            os.close(answer_write)
        answer = self._answer("loading it")
        if "error" in answer:
            raise ToolError(f"the simulation library {self.path} does not load: {answer['error']}")

    def _mapped(self, path: Path, size: int) -> mmap.mmap:
        with path.open("w+b") as file:
            file.truncate(max(1, size))
            try:
                os.posix_fallocate(file.fileno(), 0, max(1, size))  # a full disk must not become a SIGBUS
            except OSError as error:
                raise ToolError(
                    f"no room for {size >> 20} MiB of results in {path.parent}: {error}"
                ) from None
            return mmap.mmap(file.fileno(), 0)

    def submit(self, pixels: npt.NDArray[np.uint8], *, first: int = 0, record: bool = True) -> None:
        """Start a batch: (n, H, W, C) uint8, n <= capacity. `first` is only for messages."""
        count = len(pixels)
        assert self._pending is None
        assert 1 <= count <= self.capacity
        np.frombuffer(self._pixels, np.uint8, pixels.size)[:] = pixels.reshape(-1)
        places: Sequence[int | None] = self.plan.positions(count)
        if not record:
            places = [*([None] * (len(places) - 1)), places[-1]]
        order = {"count": count, "pixels": 0, "taps": places}
        self._pending = (first, count)
        try:
            self._commands.write(json.dumps(order) + "\n")
            self._commands.flush()
        except BrokenPipeError:
            raise self._crashed(f"before image {first}") from None

    def collect(self) -> dict[str, np.ndarray[Any, Any]]:
        """Wait for the batch: op -> (n, *shape) views, valid until the next `submit`."""
        assert self._pending is not None
        first, count = self._pending
        answer = self._answer(f"images {first}..{first + count - 1}")
        self._pending = None
        if answer["code"]:
            raise ToolError(f"the compiled C++ reports failure {answer['code']} on image {first} or later")
        return self.plan.views(memoryview(self._taps), count)

    def run(self, pixels: npt.NDArray[np.uint8]) -> dict[str, np.ndarray[Any, Any]]:
        """`submit` and `collect`."""
        self.submit(pixels)
        return self.collect()

    def messages(self) -> list[str]:
        """What the C++ printed so far (AMD's streams warn there), 20 lines at most."""
        text = os.pread(self._log.fileno(), 1 << 16, 0).decode(errors="replace")
        return text.splitlines()[:20]

    def _answer(self, what: str) -> dict[str, Any]:
        ready, _, _ = select.select([self._answers], [], [], self.timeout)
        if not ready:
            self._kill()
            raise ToolError(f"the compiled C++ did not finish {what} in {self.timeout:g} s; see --timeout")
        line = self._answers.readline()
        if not line:
            raise self._crashed(what)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _crashed(self, what: str) -> ToolError:
        process = self._process
        assert process is not None
        code = process.wait()
        name = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        said = "; ".join(self.messages()[-1:])
        return ToolError(f"the compiled C++ crashed ({name}) on {what}" + (f": {said}" if said else ""))

    def _kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """End the worker and remove its files."""
        self._kill()
        for pipe in ("_commands", "_answers"):
            if hasattr(self, pipe):
                with contextlib.suppress(BrokenPipeError):  # a command the dead worker never read
                    getattr(self, pipe).close()
        self._log.close()

    def __enter__(self) -> Library:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
