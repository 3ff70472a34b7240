"""The engine's shared library: compiled once, cached, rebuilt when it must be, absent without a compiler."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hwq import assets
from hwq.compiler import find_compiler
from hwq.engine import CpuPath, Engine, best_path, library, simulator
from hwq.errors import InputError, ToolError
from hwq.simulate import Simulator
from tests.engine.conftest import STRICT, variant
from tests.graphs import random_pixels, seeded_graph

ROOT = Path(__file__).parents[2]
QUICK = ("-O0",)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and nothing loaded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    library.load.cache_clear()
    yield tmp_path / "cache" / "hwq" / "engine"  # type: ignore[misc]
    library.load.cache_clear()


def test_compiled_once_and_again_for_another_version(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = library.build(CpuPath.PORTABLE, QUICK)
    again = library.build(CpuPath.PORTABLE, QUICK)
    assert (first.cached, again.cached) == (False, True)
    assert again.library == first.library
    other = tmp_path / "sim"
    shutil.copytree(assets.folder("sim"), other)
    header = other / "engine" / "pools.h"
    header.write_text(header.read_text() + "// another version\n")
    monkeypatch.setattr(assets, "folder", lambda kind: other)
    changed = library.build(CpuPath.PORTABLE, QUICK)
    assert not changed.cached
    assert changed.library != first.library


def test_a_damaged_library_is_compiled_again(cache: Path) -> None:
    """Cut short (loading it would kill the process), replaced, of a version that kept no digest."""
    place = library.build(CpuPath.PORTABLE, QUICK).library
    whole = place.read_bytes()

    def replaced(content: bytes) -> None:
        place.unlink()  # the old file is loaded in this process and must stay as it is
        place.write_bytes(content)

    damages = {
        "cut": lambda: replaced(whole[: len(whole) // 3]),
        "text": lambda: replaced(b"\x7fELF, but not really"),
        "no digest": (place.parent / "sha256").unlink,
    }
    for name, damage in damages.items():
        damage()
        library.load.cache_clear()
        assert library.load(CpuPath.PORTABLE, QUICK).lanes == 4, name
        assert library.build(CpuPath.PORTABLE, QUICK).cached
    assert [path.name for path in cache.iterdir()] == [place.parent.name]


def test_a_library_of_another_interface_is_refused(cache: Path) -> None:
    source, other = cache.parent / "stub.cpp", cache.parent / "stub.so"
    cache.mkdir(parents=True)
    names = ("abi", "lanes", "runs_here", "room", "run")
    source.write_text("".join(f'extern "C" long hwq_engine_{name}() {{ return 1; }}\n' for name in names))
    subprocess.run([*find_compiler().command, "-shared", "-fPIC", str(source), "-o", str(other)], check=True)
    with pytest.raises(ToolError, match="has ABI 1, expected"):
        library.Library(other)


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch serves, and the note names the folder."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    library.load.cache_clear()
    notes: list[str] = []
    assert isinstance(simulator(seeded_graph(7), 1, note=notes.append), Simulator)
    assert f"the cache folder {tmp_path / 'file' / 'hwq'} cannot be used: Not a directory" in notes[0]
    with pytest.raises(ToolError, match="set XDG_CACHE_HOME"):
        simulator(seeded_graph(7), prefer="native")


def test_a_cache_that_can_only_be_read(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library.build(CpuPath.PORTABLE, QUICK)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    for name in ("utime", "mkdir", "rename"):
        monkeypatch.setattr(os, name, refuse)
    assert library.build(CpuPath.PORTABLE, QUICK).cached


def _build_into(results: multiprocessing.SimpleQueue[tuple[int, bool]]) -> None:
    built = library.build(CpuPath.PORTABLE, QUICK)
    results.put((library.Library(built.library).lanes, built.cached))


def test_two_processes_compile_at_once(cache: Path) -> None:
    """Each gets a whole library, and nothing else is left in the cache."""
    fork = multiprocessing.get_context("fork")  # no import to wait for: both start compiling together
    results = fork.SimpleQueue()
    pair = [fork.Process(target=_build_into, args=(results,)) for _ in range(2)]
    for process in pair:
        process.start()
    built = [results.get() for _ in pair]
    for process in pair:
        process.join()
    assert built == [(4, False), (4, False)]
    assert len(list(cache.iterdir())) == 1


def test_without_a_compiler_torch_serves_with_a_note(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    graph, notes = seeded_graph(7), []
    with pytest.raises(ToolError, match="no C\\+\\+ compiler: install g\\+\\+"):
        Engine(graph)
    with pytest.raises(ToolError, match="no C\\+\\+ compiler"):
        simulator(graph, prefer="native")
    runner = simulator(graph, 1, note=notes.append)
    assert isinstance(runner, Simulator)
    assert notes == [
        "no C++ compiler: install g++ (Debian: apt-get install g++) or set CXX; "
        "the torch engine runs instead, exact as well but slower"
    ]
    assert len(runner.run(random_pixels(graph, 2, 0)).logits) == 2


def test_a_compiler_that_fails_names_its_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ToolError, match=r"the native engine does not compile: .*full log"):
        library.build(CpuPath.PORTABLE, ("-DHWQ_ENGINE_AVX2",))  # its header needs -mavx2


def test_torch_when_asked() -> None:
    assert isinstance(simulator(seeded_graph(7), 1, "torch"), Simulator)
    assert isinstance(simulator(seeded_graph(7), 1, "native"), Engine)


def test_the_path_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.VARIABLE, "portable")
    assert best_path() is CpuPath.PORTABLE
    assert Engine(seeded_graph(7), 1).path is CpuPath.PORTABLE
    monkeypatch.setenv(library.VARIABLE, "mmx")
    with pytest.raises(InputError, match="names 'mmx'; known: vnni, avx2, portable"):
        best_path()
    for junk in ("AVX2", " avx2", "avx2,vnni", "0"):
        monkeypatch.setenv(library.VARIABLE, junk)
        with pytest.raises(InputError):
            simulator(seeded_graph(7), 1)
    monkeypatch.setenv(library.VARIABLE, "")
    assert best_path() in CpuPath


def test_a_forced_path_that_the_cpu_lacks_compiles_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(library.VARIABLE, "vnni")
    monkeypatch.setattr(library, "_cpu_flags", lambda: {"sse2", "avx2"})
    notes: list[str] = []
    assert isinstance(simulator(seeded_graph(7), 1, note=notes.append), Simulator)
    assert "this CPU lacks the instructions of $HWQ_ENGINE_PATH=vnni" in notes[0]
    assert not cache.exists()


def test_without_avx2_the_portable_path_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(library.VARIABLE, raising=False)
    monkeypatch.setattr(library, "_cpu_flags", lambda: {"fpu", "sse2"})
    graph = seeded_graph(7)
    runner = simulator(graph, 1, "native")
    assert isinstance(runner, Engine)
    assert runner.path is CpuPath.PORTABLE
    pixels = random_pixels(graph, 3, 0)
    assert np.array_equal(runner.run(pixels).logits, Simulator(graph, 1).run(pixels).logits)


@pytest.mark.parametrize(
    ("flags", "path"),
    [
        ("fpu sse2", CpuPath.PORTABLE),
        ("sse2 avx2", CpuPath.AVX2),
        ("avx2 avx512f avx512bw avx512vl", CpuPath.AVX2),
        ("avx2 avx512f avx512bw avx512vl avx512_vnni", CpuPath.VNNI),
    ],
)
def test_the_fastest_path_of_a_cpu(flags: str, path: CpuPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(library.VARIABLE, raising=False)
    monkeypatch.setattr(library, "_cpu_flags", lambda: set(flags.split()))
    assert best_path() is path


def test_a_path_this_cpu_lacks_is_refused() -> None:
    if library._NEEDS[CpuPath.VNNI] <= library._cpu_flags():
        pytest.skip("this CPU has every path")
    with pytest.raises(ToolError, match="this CPU lacks the instructions"):
        Engine(seeded_graph(7), 1, CpuPath.VNNI, flags=QUICK)


@pytest.mark.parametrize("path", CpuPath)
def test_compiles_without_a_warning(path: CpuPath) -> None:
    """And `plain`, one of the variants, is compiled with the same warnings and optimised."""
    folder, _ = library.sources()
    flags = (*library._COMMON, *library.FLAGS[path], *STRICT)
    command = [*find_compiler().command, *flags, "-fsyntax-only", "engine.cpp"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:2000]


_SANITISED = """
from hwq.engine import CpuPath, Engine
from hwq.engine.methods import ALL, FALLBACKS
from tests.engine.conftest import extreme_pixels
from tests.engine.test_filtered import ONLY, SETTINGS, edge_case
from tests.engine.test_layers import layer
from tests.graphs import random_pixels, seeded_graph
flags = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
for seed in range(12):
    cases = [(layer(seed), extreme_pixels)] + [(seeded_graph(seed), random_pixels)] * (seed < 4)
    for graph, pixels in cases:
        for methods in (ALL, FALLBACKS):
            engine = Engine(graph, 1, CpuPath("{path}"), methods, flags)
            engine.run(pixels(graph, 4, seed), keep="all", batch=3)
            engine.run(pixels(graph, 4, seed))
