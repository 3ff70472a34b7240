"""Folders of photographs of any size: scaled, decoded as they are used, bad files among them."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from hwq.data import DataSpec, Files, Images, Loader, RandomView, load_split, measure, normalisation
from hwq.data.decode import View, random_box, read, read_random
from hwq.errors import InputError, ToolError

SIZES = ((40, 30), (30, 40), (64, 33), (37, 37), (200, 24))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, five photographs of different sizes in each split."""
    base, random = tmp_path / "photos", np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (base / split / name).mkdir(parents=True)
            for i, (width, height) in enumerate(SIZES):
                pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(base / split / name / f"{i}.png")
    return base


def _spec(root: Path, **keys: object) -> DataSpec:
    return DataSpec(name="folder", root=str(root), **{"size": 24, "resize": 28, **keys})  # type: ignore[arg-type]


def _files(root: Path, split: str = "train", **keys: object) -> Files:
    found = load_split(_spec(root, **keys), split, files=True, workers=0)
    assert isinstance(found, Files)
    return found


def test_the_tested_view_is_torchvisions(root: Path) -> None:
    usual = v2.Compose([v2.Resize(28), v2.CenterCrop(24)])
    found = load_split(_spec(root), "test")
    assert isinstance(found, Images)
    for i, path in enumerate(sorted((root / "val").glob("*/*.png"))):
        with Image.open(path) as image:
            assert np.array_equal(found.pixels[i], np.asarray(usual(image)))


@pytest.mark.parametrize("index", range(3))
def test_a_random_view_is_a_part_scaled_and_half_of_them_flipped(root: Path, index: int) -> None:
    path, flipped = str(root / "train" / "cat" / f"{index}.png"), 0
    with Image.open(path) as image:
        for epoch in range(20):
            rng = np.random.default_rng((3, epoch, index))
            left, top, width, height = random_box(*image.size, rng)
            want = np.asarray(v2.functional.resized_crop(image, top, left, height, width, [24, 24]))
            got = read_random(path, RandomView(size=24, seed=3), epoch, index)
            mirrored = np.array_equal(got, want[:, ::-1])
            assert mirrored or np.array_equal(got, want)
            flipped += mirrored
    assert 4 <= flipped <= 16


def test_random_boxes_keep_their_bounds() -> None:
    rng, shares = np.random.default_rng(0), []
    for _ in range(2000):
        left, top, width, height = random_box(50, 40, rng)
        assert 0 <= left <= 50 - width
        assert 0 <= top <= 40 - height
        shares.append(width * height / 2000)
        # half a pixel of rounding on each side
        assert 0.75 * (height - 0.5) - 0.5 <= width <= 4 / 3 * (height + 0.5) + 0.5
    assert 0.07 < min(shares) < 0.1
    assert 0.9 < max(shares) <= 1
    assert random_box(1000, 10, rng)[2:] == (13, 10)  # no draw fits: the largest part of 4:3
    assert random_box(10, 1000, rng) == (0, 493, 10, 13)


def test_jitter_changes_colours_and_nothing_else_random(root: Path) -> None:
    path = str(root / "train" / "cat" / "0.png")
    plain, strong = RandomView(size=24), RandomView(size=24, jitter=0.4)
    differ = [
        not np.array_equal(read_random(path, plain, e, 0), read_random(path, strong, e, 0)) for e in range(5)
    ]
    assert all(differ)
    assert np.array_equal(read_random(path, strong, 2, 0), read_random(path, strong, 2, 0))


@pytest.mark.parametrize("channels", [1, 3])
def test_channels(root: Path, channels: int) -> None:
    path = root / "train" / "cat" / "0.png"
    Image.new("L", (30, 30), 7).save(path)
    for found in (load_split(_spec(root, channels=channels), "train"), _files(root, channels=channels)):
        assert found.shape == (24, 24, channels)
        assert (found.head(10).pixels[0] == 7).all()


def test_files_are_images_that_are_decoded_later(root: Path) -> None:
    whole, files = load_split(_spec(root), "train"), _files(root)
    assert isinstance(whole, Images)
    assert (len(files), files.shape, files.classes) == (len(whole), whole.shape, whole.classes)
    assert np.array_equal(files.labels, whole.labels)
    for count in (1, 3, 10, 99):
        assert np.array_equal(files.head(count).pixels, whole.head(count).pixels)
        assert np.array_equal(files.head(count).labels, whole.head(count).labels)
    for first, step in ((0, 1), (1, 2), (5, 1)):
        one, other = (list(s.batches(3, first, step)) for s in (whole, files))
        assert len(one) == len(other)
        for (pixels, labels), (again, same) in zip(one, other, strict=True):
            assert np.array_equal(pixels, again)
            assert np.array_equal(labels, same)
    assert measure(files) == measure(whole)


def test_a_set_larger_than_its_memory_is_decoded_later(root: Path) -> None:
    size = 10 * 24 * 24 * 3 / 2**30
    assert isinstance(load_split(_spec(root, memory=size), "train"), Images)
    files = load_split(_spec(root, memory=size * 0.99), "train", workers=0)
    assert isinstance(files, Files)
    assert len(files.head(10)) == 10
    files = replace(files, limit=9 * 24 * 24 * 3)
    assert len(files.head(9)) == 9
    with pytest.raises(InputError, match="take a sample"):
        files.pixels  # noqa: B018


