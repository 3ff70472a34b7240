"""CIFAR in torchvision's own files, generated: pickled batches of rows of 3,072 bytes, planes first."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from hwq.data import DataSpec, Images, load_split, normalisation
from hwq.errors import InputError

COUNTS = {"train": 250, "test": 120}


def _store(path: Path, content: object) -> str:
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-100 with few images; torchvision checks digests, so it is told the new ones."""
    folder, random = tmp_path / datasets.CIFAR100.base_folder, np.random.default_rng(0)
    folder.mkdir()
    for split, count in COUNTS.items():
        rows = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        labels = {"fine_labels": [i % 100 for i in range(count)], "coarse_labels": [0] * count}
        digest = _store(folder / split, {"data": rows, **labels})
        monkeypatch.setattr(datasets.CIFAR100, f"{split}_list", [[split, digest]])
    digest = _store(folder / "meta", {"fine_label_names": [f"class {i}" for i in range(100)]})
    monkeypatch.setattr(datasets.CIFAR100, "meta", {**datasets.CIFAR100.meta, "md5": digest})
    return tmp_path


@pytest.mark.parametrize("split", COUNTS)
def test_cifar100(root: Path, split: str) -> None:
    found = load_split(DataSpec.parse(f"cifar100:{root}"), split)
    assert isinstance(found, Images)
    assert (len(found), found.shape, len(found.classes)) == (COUNTS[split], (32, 32, 3), 100)
    assert found.classes[99] == "class 99"
    assert found.labels.tolist() == [i % 100 for i in range(COUNTS[split])]
    rows = pickle.loads((root / "cifar-100-python" / split).read_bytes())["data"]
    assert np.array_equal(found.pixels, rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    assert len(normalisation(DataSpec(name="cifar100"))[0]) == 3


def test_a_damaged_file(root: Path) -> None:
    path = root / "cifar-100-python" / "train"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="cifar100: not found in"):
        load_split(DataSpec.parse(f"cifar100:{root}"), "train")