for setting in SETTINGS:
    case = edge_case(*setting)
    Engine(case.graph, 1, CpuPath("{path}"), ONLY, flags).run(case.pixels)
print("clean")
"""


def test_no_stray_access_and_no_undefined_behaviour() -> None:
    """Under the address and undefined-behaviour sanitisers, in a process of their own."""
    compiler = find_compiler()
    runtime = []
    for name in ("libasan.so", "libubsan.so"):
        asked = [*compiler.command, f"-print-file-name={name}"]
        found = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        if not Path(found).is_absolute():
            pytest.skip(f"{compiler.version} brings no {name}")
        runtime.append(found)
    path = "avx2" if "avx2" in library._cpu_flags() else "portable"
    done = subprocess.run(
        [sys.executable, "-c", _SANITISED.format(path=path)],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "LD_PRELOAD": " ".join(runtime),
            "ASAN_OPTIONS": "detect_leaks=0",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "clean", done.stderr[-3000:]


def test_the_emulated_path_is_the_real_source() -> None:
    """Where neither the CPU nor SIMDe is there, this says so."""
    emulated = variant("emulated")
    graph = seeded_graph(3)
    pixels = random_pixels(graph, 3, 0)
    expected = Simulator(graph, threads=1).run(pixels).logits
    assert np.array_equal(emulated.engine(graph).run(pixels).logits, expected)
