"""Keeps torch from trading exactness for speed: no TF32, no bfloat16, no Winograd."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def exact_floats(device: torch.device) -> Iterator[None]:
    """Plain IEEE sums of products inside, the caller's settings back afterwards.

    float32 matrix products at "highest" precision: oneDNN and cuBLAS then use neither TF32 nor bfloat16.
    NNPACK is switched off (it transforms 3x3 kernels), and so is cuDNN (Winograd, FFT). oneDNN itself
    computes directly unless told otherwise; a test holds it to that.
    """
    before = torch.get_float32_matmul_precision()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(torch.backends.nnpack.flags(enabled=False))
        if device.type == "cuda":
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch's own threads off inside: the simulator runs one chunk a thread instead."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
