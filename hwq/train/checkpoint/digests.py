"""SHA-256 of what a checkpoint holds: a flipped bit in a weight would pass for a trained one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def tensor_digest(tensor: Tensor) -> str:
    """Hexadecimal, of dtype, shape and bytes (row-major, as in a file) of a dense tensor on the CPU."""
    key = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}\n".encode())
    if tensor.numel():
        key.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return key.hexdigest()


def digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """`tensor_digest` of each, by name."""
    return {name: tensor_digest(tensor) for name, tensor in tensors.items()}


def text_digest(text: str) -> str:
    """Of a text's UTF-8; hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def changed(tensors: Mapping[str, Tensor], stored: Mapping[str, str]) -> str:
    """What differs from the digests that were stored, in words; "" where nothing does."""
    for name in stored:
        if name not in tensors:
            return f"tensor '{name}' is gone"
    for name, tensor in tensors.items():
        if name not in stored:
            return f"tensor '{name}' was added"
        if tensor_digest(tensor) != stored[name]:
            return f"tensor '{name}' is not as it was written"
    return ""
