"""One image file -> uint8 pixels: as it is, as the centre that is tested, or as a random part to train on.

A file's pixels are what torchvision's ImageFolder makes of it, `convert("RGB")`: alpha is dropped, an EXIF
orientation is not applied, of several frames the first counts. Other than there, grey images of more than
8 bits keep their upper 8, as Pillow does it in colour, instead of saturating at 255.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, TiffImagePlugin

from hwq.errors import InputError
from hwq.files import open_regular

Pixels = npt.NDArray[np.uint8]

_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_TRIES = 10
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "GIF", "TIFF")
"""Pillow's readers for what `listing.SUFFIXES` names: it goes by content, and some others start programs."""
_GREY = frozenset({"1", "L", "LA"})
_WIDE = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # an error here, see `opened`

_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What is seen of a file. resize: pixels of the shorter side; size: side of the square cut from its
    centre. None for both: the file as it is. channels: 1 or 3; None: 1 for grey files (alpha or not, of 1 to
    16 bits), else 3.
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


@contextmanager
def opened(path: str) -> Iterator[Image.Image]:
    """The file's header read, its pixels not yet. Raises InputError for anything wrong, in the body, too."""
    try:
        with open_regular(path) as stream, Image.open(stream, formats=FORMATS) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise ValueError(f"{image.width} x {image.height} pixels, at most {limit:,} are decoded")
            yield image
    except Exception as error:  # Pillow raises anything on a damaged file
        said = " ".join(str(error).removeprefix(f"{path}: ").split())[:200]
        raise InputError(
            f"{path}: cannot read this image ({said}); skip_bad (--skip-bad) leaves such files out"
        ) from error


def is_grey(image: Image.Image) -> bool:
    """Whether it has one channel, alpha aside."""
    return image.mode in _GREY or image.mode in _WIDE or image.mode == "I"


def _open(path: str, channels: int | None) -> Image.Image:
    with opened(path) as image:
        grey = is_grey(image) if channels is None else channels == 1
        return _eight_bits(image).convert("L" if grey else "RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image with 8 bits a channel. Raises ValueError where nothing says which values are black and white.

    Wider values keep their upper 8 bits: an 8-bit image that was widened, by 256 or by 257, comes back as it
    was, and grey and colour of 16 bits, which Pillow shifts itself, agree.
    """
    if image.mode in _WIDE:
        bits, inverse = 16, False
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            (bits,) = image.tag_v2[_BITS_PER_SAMPLE]
            inverse = (
                image.tag_v2[_PHOTOMETRIC] == _WHITE_IS_ZERO
            )  # which Pillow inverts in images of 8 bits alone
        values = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
        return Image.fromarray(~values if inverse else values)
    if image.mode == "I" and image.format in ("PNG", "PPM"):  # 0..65535, whatever the file's maximum
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode[0] in "IF":
        kind = "floats" if image.mode[0] == "F" else "32-bit or signed integers"
        raise ValueError(
            f"mode {image.mode}: {kind}, and nothing says which of them is white; save it with 8 or 16 bits"
        )
    return image


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
