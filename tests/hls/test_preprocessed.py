"""What a synthesiser sees once the macros are expanded."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from hwq.emit import Folding, emit
from hwq.ir import Conv2d, Linear
from tests.emit.conftest import every_op
from tests.hls.test_pragmas import COMMON, VITIS, VIVADO, faults

FOLDING = {"stem": Folding(8, 3), "dw": Folding(1, 1), "pair": Folding(4, 1), "main": Folding(1, 6)}
RULES = {"vitis": VITIS | COMMON, "vivado": VIVADO | COMMON}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("preprocessed") / "project"
    emit(every_op(), folding=FOLDING).write(place)
    return place


def _seen(project: Path, dialect: str) -> list[str]:
    """The top function's translation unit, without the C++ library before it.

    The build on built-in integers, which needs none of AMD's headers.
    """
    switches = ["-D__SYNTHESIS__", "-DHWQ_NATIVE=1", "-DHWQ_FOLDED=1"]
    switches += ["-DHWQ_VIVADO_HLS=1"] if dialect == "vivado" else []
    command = ["g++", "-E", "-P", "-std=c++11", "-Ifirmware", "-Ihls", *switches, "firmware/net_top.cpp"]
    text = subprocess.run(command, cwd=project, check=True, capture_output=True, text=True).stdout
    return text.partition("namespace hwq {")[2].splitlines()


@pytest.mark.parametrize("dialect", RULES)
def test_pragmas_are_those_of_the_dialect(project: Path, dialect: str) -> None:
    lines = _seen(project, dialect)
    pragmas = [line.strip().removeprefix("#pragma ") for line in lines if "pragma" in line]
    assert [fault for pragma in pragmas for fault in faults(pragma, RULES[dialect])] == []
    found = {pragma.split()[1] for pragma in pragmas}
    assert found == set(RULES[dialect])  # each is in use
    assert "HWQ_P" not in "\n".join(lines)


@pytest.mark.parametrize("dialect", RULES)
def test_weight_memories(project: Path, dialect: str) -> None:
    """PE memories, SIMD weights a word, and no pragma with factor 1."""
    text = "\n".join(_seen(project, dialect))
    assert not re.search(r"factor=(?!\d)|factor=1\b", text)
    graph = every_op()
    kind = "type=cyclic" if dialect == "vitis" else "cyclic"
    for op in graph:
        if not isinstance(op, Conv2d | Linear) or op.name not in FOLDING:
            continue
        name = "weight_" + op.name.replace("main", "op_main")
        fold = FOLDING[op.name]
        banks = f"ARRAY_PARTITION variable={name} {kind} factor={fold.pe} dim=1"
        wide = f"ARRAY_RESHAPE variable={name} {kind} factor={fold.simd} dim=2"
        assert (banks in text) == (fold.pe > 1)
        assert (wide in text) == (fold.simd > 1)


@pytest.mark.parametrize("dialect", RULES)
def test_the_dataflow_region_holds_streams_and_calls_only(project: Path, dialect: str) -> None:
    lines = _seen(project, dialect)
    start = max(i for i, line in enumerate(lines) if line.startswith("void net_top("))
    body = [line.strip() for line in lines[start + 1 :] if line.strip()]
    statements = [line for line in body if line not in ("{", "}") and not line.startswith("#pragma")]
    assert len(statements) > 20
    for line in statements:
        declared = re.fullmatch(r'hwq::stream<hwq::word<.*> > (\w+)\("\1"\);', line)
        called = re.fullmatch(r"[\w:]+(<[\w:, ()]+>)?\(s?\w+(, \w+)*\);", line)
        assert declared or called, line
        if declared:
            assert any(f"STREAM variable={declared[1]} depth=" in other for other in body)
            assert any(re.search(rf"(AGGREGATE|DATA_PACK) variable={declared[1]}\b", other) for other in body)