def test_workers_change_nothing(root: Path) -> None:
    view, digests = RandomView(size=24, jitter=0.2, seed=5), set()
    for workers in (0, 1, 3):
        files = load_split(_spec(root), "train", files=True, workers=workers)
        assert isinstance(files, Files)
        before, loader, digest = torch.get_rng_state(), Loader(files, view), hashlib.sha256()
        for epoch in range(2):
            positions = [[(epoch, i), (epoch, 9 - i)] for i in range(5)]
            for number, (pixels, labels) in enumerate(loader.load(iter(positions))):
                digest.update(pixels.numpy().tobytes() + labels.numpy().tobytes())
                if epoch == 0 and number == 2:
                    break  # an interrupted pass must not leak into the next
        assert torch.equal(before, torch.get_rng_state())
        digests.add(digest.hexdigest())
    assert len(digests) == 1


def test_ctrl_c_reaches_no_decoder_and_a_kill_is_told(root: Path) -> None:
    files = load_split(_spec(root), "train", files=True, workers=1)
    assert isinstance(files, Files)
    loader = Loader(files, RandomView(size=24))
    passes = loader.load([(0, 0)] for _ in range(1000))
    next(passes)
    worker = loader.loader._iterator._workers[0]  # type: ignore[union-attr]
    os.kill(worker.pid, signal.SIGINT)
    for _ in range(20):
        next(passes)
    assert worker.is_alive()
    os.kill(worker.pid, signal.SIGKILL)
    time.sleep(1)  # a step of training: told there, it would be a traceback out of anywhere
    with pytest.raises(ToolError, match="--workers 0 needs none"):
        list(passes)


def _cut(path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 90, 3), dtype=np.uint8))
    image.save(path, "JPEG", quality=95)
    path.write_bytes(path.read_bytes()[:-2000])


DAMAGES = {
    "cut short": _cut,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("<html>404</html>"),
    "gone": lambda path: (path.unlink(), path.symlink_to("nowhere")),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("workers", [None, 0, 2])
@pytest.mark.parametrize("checked", [0, 10_000])
def test_a_bad_file_is_named(
    root: Path, damage: str, workers: int | None, checked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """workers None: in memory. checked 0: found out when it is used."""
    monkeypatch.setattr("hwq.data.folder._CHECKED", checked)
    DAMAGES[damage](root / "train" / "dog" / "3.png")

    def use() -> None:
        found = load_split(_spec(root), "train", files=workers is not None, workers=workers)
        if checked:
            pytest.fail("not noticed in time")
        list(found.batches(4))

    with pytest.raises(InputError, match=r"dog/3\.png: cannot read this image") as caught:
        use()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("files", [False, True])
def test_bad_files_are_left_out_on_request(root: Path, damage: str, files: bool) -> None:
    whole = load_split(_spec(root), "train").head(99)
    for name in ("dog/3.png", "cat/0.png"):
        DAMAGES[damage](root / "train" / name)
    for _ in range(2):  # the second time from the cache
        found = load_split(_spec(root, skip_bad=True), "train", files=files, workers=0)
        assert [Path(p).parent.name + "/" + Path(p).name for p in found.left_out] == [
            "cat/0.png",
            "dog/3.png",
        ]
        keep = [1, 2, 3, 4, 5, 6, 7, 9]
        assert np.array_equal(found.pixels, whole.pixels[keep])
        assert np.array_equal(found.labels, whole.labels[keep])
    for path in (root / "train").glob("*/*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"none of its 10 images can be read"):
        load_split(_spec(root, skip_bad=True), "train", files=files).head(1)


def test_files_of_two_sizes_need_a_size(root: Path) -> None:
    for spec in (_spec(root, size=None, resize=None), _spec(root, size=None, resize=None, memory=0.0)):
        with pytest.raises(InputError, match=r"1\.png: is 30 x 40 pixels, but .* 40 x 30.*--size"):
            list(load_split(spec, "train", workers=0).batches(4))


def test_imagenet(root: Path) -> None:
    spec = DataSpec.parse(f"imagenet:{root}")
    assert spec.view == View(size=224, resize=256, channels=3)
    assert normalisation(spec) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    found = load_split(spec, "test")
    assert (len(found), found.shape, found.classes) == (10, (224, 224, 3), ("cat", "dog"))
    small = DataSpec.parse(f"folder:{root}", like=_spec(root, channels=1))
    assert small.view == View(size=24, resize=28, channels=1)
    with pytest.raises(InputError, match="where is it"):
        load_split(DataSpec(name="imagenet"), "train")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"size": 0}, "size must be at least 1"),
        ({"size": 32, "resize": 30}, "resize at least size"),
        ({"size": None}, "resize needs size"),
        ({"channels": 4}, "channels must be 1 or 3"),
        ({"memory": -1.0}, "memory must be"),
        ({"memory": float("nan")}, "memory must be"),
        ({"name": "digits", "root": None}, "for folders of images"),
    ],
)
def test_bad_keys(root: Path, keys: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DataSpec(**{"name": "folder", "root": str(root), "size": 24, "resize": 28, **keys})  # type: ignore[arg-type]


def test_sixteen_bit_and_palette_files(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(colours).quantize(8).save(tmp_path / "palette.png")
    assert read(str(tmp_path / "palette.png"), View()).shape == (9, 9, 3)
    Image.fromarray(colours).convert("RGBA").save(tmp_path / "alpha.png")
    assert np.array_equal(read(str(tmp_path / "alpha.png"), View()), colours)
    Image.fromarray(colours).convert("CMYK").save(tmp_path / "cmyk.jpg")
    assert read(str(tmp_path / "cmyk.jpg"), View(channels=1)).shape == (9, 9, 1)
