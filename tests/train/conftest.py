from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.train.runs import FLOAT, recipe, run


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def float_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float network that has learned a little: a start, and a teacher."""
    out = tmp_path_factory.mktemp("float") / "run"
    run(recipe(policy=FLOAT, lr=0.1), out)
    return out
