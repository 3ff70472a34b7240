"""torchvision's classification networks, with fresh weights. hwq itself downloads nothing."""

from __future__ import annotations

import copy

import torch
from torch import nn

from hwq.errors import InputError

NAMES = ("resnet18", "resnet34", "resnet50", "mobilenet_v2", "vgg11_bn", "vgg16_bn", "vgg16")
"""Known without the prefix."""
PREFIX = "torchvision:"


def build_vision(name: str, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A network of torchvision.models by its name there, for images (H, W, 3).

    Layer names are torchvision's, so its state dicts load. Nothing is changed, except that VGG and
    AlexNet end in a pool to a fixed map, for which see `_fit_map`. Raises InputError.
    """
    import torchvision
    from torchvision import models

    if name not in models.list_models(module=models):
        raise InputError(f"torchvision {torchvision.__version__} has no classification network '{name}'")
    # the two with auxiliary classifiers return them beside the logits, and warn of their slow start
    extra = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **extra)
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if first is not None and first.in_channels != image_shape[2]:
        raise InputError(
            f"{name} takes images of {first.in_channels} channels, the data has {image_shape[2]} "
            "(a folder of grey images: channels = 3 under [data])"
        )
    _fit_map(model, name, image_shape)
    return model


def _fit_map(model: nn.Module, name: str, image_shape: tuple[int, int, int]) -> None:
    """Drop an adaptive pool that would not shrink its map, as in VGG (7 x 7) and AlexNet (6 x 6).

    On a map of exactly that size (images of 224) the pool does nothing. A smaller map it would enlarge by
    repetition; the first linear layer reads the map itself instead, and has fewer weights.
    """
    pool, features = getattr(model, "avgpool", None), getattr(model, "features", None)
    if not isinstance(pool, nn.AdaptiveAvgPool2d) or not isinstance(features, nn.Module):
        return
    wanted = pool.output_size if isinstance(pool.output_size, tuple) else (pool.output_size,) * 2
    height, width, channels = image_shape
    try:  # shapes only: nothing is computed
        probe = copy.deepcopy(features).to("meta").eval()
        found = tuple(probe(torch.empty(1, channels, height, width, device="meta")).shape)
    except RuntimeError as error:
        raise InputError(f"{name} does not take images of {height} x {width}: {error}") from error
    if any(w is None or n > w for n, w in zip(found[2:], wanted, strict=True)):
        return
    model.avgpool = nn.Identity()
    if found[2:] == tuple(wanted):
        return
    parent, key, linear = next(
        (p, k, m) for p in model.modules() for k, m in p.named_children() if isinstance(m, nn.Linear)
    )
    like = {"device": linear.weight.device, "dtype": linear.weight.dtype}
    inputs = found[1] * found[2] * found[3]
    setattr(parent, key, nn.Linear(inputs, linear.out_features, linear.bias is not None, **like))
