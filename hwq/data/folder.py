"""Folders of images: decoded once and kept in memory, or, where they do not fit, decoded as they are used."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from hwq.data.cache import Arrays, read_cache, write_cache
from hwq.data.decode import Pixels, View, opened, read
from hwq.data.files import Files
from hwq.data.images import Images
from hwq.data.listing import Listing, list_split
from hwq.data.spec import DataSpec
from hwq.errors import InputError
from hwq.terminal import console

_GIB = 1 << 30
_CHUNK = 256
_PROBED = 100
_DECODER = 2
"""Counts up with every change of what files become: nothing older is taken from the cache."""
_CHECKED = 10_000
"""Files that are all read once before they are used; the result is cached."""

T = TypeVar("T")


def load_folder(
    spec: DataSpec, split: str, *, files: bool = False, workers: int | None = None
) -> Images | Files:
    """One split, in memory when it fits. files: decode while used, whatever it takes; workers: see `Files`.

    Raises InputError naming the file that is missing, damaged or of another size: here, or when it is used
    where more than `_CHECKED` files are not held in memory and `skip_bad` is not set.
    """
    if not spec.root:
        raise InputError(f"{spec.name}: where is it? Name its folder, as in --data {spec.name}:/path")
    listing, view = list_split(Path(spec.root), split), spec.view
    height, width = (view.size, view.size) if view.size is not None else _probe(listing)
    channels = view.channels or 3
    if not files and len(listing) * height * width * channels <= spec.memory * _GIB:
        return _in_memory(listing, view, spec.skip_bad)
    left_out: tuple[str, ...] = ()
    if spec.skip_bad or len(listing) <= _CHECKED:
        checked = _cached(listing, "check", lambda: _check(listing))
        bad = checked["bad"]
        if view.channels is None and checked["grey"].all():
            channels = 1
        left_out = tuple(listing.path(i) for i in bad)
        if left_out and not spec.skip_bad:
            read(left_out[0], View())  # says what is wrong with it
        if len(bad) == len(listing):
            raise _none(listing)
        listing = listing.without(bad)
    return Files(
        listing=listing,
        view=replace(view, channels=channels),
        shape=(height, width, channels),
        limit=int(max(spec.memory, 1.0) * _GIB),
        workers=workers,
        left_out=left_out,
    )


def _probe(listing: Listing) -> tuple[int, int]:
    """(H, W) of the first file whose header can be read; (0, 0) leaves the complaint to the decoding."""
    for index in range(min(len(listing), _PROBED)):
        try:
            with opened(listing.path(index)) as image:
                return image.height, image.width
        except InputError:
            continue
    return 0, 0


def _in_memory(listing: Listing, view: View, skip: bool) -> Images:
    stored = _cached(listing, f"{view} {skip}", lambda: _decode(listing, view, skip))
    pixels, bad = stored["pixels"], stored["bad"]
    return Images(
        pixels=pixels,
        labels=listing.without(bad).labels,
        classes=listing.classes,
        left_out=tuple(listing.path(i) for i in bad),
    )


def _cached(listing: Listing, how: str, make: Callable[[], Arrays]) -> Arrays:
    key = listing.key(f"{_DECODER} {how}")
    stored = read_cache(key)
    if stored is None or not _whole(stored, len(listing)):
        stored = make()
        write_cache(key, stored)
    return stored


def _whole(stored: Arrays, count: int) -> bool:
    if "bad" not in stored or stored["bad"].ndim != 1:
        return False
    pixels = stored.get("pixels")
    if pixels is None:
        return "grey" in stored
    return pixels.dtype == np.uint8 and pixels.ndim == 4 and len(pixels) + len(stored["bad"]) == count


def _check(listing: Listing) -> Arrays:
    """bad: the indices of the files that cannot be read whole. grey: of the others, whether each is."""
    bad, grey = list[int](), list[bool]()
    for index, image, error in _each(listing, View(), keep=False):
        if error is None:
            grey.append(image.shape[2] == 1)
        else:
            bad.append(index)
    return {"bad": np.array(bad, dtype=np.int64), "grey": np.array(grey, dtype=np.bool_)}


def _decode(listing: Listing, view: View, skip: bool) -> Arrays:
    """pixels: uint8 (N, H, W, C) of the files that can be read; bad: indices of the others."""
    pixels: Pixels | None = None
    first, bad, grey, count = "", list[int](), True, 0
    for index, image, error in _each(listing, view, keep=True):
        if error is not None:
            if not skip:
                raise error
            bad.append(index)
            continue
        if pixels is None:
            first = Path(listing.path(index)).name
            pixels = np.empty((len(listing), *image.shape[:2], view.channels or 3), dtype=np.uint8)
        if image.shape[:2] != pixels.shape[1:3]:
            raise InputError(
                f"{listing.path(index)}: is {image.shape[1]} x {image.shape[0]} pixels, but {first} is "
                f"{pixels.shape[2]} x {pixels.shape[1]}; all images must have one size, or set size "
                "(--size) to scale them"
            )
        pixels[count] = image  # one grey channel fills all three
        grey, count = grey and image.shape[2] == 1, count + 1
    if pixels is None:
        raise _none(listing)
    pixels = pixels[:count]
    if grey and view.channels is None:
        pixels = np.ascontiguousarray(pixels[..., :1])
    return {"pixels": pixels, "bad": np.array(bad, dtype=np.int64)}


def _none(listing: Listing) -> InputError:
    return InputError(f"{listing.folder}: none of its {len(listing)} images can be read")


def _each(listing: Listing, view: View, *, keep: bool) -> Iterator[tuple[int, Pixels, InputError | None]]:
    """(index, pixels, what is wrong with the file), in order, by threads. Pixels: (0, 0, C) unless `keep`."""
    nothing = np.zeros((0, 0, 3), dtype=np.uint8)

    def some(first: int) -> list[tuple[int, Pixels, InputError | None]]:
        found: list[tuple[int, Pixels, InputError | None]] = []
        for index in range(first, min(first + _CHUNK, len(listing))):
            try:
                image = read(listing.path(index), view)
                found.append((index, image if keep else nothing[..., : image.shape[2]], None))
            except InputError as error:
                found.append((index, nothing, error))
        return found

    starts = range(0, len(listing), _CHUNK)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for chunk in _watched(pool.map(some, starts), len(starts), f"reading {listing.folder}"):
            yield from chunk


def _watched(items: Iterator[T], total: int, what: str) -> Iterator[T]:
    """The items, with a progress bar where someone looks at the terminal."""
    from rich.progress import track

    screen = console(stderr=True)
    yield from track(
        items, what, total, console=screen, transient=True, disable=not screen.is_terminal or total < 4
    )
