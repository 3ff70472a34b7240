"""Intact files of other tools are called by their names, and hwq says what it takes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import torch as safetensors
from torch import nn

from hwq.errors import InputError
from hwq.models import build
from hwq.train import load
from hwq.train.checkpoint import load_weights
from hwq.train.checkpoint.kinds import TAKES, Kind, kind_of

NETWORK = build("mlp", (8, 8, 1), 10)


def _written(write: Callable[[io.BytesIO], object]) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(stream)
    return stream.getvalue()


def _zip(*names: str) -> bytes:
    def write(stream: io.BytesIO) -> None:
        with zipfile.ZipFile(stream, "w") as archive:
            for name in names:
                archive.writestr(name, b"x")

    return _written(write)


def _tar(stream: io.BytesIO) -> None:
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("net.pt"))


def _torchscript(stream: io.BytesIO) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), stream)


# beginnings as the formats' own pages give them: the tools are not installed here
ONNX = b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\x10"
FILES: dict[str, tuple[bytes, str]] = {
    "ONNX": (ONNX, "an ONNX model"),
    "ONNX without a producer": (b"\x08\x0a:\x80\x02\x0a", "an ONNX model"),
    "TFLite": (b"\x1c\x00\x00\x00TFL3\x14\x00\x20\x00", "a TFLite model"),
    "HDF5": (b"\x89HDF\r\n\x1a\n\x00\x00", "an HDF5 file, as Keras writes"),
    "Keras": (_zip("metadata.json", "config.json", "model.weights.h5"), "a Keras model"),
    "SavedModel": (b"\x08\x01\x12\xd5\x20\x0a", "a TensorFlow SavedModel"),
    "GGUF": (b"GGUF\x03\x00\x00\x00", "a GGUF file"),
    "npy": (_written(lambda s: np.save(s, np.zeros(3))), "a numpy array"),
    "npz": (_written(lambda s: np.savez(s, a=np.zeros(3))), "an archive of numpy arrays"),
    "pickle": (pickle.dumps({"weights": [1, 2, 3]}), "a plain pickle"),
    "TorchScript": (_written(_torchscript), "a TorchScript archive; save torch.jit.load(FILE).state_dict()"),
    # by its entries: torch.export itself would start threads, after which no other test may fork
    "pt2": (
        _zip(
            "x/archive_format",
            "x/byteorder",
            "x/models/model.json",
            "x/data/weights/model_weights_config.json",
        ),
        "an archive of torch.export (ExportedProgram)",
    ),
    "older pt2": (_zip("serialized_exported_program.json", "version"), "an archive of torch.export"),
    "package": (_zip("x/.data/python_version", "x/data.pkl"), "an archive of torch.package"),
    "mobile": (_zip("x/data.pkl", "x/bytecode.pkl", "x/constants.pkl"), "a PyTorch Mobile archive"),
    "gzip": (gzip.compress(b"x"), "a gzip archive; unpack it first"),
    "bz2": (bz2.compress(b"x"), "a bzip2 archive"),
    "xz": (lzma.compress(b"x"), "an xz archive"),
    "tar": (_written(_tar), "a tar archive"),
    "zip": (_zip("net/weights.bin"), "a zip archive; unpack it first"),
    "PNG": (_written(lambda s: Image.new("L", (2, 2)).save(s, "PNG")), "an image"),
    "web page": (b"\n<!DOCTYPE html><html>", "a web page; the download went wrong"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "a pointer of Git LFS; fetch"),
    "JSON": (b'{"format": 1}', "a JSON file"),
    "XML": (b'<?xml version="1.0"?><net>', "an XML file"),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".onnx"])
@pytest.mark.parametrize("name", FILES)
def test_other_tools(name: str, suffix: str, tmp_path: Path) -> None:
    content, what = FILES[name]
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    for read in (load, lambda path: load_weights(path, NETWORK)):
        with pytest.raises(InputError) as caught:
            read(path)
        text = str(caught.value)
        assert text.startswith(f"{path}: is {what}"), text
        assert text.endswith(f"; {TAKES}"), text
        assert "\n" not in text


def test_a_folder_of_tensorflow(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01")
    with pytest.raises(InputError, match="a TensorFlow SavedModel; hwq takes"):
        load(tmp_path)


def test_weights_are_read_by_content_whatever_the_name(tmp_path: Path) -> None:
    state = NETWORK.state_dict()
    torch.save(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.bin", _use_new_zipfile_serialization=False)
    (tmp_path / "c.pt").write_bytes(safetensors.save(state))
    kinds = {"a.safetensors": Kind.TORCH_ZIP, "b.bin": Kind.TORCH_OLD, "c.pt": Kind.SAFETENSORS}
    for name, kind in kinds.items():
        assert kind_of(tmp_path / name) is kind
        weights = load_weights(tmp_path / name, NETWORK)[0]
        assert all(torch.equal(v, weights[k]) for k, v in state.items())


def test_weights_alone_are_no_run(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(safetensors.save(NETWORK.state_dict(), {"format": "pt"}))
    torch.save(NETWORK.state_dict(), tmp_path / "b.pt")
    for path in tmp_path.iterdir():
        with pytest.raises(InputError, match="weights alone, not a checkpoint of hwq; `hwq calibrate` and"):
            load(path)


def test_an_exported_graph(tmp_path: Path) -> None:
    path = tmp_path / "graph.safetensors"
    path.write_bytes(safetensors.save({"fc1.weight": torch.zeros(2, 2, dtype=torch.int8)}))
    for read in (load, lambda path: load_weights(path, NETWORK)):
        with pytest.raises(InputError, match="integers alone, as the graph of an exported project does; hwq"):
            read(path)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 50, 300, -1])
def test_cut_short(length: int, tmp_path: Path) -> None:
    state = {"w": torch.arange(100.0)}
    torch.save(state, tmp_path / "a.pt")
    torch.save(state, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "c.safetensors").write_bytes(safetensors.save(state))
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(InputError, match="truncated"):
            load_weights(path, NETWORK)
