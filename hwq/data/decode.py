"""One image file -> uint8 pixels: as it is, as the centre that is tested, or as a random part to train on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance

from hwq.errors import InputError

Pixels = npt.NDArray[np.uint8]

_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_TRIES = 10
_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What is seen of a file. resize: pixels of the shorter side; size: side of the square cut from its
    centre. None for both: the file as it is. channels: 1 or 3; None: 1 for grey files, else 3.
    """

    size: int | None = None
    resize: int | None = None
    channels: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomView:
    """A random part of 8 to 100 % of the area, 3:4 to 4:3, scaled to `size` x `size`; half of them flipped.

    The crop of Szegedy et al. 2015 (section 6). jitter: brightness, contrast and saturation each times
    1 - jitter .. 1 + jitter, in random order. What an image gets depends on (seed, epoch, index) alone.
    """

    size: int
    channels: int | None = None
    jitter: float = 0.0
    seed: int = 0


def read(path: str, view: View) -> Pixels:
    """(H, W, C). Raises InputError naming the file when it is missing, damaged or cut short."""
    image = _open(path, view.channels)
    if view.size is not None:
        assert view.resize is not None
        image = _centre(_shrink(image, view.resize), view.size)
    return _array(image)


def read_random(path: str, view: RandomView, epoch: int, index: int) -> Pixels:
    """(size, size, C). Raises InputError as `read` does."""
    image = _open(path, view.channels)
    rng = np.random.default_rng((view.seed % (1 << 63), epoch, index))
    left, top, width, height = random_box(*image.size, rng)
    part = image.crop((left, top, left + width, top + height))
    part = part.resize((view.size, view.size), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if view.jitter:
        for i in rng.permutation(len(_ENHANCERS)):
            factor = rng.uniform(max(0.0, 1 - view.jitter), 1 + view.jitter)
            part = _ENHANCERS[i](part).enhance(factor)
    return _array(part)


def random_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(left, top, width, height) of a random part; the largest centred one when no draw fits."""
    for _ in range(_TRIES):
        area = width * height * rng.uniform(*_AREA)
        aspect = math.exp(rng.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    w = min(width, round(height * _ASPECT[1]))
    h = min(height, round(width / _ASPECT[0]))
    return (width - w) // 2, (height - h) // 2, w, h


def _open(path: str, channels: int | None) -> Image.Image:
    try:
        with Image.open(path) as image:
            grey = image.mode in ("L", "1") if channels is None else channels == 1
            return image.convert("L" if grey else "RGB")
    except Exception as error:  # Pillow raises anything on a damaged file
        raise InputError(
            f"{path}: cannot read this image ({error}); skip_bad (--skip-bad) leaves such files out"
        ) from error


def _shrink(image: Image.Image, shorter: int) -> Image.Image:
    width, height = image.size
    if width <= height:
        size = (shorter, max(1, shorter * height // width))
    else:
        size = (max(1, shorter * width // height), shorter)
    return image.resize(size, Image.Resampling.BILINEAR)


def _centre(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def _array(image: Image.Image) -> Pixels:
    array = np.asarray(image, dtype=np.uint8)
    return array[:, :, None] if array.ndim == 2 else array
