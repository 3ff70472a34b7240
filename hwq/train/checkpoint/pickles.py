"""What torch.save wrote, as far as it loads without running code."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import pathlib
import pickle
import pickletools
import struct
import types
import uuid
import warnings
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hwq.errors import InputError
from hwq.files import open_regular
from hwq.train.checkpoint.kinds import Kind

_SAVE = "save model.state_dict() instead"
_LARGEST_PICKLE = 64 << 20
"""Bytes of names and numbers beside the tensors; a network of ten thousand tensors has two million."""
_OLD_PARTS = 5
"""Pickles of a file of torch before its zip archives: magic, protocol, system, object, keys of storages."""
_TEXT = {"GLOBAL", "STACK_GLOBAL", "INST"}
_FORBIDDEN = {"builtins bytearray", "__builtin__ bytearray"}
"""torch lets it pass; called with a number it takes that many bytes of memory."""

_Global = Callable[..., Any] | tuple[Callable[..., Any], str]


@cache
def _harmless() -> tuple[_Global, ...]:
    """What often lies beside a state dict (accuracies, arguments, dates) and runs no code of the file's.

    Nothing that takes much memory or time for a few bytes: no range, which a list would spread, no fractions.
    """
    scalar: Any = np.float64(0).__reduce__()[0]
    array: Any = np.zeros(1).__reduce__()[0]
    aliases: list[_Global] = [
        (make, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for make, name in ((scalar, "scalar"), (array, "_reconstruct"))
    ]
    kinds = {type(np.dtype(letter)) for letter in "?bhilqBHILQefdgFDOSUMm"}
    plain = (np.ndarray, np.dtype, argparse.Namespace, types.SimpleNamespace, decimal.Decimal, uuid.UUID)
    dates = (datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone)
    holders = (set, frozenset, list, dict, tuple)
    # torch fills plain dictionaries and lists alone
    plainer: list[_Global] = [(_table, "collections.defaultdict"), (_list, "collections.deque")]
    values = (int, float, bool, str)
    # the other system's paths cannot be made here; as pure ones they can
    paths = [
        (pure, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")
        for pure in (pathlib.PurePosixPath, pathlib.PureWindowsPath)
        for name in (pure.__name__, pure.__name__.removeprefix("Pure"))
    ]
    return (*aliases, *kinds, *plain, *dates, *holders, *plainer, *values, *paths)


def _table(*_: object) -> dict[Any, Any]:
    return {}


def _list(*_: object) -> list[Any]:
    return []


def read_torch(path: Path, kind: Kind) -> Any:
    """The object in a file of torch.save. Raises InputError in words of our own: torch's advise to run it."""
    try:
        _look_through(path, kind)
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(_harmless())):
            warnings.simplefilter("ignore")  # about files that are refused below
            with open_regular(path) as stream:  # of a path torch would believe the suffix
                return torch.load(stream, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        AssertionError,
        NotImplementedError,
        ArithmeticError,
        MemoryError,
        RecursionError,
        struct.error,
        zipfile.BadZipFile,
    ) as error:
        said = str(error)
        if "Unsupported global: GLOBAL" in said:
            what = said.partition("Unsupported global: GLOBAL ")[2].split()[0]
            raise _more(path, f"({what[:80]})") from error
        if isinstance(error, pickle.UnpicklingError):  # whole, or it would not have been looked through
            raise _more(path, "(a whole module was pickled?)") from error
        why = f"{error.strerror} or " if isinstance(error, OSError) and error.strerror else ""
        raise InputError(f"{path}: {why}truncated, or not a file of torch.save") from error


def _more(path: Path, what: str) -> InputError:
    return InputError(f"{path}: holds more than tensors {what}, and none of its code is run: {_SAVE}")


def _look_through(path: Path, kind: Kind) -> None:
    """Raise InputError, before anything is made of it, for a file that would take more than its size."""
    if kind is Kind.TORCH_OLD:
        with open_regular(path) as stream:
            for _ in range(_OLD_PARTS):
                _check_globals(path, stream)
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        packed = next((e for e in entries if e.compress_type != zipfile.ZIP_STORED), None)
        # torch.save never compresses: a few bytes can be told to be terabytes
        if packed is not None or sum(e.file_size for e in entries) > path.stat().st_size:
            raise InputError(f"{path}: its parts are compressed, so it is no file of torch.save; {_SAVE}")
        for entry in entries:
            if entry.filename.rpartition("/")[2] == "data.pkl":
                if entry.file_size > _LARGEST_PICKLE:
                    raise _more(path, f"({entry.file_size:,} bytes of other things)")
                with archive.open(entry) as stream:
                    _check_globals(path, stream)


def _check_globals(path: Path, stream: Any) -> None:
    """Read one pickle without executing it."""
    texts = collections.deque[str](maxlen=2)
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "STACK_GLOBAL":
            argument = " ".join(texts)
        elif isinstance(argument, str):
            texts.append(argument)
        if opcode.name in _TEXT and argument in _FORBIDDEN:
            raise _more(path, "(bytearray)")
