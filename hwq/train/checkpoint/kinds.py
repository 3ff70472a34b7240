"""What a file is, by its first bytes: intact files of other tools are called by their names."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from hwq.errors import InputError
from hwq.files import open_regular

TAKES = "hwq takes a run folder, its checkpoint, or a network's state_dict() by torch.save or as safetensors"
_HEAD = 1024
_NO_TORCH = "it holds no PyTorch network"
_UNPACK = "unpack it first"
_TORCH_OLD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""What torch.save wrote first before its files were zip archives."""


class Kind(Enum):
    """How weights are read."""

    SAFETENSORS = "safetensors"
    TORCH_ZIP = "torch"
    TORCH_OLD = "torch, old"


@dataclass(frozen=True, slots=True)
class _Other:
    """A file of another tool: what it is, what to do, and how its first bytes are told."""

    what: str
    advice: str
    fits: Callable[[bytes], bool]


def _at(offset: int, *magics: bytes) -> Callable[[bytes], bool]:
    return lambda head: any(head[offset : offset + len(m)] == m for m in magics)


def _begins(*words: str) -> Callable[[bytes], bool]:
    """For text: whether it begins so, in lower case and after white space."""

    def fits(head: bytes) -> bool:
        return head.lstrip(b"\xef\xbb\xbf \t\r\n").decode("ascii", "replace").lower().startswith(words)

    return fits


def _onnx(head: bytes) -> bool:
    """A ModelProto: field 1, ir_version, a small number; then producer, graph or another field."""
    return len(head) > 2 and head[0] == 0x08 and 1 <= head[1] <= 32 and head[2] in b"\x12\x1a\x22\x3a\x42"


_OTHERS = (
    _Other("an HDF5 file, as Keras writes", _NO_TORCH, _at(0, b"\x89HDF\r\n\x1a\n")),
    _Other("a TFLite model", _NO_TORCH, _at(4, b"TFL3")),
    _Other("a GGUF file", _NO_TORCH, _at(0, b"GGUF")),
    _Other("a numpy array", "", _at(0, b"\x93NUMPY")),
    _Other("a TensorFlow SavedModel", _NO_TORCH, _at(0, b"\x08\x01\x12")),
    _Other("an ONNX model", "save the state_dict() of the PyTorch network that it was made from", _onnx),
    _Other("a gzip archive", _UNPACK, _at(0, b"\x1f\x8b\x08")),
    _Other("an xz archive", _UNPACK, _at(0, b"\xfd7zXZ\x00")),
    _Other("a bzip2 archive", _UNPACK, _at(0, b"BZh")),
    _Other("a Zstandard archive", _UNPACK, _at(0, b"\x28\xb5\x2f\xfd")),
    _Other("a 7-Zip archive", _UNPACK, _at(0, b"7z\xbc\xaf\x27\x1c")),
    _Other("a RAR archive", _UNPACK, _at(0, b"Rar!\x1a\x07")),
    _Other("a tar archive", _UNPACK, _at(257, b"ustar")),
    _Other("an image", "", _at(0, b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"II*\x00", b"MM\x00*")),
    _Other("a PDF document", "", _at(0, b"%PDF-")),
    _Other("a program", "", _at(0, b"\x7fELF", b"MZ\x90")),
    _Other(
        "a pointer of Git LFS", "fetch the file itself (git lfs pull)", _begins("version https://git-lfs")
    ),
    _Other("a web page", "the download went wrong", _begins("<!doctype", "<html")),
    _Other("an XML file", _NO_TORCH, _begins("<?xml")),
    _Other("a JSON file", "", _begins("{", "[")),
)
"""The first that fits says it."""
_EXPORTED = ("an archive of torch.export (ExportedProgram)", "save torch.export.load(FILE).state_dict")
_ARCHIVES = {
    "archive_format": _EXPORTED,
    "serialized_exported_program.json": _EXPORTED,
    "bytecode.pkl": (
        "a PyTorch Mobile archive",
        "save the state_dict() of the network that it was made from",
    ),
    "constants.pkl": ("a TorchScript archive", "save torch.jit.load(FILE).state_dict()"),
    ".data/python_version": ("an archive of torch.package", "save the state_dict() of the network in it"),
    "model.weights.h5": ("a Keras model", _NO_TORCH),
    "MAR-INF/MANIFEST.json": ("a MAR archive", _UNPACK),
}
"""Zip files that are no plain archive, by an entry that tells: what, and what to do."""


def kind_of(path: Path) -> Kind:
    """How to read the weights in a file. Raises InputError for what holds none, and says what it is."""
    with open_regular(path) as stream:
        head = stream.read(_HEAD)
    if head[8:9] == b"{":
        return Kind.SAFETENSORS
    if head.startswith(_TORCH_OLD):
        return Kind.TORCH_OLD
    if head.startswith(b"PK\x03\x04") and zipfile.is_zipfile(path):
        return _archive(path)
    if len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= pickle.HIGHEST_PROTOCOL and len(head) > 16:
        raise _is(path, "a plain pickle, not a file of torch.save", "none of its code is run")
    for other in _OTHERS:
        if other.fits(head):
            raise _is(path, other.what, other.advice)
    if path.suffix == ".safetensors":
        raise InputError(f"{path}: not a readable checkpoint (truncated or damaged); {TAKES}")
    raise InputError(f"{path}: truncated, or not a file of torch.save; {TAKES}")


def _archive(path: Path) -> Kind:
    """Of a zip file with all its parts."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{path}: truncated, or not a file of torch.save: {error}") from error
    inner = {name.partition("/")[2] for name in names} | set(names)
    for entry, (what, advice) in _ARCHIVES.items():
        if entry in inner:
            raise _is(path, what, advice)
    if "data.pkl" in inner:
        return Kind.TORCH_ZIP
    if names and all(name.endswith(".npy") for name in names):
        raise _is(path, "an archive of numpy arrays", "")
    raise _is(path, "a zip archive", _UNPACK)


def _is(path: Path, what: str, advice: str) -> InputError:
    return InputError(f"{path}: is {'; '.join(filter(None, (what, advice, TAKES)))}")
