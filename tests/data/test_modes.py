"""What the pixels of a file are, for every mode of image: exact tables, and torchvision's own loader."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets.folder import default_loader

from hwq.data import DataSpec, Files, load_split
from hwq.data.decode import RandomView, View, opened, read, read_random
from hwq.errors import InputError

DEEP = (0, 1, 255, 256, 257, 511, 512, 4095, 32767, 32768, 65279, 65280, 65534, 65535)
UPPER = tuple(value // 256 for value in DEEP)
Make = Callable[[Path], None]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def tiff(
    bits: int, photometric: int, values: tuple[int, ...], *, sample: int = 1, big: bool = False
) -> bytes:
    """One row of grey values, uncompressed, as the TIFF 6.0 specification lays it out."""
    order = ">" if big else "<"
    kind = {(16, 1): "H", (16, 2): "h", (32, 1): "I", (32, 3): "f"}.get((bits, sample))
    if kind is None:
        whole = "".join(f"{value:012b}" for value in values)
        data = bytes(int(whole[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(whole), 8))
    else:
        data = b"".join(struct.pack(order + kind, value) for value in values)
    tags = [(256, len(values)), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1)]
    tags += [(278, 1), (279, len(data)), (339, sample)]
    padded = data + b"\0" * (len(data) % 2)
    entries = b"".join(
        struct.pack(order + "HHI", tag, 3, 1) + struct.pack(order + "Hxx", value) for tag, value in tags
    )
    head = (b"MM" if big else b"II") + struct.pack(order + "HI", 42, 8 + len(padded))
    return head + padded + struct.pack(order + "H", len(tags)) + entries + b"\0\0\0\0"


def saved(array: np.ndarray, kind: str) -> Make:
    return lambda path: Image.fromarray(array).save(path, kind)


def written(content: bytes) -> Make:
    return lambda path: path.write_bytes(content) and None


ROW = np.array([DEEP], dtype=np.uint16)
WIDE: dict[str, tuple[str, Make, tuple[int, ...]]] = {
    "png": ("I;16", saved(ROW, "PNG"), UPPER),
    "tiff": ("I;16", saved(ROW, "TIFF"), UPPER),
    "tiff, big-endian": ("I;16B", written(tiff(16, 1, DEEP, big=True)), UPPER),
    "tiff, white is zero": ("I;16", written(tiff(16, 0, DEEP)), tuple(255 - v for v in UPPER)),
    "tiff, 12 bits": ("I;16", written(tiff(12, 1, (0, 15, 16, 255, 4095, 4080))), (0, 0, 1, 15, 255, 255)),
    "pgm": ("I", written(b"P5 14 1 65535\n" + ROW.astype(">u2").tobytes()), UPPER),
    "pgm up to 1023": ("I", written(b"P5 3 1 1023\n\0\0\x02\0\x03\xff"), (0, 128, 255)),
}


@pytest.mark.parametrize("name", WIDE)
def test_grey_images_of_more_than_8_bits_keep_the_upper_8(name: str, tmp_path: Path) -> None:
    mode, make, values = WIDE[name]
    path = tmp_path / "x.img"
    make(path)
    with opened(str(path)) as image:
        assert image.mode == mode
    assert read(str(path), View())[..., 0].tolist() == [list(values)]
    assert read(str(path), View()).shape[2] == 1
    for channels in (1, 3):
        pixels = read(str(path), View(channels=channels))
        assert pixels.shape[2] == channels
        assert (pixels == np.array(values, dtype=np.uint8)[None, :, None]).all()


@pytest.mark.parametrize("factor", [256, 257])
def test_an_8_bit_image_that_was_widened_comes_back(factor: int, tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(grey.astype(np.uint16) * factor).save(tmp_path / "x.png")
    assert (read(str(tmp_path / "x.png"), View())[..., 0] == grey).all()


def test_grey_and_colour_of_16_bits_agree(tmp_path: Path) -> None:
    """The same values as P5 and as three equal channels of P6, which Pillow narrows itself."""
    (tmp_path / "grey.png").write_bytes(_png16(ROW[..., None], 0))
    (tmp_path / "colour.png").write_bytes(_png16(np.repeat(ROW[..., None], 3, axis=2), 2))
    grey, colour = (read(str(tmp_path / f"{name}.png"), View(channels=3)) for name in ("grey", "colour"))
    assert np.array_equal(grey, colour)
    assert np.array_equal(colour, np.asarray(default_loader(str(tmp_path / "colour.png"))))


def _png16(pixels: np.ndarray, colour_type: int) -> bytes:
    """(H, W, C) of 16 bits as a PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


