"""Data sets, the folder cache, and bad input."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hwq.data import DataSpec, Images, load_split, measure, normalisation
from hwq.errors import InputError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hwq"


@pytest.fixture
def root(tmp_path: Path, cache: Path) -> Path:
    base = tmp_path / "data"
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("b", "a"):
            (base / split / name).mkdir(parents=True)
            for i in range(3):
                pixels = random.integers(0, 256, (5, 6, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(base / split / name / f"{i}.png")
    return base


def _load(root: Path, split: str = "train") -> Images:
    return load_split(DataSpec(name="folder", root=str(root)), split)


def test_digits_split_is_fixed() -> None:
    train, test = (load_split(DataSpec(name="digits"), s) for s in ("train", "test"))
    assert (len(train), len(test), train.shape) == (1442, 355, (8, 8, 1))
    assert set(np.unique(train.pixels)) == {int(v * 255 / 16 + 0.5) for v in range(17)}
    assert np.bincount(test.labels).min() >= 34


def test_folder(root: Path) -> None:
    images = _load(root)
    assert images.classes == ("a", "b")
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.shape == (5, 6, 3)
    with Image.open(root / "train" / "b" / "1.png") as stored:
        assert np.array_equal(images.pixels[4], np.asarray(stored))


def test_measured_normalisation(root: Path) -> None:
    pixels = _load(root).pixels.reshape(-1, 3) / 255
    mean, std = normalisation(DataSpec(name="folder", root=str(root)))
    assert mean == tuple(np.round(pixels.mean(0), 6).tolist())
    assert std == tuple(np.round(pixels.std(0), 6).tolist())


def test_cache_is_used_and_survives_damage(root: Path, cache: Path) -> None:
    before = _load(root)
    (stored,) = cache.glob("*.npz")
    whole = stored.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"nonsense", whole[:300] + b"\xff" * 20 + whole[320:]):
        stored.write_bytes(damaged)
        assert np.array_equal(_load(root).pixels, before.pixels)
    # unchanged files: the cache is what is read
    np.savez(stored, pixels=before.pixels ^ 1, bad=np.zeros(0, np.int64))
    assert np.array_equal(_load(root).pixels, before.pixels ^ 1)


def test_a_changed_image_is_read_again(root: Path, cache: Path) -> None:
    _load(root)
    path = root / "train" / "a" / "0.png"
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(path)
    os.utime(path, ns=(1, 1))
    assert _load(root).pixels[0].max() == 0
    assert len(list(cache.glob("*.npz"))) == 1  # the outdated entry is gone


def test_cache_that_cannot_be_written(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert len(_load(root)) == 6


def test_grey_and_mixed(root: Path) -> None:
    for path in (root / "train").glob("*/*.png"):
        Image.fromarray(np.full((5, 6), 7, np.uint8)).save(path)
    assert _load(root).shape == (5, 6, 1)
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(root / "train" / "a" / "0.png")
    images = _load(root)
    assert images.shape == (5, 6, 3)
    assert images.pixels[1].tolist() == np.full((5, 6, 3), 7).tolist()


def test_val_stands_in_for_test(root: Path) -> None:
    (root / "test").rename(root / "val")
    assert len(_load(root, "test")) == 6


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: (r / "train" / "a" / "1.png").write_bytes(b"\x89PNG broken"), "1.png: cannot read"),
        (lambda r: [p.unlink() for p in (r / "train" / "a").iterdir()], "a: has no images"),
        (lambda r: (r / "train").rename(r / "else"), "has no folder 'train'"),
        (lambda r: Image.new("RGB", (9, 9)).save(r / "train" / "b" / "2.png"), "2.png: is 9 x 9"),
        (lambda r: (r / "test" / "a").rename(r / "test" / "z"), "classes differ"),
    ],
)
def test_bad_folders(root: Path, damage: object, message: str) -> None:
    damage(root)  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        _load(root, "test" if "classes" in message else "train")


def test_missing_data(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        _load(tmp_path / "gone")
    with pytest.raises(InputError, match="--download"):
        load_split(DataSpec(name="cifar10", root=str(tmp_path)), "train")
    with pytest.raises(InputError, match="unknown data set"):
        DataSpec.parse("cifar11")
    with pytest.raises(InputError, match="folder:/path"):
        DataSpec.parse("folder")


def test_measure_of_a_constant_image() -> None:
    flat = Images(pixels=np.zeros((1, 2, 2, 1), np.uint8), labels=np.zeros(1, np.int64), classes=("a",))
    assert measure(flat) == ((0.0,), (1 / 255,)) or measure(flat)[1][0] > 0
