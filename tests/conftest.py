"""What holds for every test: randomness that follows from its name, and one cache of compiled libraries."""

from __future__ import annotations

import os
import random
import sys
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

SEED = int(os.environ.get("HWQ_TEST_SEED", "0"))
"""The suite with other random networks, images and weights: HWQ_TEST_SEED=7 make test."""


def seed_all(name: str) -> None:
    """Seed torch, numpy and random from a name: what is drawn depends neither on order nor on selection."""
    seed = zlib.crc32(f"{SEED} {name}".encode())
    random.seed(seed)
    np.random.seed(seed)  # what code under test may draw from
    torch = sys.modules.get("torch")  # a test that needs none does not wait for it
    if torch is not None:
        torch.manual_seed(seed)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Hypothesis draws the same examples each time, others for another seed."""
    hypothesis.settings.register_profile("suite", derandomize=SEED == 0, database=None)
    hypothesis.settings.load_profile("suite")
    if SEED and config.getoption("hypothesis_seed", None) is None:
        config.option.hypothesis_seed = str(SEED)


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makemodule(module_path: Path) -> Generator[None, Any, Any]:
    seed_all(module_path.name)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
    seed_all(f"{fixturedef.baseid} {fixturedef.argname}")
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    seed_all(item.nodeid)
    return (yield)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Generator[None, None, None]:
    """Compiled libraries and decoded images stay out of the user's cache; all workers share one."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(shared / "cache"))
        patch.setenv("COLUMNS", "100")
        yield