UNKNOWN: dict[str, tuple[str, Make]] = {
    "32-bit integers": ("I", written(tiff(32, 1, (0, 70000)))),
    "signed 16-bit integers": ("I", written(tiff(16, 1, (0, 700), sample=2))),
    "floats": ("F", written(tiff(32, 1, (0, 1), sample=3))),
    "floats in pgm": ("F", written(b"Pf\n1 1\n-1.0\n" + struct.pack("<f", 0.5))),
}


@pytest.mark.parametrize("name", UNKNOWN)
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_what_has_no_known_white_is_refused(name: str, channels: int | None, tmp_path: Path) -> None:
    mode, make = UNKNOWN[name]
    path = tmp_path / "x.img"
    make(path)
    with pytest.raises(InputError, match=rf"x\.img: cannot read this image \(mode {mode}: .*8 or 16 bits"):
        read(str(path), View(channels=channels))


def _noise(mode: str) -> Image.Image:
    random = np.random.default_rng(5)
    bands = {"1": 1, "L": 1, "P": 3, "LA": 2, "PA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4, "YCbCr": 3}[mode]
    pixels = random.integers(0, 256, (9, 11, bands), dtype=np.uint8)
    if mode == "P":
        return Image.fromarray(pixels).quantize(17)
    if mode == "1":
        return Image.fromarray(pixels[..., 0]).convert("1")
    if bands == 1:
        return Image.fromarray(pixels[..., 0])
    if mode == "PA":
        return Image.merge("LA", [Image.fromarray(band) for band in pixels.transpose(2, 0, 1)]).convert("PA")
    return Image.merge(mode, [Image.fromarray(band) for band in pixels.transpose(2, 0, 1)])


RIGHT = [
    *(("1", kind) for kind in ("PNG", "TIFF", "BMP", "GIF", "PPM")),
    *(("L", kind) for kind in ("PNG", "TIFF", "BMP", "JPEG", "PPM", "GIF")),
    *(("LA", kind) for kind in ("PNG", "TIFF")),
    *(("P", kind) for kind in ("PNG", "TIFF", "BMP", "GIF")),
    *(("RGB", kind) for kind in ("PNG", "TIFF", "BMP", "JPEG", "PPM", "WEBP")),
    *(("RGBA", kind) for kind in ("PNG", "TIFF", "WEBP", "BMP")),
    *(("CMYK", kind) for kind in ("TIFF", "JPEG")),
    ("YCbCr", "TIFF"),
]


@pytest.mark.parametrize(("mode", "kind"), RIGHT)
def test_every_other_mode_is_torchvisions(mode: str, kind: str, tmp_path: Path) -> None:
    path = str(tmp_path / "x.img")
    _noise(mode).save(path, kind)
    want = np.asarray(default_loader(path))
    assert want.std() > 10
    assert np.array_equal(read(path, View(channels=3)), want)
    own = read(path, View())
    if kind != "GIF":  # its palettes are grey ones or not, as Pillow sees it
        assert own.shape[2] == (1 if mode in ("1", "L", "LA") else 3)
    assert np.array_equal(np.broadcast_to(own, want.shape), want)
    with Image.open(path) as image:
        assert np.array_equal(read(path, View(channels=1))[..., 0], np.asarray(image.convert("L")))


@pytest.mark.parametrize("transparency", [3, bytes(range(17))], ids=["one colour", "alpha by colour"])
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_transparency_is_dropped(transparency: int | bytes, tmp_path: Path) -> None:
    path = str(tmp_path / "x.png")
    _noise("P").save(path, transparency=transparency)
    assert np.array_equal(read(path, View()), np.asarray(default_loader(path)))
    assert np.array_equal(read(path, View()), np.asarray(_noise("P").convert("RGB")))
    _noise("RGBA").save(path)
    assert np.array_equal(read(path, View()), np.asarray(_noise("RGBA"))[..., :3])


def test_an_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    path = str(tmp_path / "x.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    _noise("RGB").save(path, exif=exif)
    assert read(path, View()).shape == (9, 11, 3)
    assert np.array_equal(read(path, View()), np.asarray(default_loader(path)))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_counts(kind: str, tmp_path: Path) -> None:
    path = str(tmp_path / "x.img")
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue", "green")]
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(path) as image:
        assert image.n_frames == 3
    assert np.array_equal(read(path, View()), np.asarray(frames[0]))


def _folder(root: Path, images: dict[str, Image.Image]) -> DataSpec:
    for split in ("train", "test"):
        (root / split / "a").mkdir(parents=True)
        for name, image in images.items():
            image.save(root / split / "a" / name)
    return DataSpec(name="folder", root=str(root))


@pytest.mark.parametrize("files", [False, True], ids=["in memory", "decoded as used"])
def test_a_folder_of_grey_images_has_one_channel(files: bool, tmp_path: Path) -> None:
    deep = Image.fromarray(np.full((9, 11), 40 * 257, dtype=np.uint16))
    grey = {"1.png": _noise("L"), "2.png": _noise("LA"), "3.png": _noise("1"), "4.png": deep}
    found = load_split(_folder(tmp_path / "grey", grey), "train", files=files)
    assert isinstance(found, Files) == files
    assert found.shape == (9, 11, 1)
    assert (found.head(4).pixels[3] == 40).all()
    mixed = _folder(tmp_path / "mixed", {**grey, "5.png": _noise("RGB")})
    found = load_split(mixed, "train", files=files)
    assert found.shape == (9, 11, 3)
    for path, pixels in zip(
        sorted((tmp_path / "mixed/train/a").iterdir()), found.head(5).pixels, strict=True
    ):
        if path.name != "4.png":
            assert np.array_equal(pixels, np.asarray(default_loader(str(path))))


def test_a_random_part_of_a_wide_image_is_that_of_the_narrow_one(tmp_path: Path) -> None:
    grey = np.asarray(_noise("L"))
    Image.fromarray(grey).save(tmp_path / "narrow.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "wide.png")
    view = RandomView(size=5, seed=1, jitter=0.3, channels=3)
    for epoch in range(4):
        parts = [read_random(str(tmp_path / f"{n}.png"), view, epoch, 0) for n in ("narrow", "wide")]
        assert np.array_equal(*parts)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "JPEG", "PPM", "GIF", "WEBP"])
def test_half_an_image_is_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.img"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path, kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"x\.img: cannot read this image") as caught:
        read(str(path), View())
    assert "\n" not in str(caught.value)


def test_hostile_files_are_one_line(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = tmp_path / "x.png"

    def said() -> str:
        with pytest.raises(InputError) as caught:
            read(str(path), View())
        text = str(caught.value)
        assert text.startswith(f"{path}: cannot read this image (")
        assert len(text) < 500
        assert "\n" not in text
        return text

    for size in (10_000, 60_000):  # what Pillow warns of, and what it refuses
        head = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
        whole = _png16(np.zeros((1, 1, 1), dtype=np.uint16), 0)
        bomb = whole[:16] + head + struct.pack(">I", zlib.crc32(b"IHDR" + head)) + whole[33:]
        path.write_bytes(bomb)
        assert "pixels" in said()
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    assert "cannot identify" in said()  # Pillow would start an interpreter for it
    path.write_bytes(b"")
    assert "cannot identify" in said()
    path.unlink()
    os.mkfifo(path)  # reading it would wait for ever
    assert "FIFO" in said()
    path.unlink()
    assert "no such file" in said()
    path.mkdir()
    assert "folder" in said()
    assert not [w for w in recwarn if w.category is not Image.DecompressionBombWarning]
