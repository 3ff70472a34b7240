"""Image folders: root/train/<class>/*.jpg and root/test (or val). Decoded once, then cached."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from hwq.data.spec import Images
from hwq.errors import InputError
from hwq.files import cache_folder

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".gif", ".tif", ".tiff"})
_CHUNK = 256

Pixels = npt.NDArray[np.uint8]


def load_folder(root: Path, split: str) -> Images:
    """One split. Classes are the sorted folder names of `train`. Raises InputError naming the file."""
    folder = _split_folder(root, split)
    classes = _classes(folder)
    if split != "train" and (root / "train").is_dir():
        expected = _classes(root / "train")
        if classes != expected:
            odd = sorted(set(classes) ^ set(expected))
            raise InputError(f"{folder}: its classes differ from those of train ('{odd[0]}')")
    files, labels = _files(folder, classes)
    key = _key(folder, files)
    pixels = _read_cache(key, len(files))
    if pixels is None:
        pixels = _decode(files)
        _write_cache(key, pixels)
    return Images(pixels=pixels, labels=np.array(labels, dtype=np.int64), classes=tuple(classes))


def _split_folder(root: Path, split: str) -> Path:
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    names = ("train",) if split == "train" else ("test", "val")
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise InputError(f"{root}: has no folder '{names[0]}' (expected {names[0]}/<class>/*.jpg)")


def _classes(folder: Path) -> list[str]:
    names = sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
    if not names:
        raise InputError(f"{folder}: has no class folders (expected {folder.name}/<class>/*.jpg)")
    return names


def _files(folder: Path, classes: list[str]) -> tuple[list[os.DirEntry[str]], list[int]]:
    files: list[os.DirEntry[str]] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = [e for e in os.scandir(folder / name) if Path(e.name).suffix.lower() in _SUFFIXES]
        if not found:
            raise InputError(f"{folder / name}: has no images ({', '.join(sorted(_SUFFIXES)[:4])}, ...)")
        found.sort(key=lambda e: e.name)
        files += found
        labels += [label] * len(found)
    return files, labels


def _decode(files: list[os.DirEntry[str]]) -> Pixels:
    chunks = [files[i : i + _CHUNK] for i in range(0, len(files), _CHUNK)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decoded = [image for chunk in pool.map(_decode_some, chunks) for image in chunk]
    size = decoded[0].shape[:2]
    for entry, image in zip(files, decoded, strict=True):
        if image.shape[:2] != size:
            raise InputError(
                f"{entry.path}: is {image.shape[1]} x {image.shape[0]} pixels, but {files[0].name} is "
                f"{size[1]} x {size[0]}; all images must have one size"
            )
    if all(image.shape[2] == 1 for image in decoded):
        return np.stack(decoded)
    return np.stack([np.broadcast_to(image, (*size, 3)) for image in decoded])


def _decode_some(files: list[os.DirEntry[str]]) -> list[Pixels]:
    return [_decode_one(entry.path) for entry in files]


def _decode_one(path: str) -> Pixels:
    """(H, W, 1) for a greyscale file, else (H, W, 3)."""
    try:
        with Image.open(path) as image:
            grey = image.mode in ("L", "1")
            array = np.asarray(image.convert("L" if grey else "RGB"), dtype=np.uint8)
    except Exception as error:  # Pillow raises anything on a damaged file
        raise InputError(f"{path}: cannot read this image ({error})") from error
    return array[:, :, None] if grey else array


# -- cache ---------------------------------------------------------------------------------------


def _key(folder: Path, files: list[os.DirEntry[str]]) -> str:
    """<hash of the path>-<hash of every name, size and time>: the first part finds outdated entries."""
    where = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    digest = hashlib.sha256(str(len(files)).encode())
    for entry in files:
        stat = entry.stat()
        digest.update(f"{entry.path}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return f"{where}-{digest.hexdigest()[:32]}"


def _read_cache(key: str, count: int) -> Pixels | None:
    path = cache_folder() / f"{key}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            pixels: Pixels = stored["pixels"]  # the zip's checksum is verified here
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return pixels if pixels.dtype == np.uint8 and pixels.ndim == 4 and len(pixels) == count else None


def _write_cache(key: str, pixels: Pixels) -> None:
    """Best effort: a full or read-only disk only costs the decoding next time."""
    folder = cache_folder()
    temporary = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, suffix=".part")
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, pixels=pixels)
        for old in folder.glob(f"{key.split('-')[0]}-*.npz"):
            old.unlink(missing_ok=True)
        Path(temporary).replace(folder / f"{key}.npz")
    except OSError:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
