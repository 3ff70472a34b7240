"""The worker, the cache and the comparison, on a hand-written library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwq.compiler import Built
from hwq.cosim.build import Build, build
from hwq.cosim.library import Library
from hwq.cosim.session import cosimulate
from hwq.cosim.taps import TapPlan
from hwq.errors import ToolError
from tests.cosim.stub import passing_graph, write_stub
from tests.graphs import random_pixels


def compiled(folder: Path, **options: Any) -> Built:
    write_stub(folder, **options)
    return build(
        folder, Build.AP, files=["stub.cpp"], sources=["stub.cpp"], includes=["."], extra_flags=["-O0"]
    )


def identity(pixels: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    return {"pixels": pixels, "out": pixels}


def outcome(folder: Path, count: int = 7, *, graph: Any = None, **options: Any) -> Any:
    graph = graph or passing_graph()
    run = {key: options.pop(key) for key in ("workers", "batch", "timeout", "sink") if key in options}
    built = compiled(folder, **options)
    return cosimulate(graph, built.library, random_pixels(graph, count, 1), identity, **run)


def test_equal_taps_pass(tmp_path: Path) -> None:
    verdict = outcome(tmp_path).verdict
    assert (verdict.samples, verdict.values, verdict.mismatches) == (7, 7 * 12, 0)
    assert verdict.first_mismatch is None


@pytest.mark.parametrize(("workers", "batch"), [(1, 1), (1, 3), (2, 2), (3, 1), (2, 100)])
def test_first_mismatch_is_named_whatever_the_batch(tmp_path: Path, workers: int, batch: int) -> None:
    verdict = outcome(
        tmp_path, fault="if (x == 255 && i % 6 == 4) x = 9;", workers=workers, batch=batch
    ).verdict
    # image 1 is all 255
    assert verdict.bad_ops == ["out"]
    first = verdict.first_mismatch
    assert (first.op, first.index, first.expected, first.got) == ("out", (1, 1, 1, 0), 255, 9)
    assert verdict.samples == 7


def test_crash_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"crashed \(signal SIGSEGV\) on images 0\.\.6"):
        outcome(tmp_path, fault="*(volatile int*)8 = 1;")


def test_crash_names_what_the_program_said(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"exit code 3\) .*: out of luck"):
        outcome(tmp_path, fault='{ fputs("out of luck\\n", stderr); _exit(3); }')


def test_hang_is_ended(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"did not finish images 0\.\.6 in 0\.5 s"):
        outcome(tmp_path, fault="for (;;) sleep(1);", timeout=0.5)


def test_failure_code(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="reports failure 5"):
        outcome(tmp_path, code=5)


def test_wrong_abi(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="does not load: it has ABI 2"):
        outcome(tmp_path, abi=2)


def test_not_a_library(tmp_path: Path) -> None:
    path = tmp_path / "no.so"
    path.write_text("not ELF")
    with pytest.raises(ToolError, match="does not load"):
        Library(path, TapPlan.of(passing_graph()), capacity=1)


def test_printing_does_not_disturb(tmp_path: Path) -> None:
    verdict = outcome(tmp_path, fault='if (i == 0) puts("WARNING: leftover data");').verdict
    assert verdict.mismatches == 0


def test_sink_sees_every_image(tmp_path: Path) -> None:
    seen = []
    outcome(tmp_path, batch=2, workers=2, sink=lambda first, taps: seen.append((first, taps["out"].copy())))
    assert [first for first, _ in seen] == [0, 2, 4, 6]
    assert np.array_equal(np.concatenate([t for _, t in seen]), random_pixels(passing_graph(), 7, 1))


def test_cache_hits_and_misses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = compiled(tmp_path)
    again = compiled(tmp_path)
    assert (first.cached, again.cached) == (False, True)
    assert again.library == first.library
    other = compiled(tmp_path, code=1)
    assert other.library != first.library
    assert not other.cached


def test_compile_error_names_line_and_log(tmp_path: Path) -> None:
    with pytest.raises(
        ToolError, match=r"does not compile: stub\.cpp:\d+:\d+: error: .*full log: (.*)\)"
    ) as info:
        compiled(tmp_path, fault="int y = nonsense;")
    log = Path(str(info.value).rsplit("full log: ", 1)[1].rstrip(")"))
    assert "nonsense" in log.read_text()


def test_cache_forgets_the_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("hwq.compiler.KEEP", 2)
    libraries = [compiled(tmp_path, code=code).library for code in (1, 2, 3)]
    assert [path.exists() for path in libraries] == [False, True, True]


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ToolError, match="no C\\+\\+ compiler: install g\\+\\+"):
        compiled(tmp_path)
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    with pytest.raises(ToolError, match=r"\$CXX names 'no-such-compiler'"):
        compiled(tmp_path)


def test_no_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwq.cosim.toolchain.distribution", _absent)
    monkeypatch.delenv("XILINX_HLS", raising=False)
    with pytest.raises(ToolError, match="pip install hls4ml"):
        compiled(tmp_path)
    monkeypatch.setenv("XILINX_HLS", str(tmp_path))
    with pytest.raises(ToolError, match=r"\$XILINX_HLS is set but .*ap_int\.h"):
        compiled(tmp_path)


def _absent(name: str) -> Any:
    from importlib.metadata import PackageNotFoundError

    raise PackageNotFoundError(name)
