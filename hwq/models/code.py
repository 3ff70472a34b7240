"""A network from a Python file of the user's: the one place in hwq that runs code from such a file."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import inspect
import sys
from pathlib import Path

from torch import nn

from hwq.errors import InputError


def split(name: str) -> tuple[Path, str] | None:
    """(file, factory) of 'path/module.py:factory'; None for any other name of a network."""
    path, colon, factory = name.rpartition(":")
    return (Path(path), factory) if colon and path.endswith(".py") else None


def located(name: str, base: Path | None = None) -> str:
    """A model's name with the path of module.py:factory made absolute, from `base`; others as they are."""
    parts = split(name)
    if parts is None:
        return name
    return f"{((base or Path()) / parts[0].expanduser()).resolve()}:{parts[1]}"


def code_of(*names: str | None) -> dict[str, str]:
    """SHA-256 of the files that building these networks runs, by path. Raises InputError for a missing one.

    Of the files themselves, not of what they import.
    """
    found = [parts for name in names if name and (parts := split(name))]
    return {str(path): hashlib.sha256(_source(path)).hexdigest() for path, _ in found}


def _source(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    return path.read_bytes()


def from_file(path: Path, factory: str, classes: int, channels: int) -> nn.Module:
    """The network that factory() of a Python file returns. Runs the file. Raises InputError.

    Run from its text: compiled code that lies beside it may be of another text.
    """
    source = _source(path)
    loader = importlib.machinery.SourceFileLoader(f"hwq_user_{path.stem}", str(path))
    spec = importlib.util.spec_from_file_location(loader.name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.resolve().parent))  # so that it can import its neighbours
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
        make = getattr(module, factory, None)
        if not callable(make):
            raise InputError(f"{path}: has no function '{factory}'")
        names = inspect.signature(make).parameters
        given = {"classes": classes, "channels": channels}
        model = make(**{k: v for k, v in given.items() if k in names})
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # user code
        raise InputError(f"{path}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    if not isinstance(model, nn.Module):
        raise InputError(f"{path}: {factory}() returned {type(model).__name__}, not a torch.nn.Module")
    return model
