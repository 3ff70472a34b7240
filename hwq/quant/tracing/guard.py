"""The last word on a trace: eager torch and the traced network, bit for bit."""

from __future__ import annotations

from torch import fx, nn

from hwq.errors import UnsupportedError
from hwq.quant.tracing.compare import difference, random_images
from hwq.quant.tracing.places import frames, place

_IMAGES = 3
"""Another number than the trace ran with: what depends on it shows."""


def check(model: nn.Module, traced: fx.GraphModule, image_shape: tuple[int, int, int]) -> None:
    """Raise UnsupportedError where the networks differ on random images, in evaluation or in training.

    image_shape: (H, W, C). Named is the first module that reads, or returns, something else. Both are left
    as they were.
    """
    h, w, c = image_shape
    name = type(model).__name__
    try:
        images = random_images(model, image_shape, _IMAGES)
        found = difference(model, traced, images, ignoring=_unread(traced))
    except Exception as error:  # user code runs in here and may raise anything
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise UnsupportedError(
            f"{place(name, frames(error))}: fails for {_IMAGES} images of {h} x {w} x {c}: {first}"
        ) from error
    if found is not None:
        raise UnsupportedError(
            f"'{name}': the traced network is not this network: {found}; its forward depends on something "
            "that a trace cannot see (random numbers of its own, the batch, a type test, state that it keeps)"
        )


def _unread(traced: fx.GraphModule) -> list[str]:
    """Parameters and buffers of modules that the result does not depend on: those are not called."""
    called = tuple(f"{node.target}." for node in traced.graph.nodes if node.op == "call_module")
    names = (name for named in (traced.named_parameters(), traced.named_buffers()) for name, _ in named)
    return [name for name in names if not name.startswith(called)]
