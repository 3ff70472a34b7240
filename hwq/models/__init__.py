"""Networks by name, torchvision's, and a user's own by `module.py:factory`. All plain torch modules."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from hwq.errors import InputError
from hwq.models.code import code_of, from_file, located, split
from hwq.models.mobilenet import MobileNetV2
from hwq.models.resnet import ResNet
from hwq.models.small import MLP, DigitsNet
from hwq.models.toynet import ToyNet
from hwq.models.vision import NAMES as VISION
from hwq.models.vision import PREFIX, build_vision

__all__ = ["MODELS", "PREFIX", "VISION", "Shape", "build", "code_of", "located", "split"]

Shape = tuple[int, int, int]
"""(H, W, C) of an image."""

MODELS: dict[str, Callable[[Shape, int], nn.Module]] = {
    "digits": lambda shape, classes: DigitsNet(classes, shape[2]),
    "mlp": lambda shape, classes: MLP(shape[0] * shape[1] * shape[2], classes),
    "toynet": lambda shape, classes: ToyNet(classes, shape[2]),
    "resnet8": lambda shape, classes: ResNet(8, "A", classes, shape[2]),
    "resnet8b": lambda shape, classes: ResNet(8, "B", classes, shape[2]),
    "resnet20": lambda shape, classes: ResNet(20, "A", classes, shape[2]),
    "resnet20b": lambda shape, classes: ResNet(20, "B", classes, shape[2]),
    "resnet56": lambda shape, classes: ResNet(56, "A", classes, shape[2]),
    "resnet56b": lambda shape, classes: ResNet(56, "B", classes, shape[2]),
    "mobilenetv2": lambda shape, classes: MobileNetV2(classes, shape[2]),
    "mobilenetv2-identity": lambda shape, classes: MobileNetV2(classes, shape[2], "identity"),
}


def build(name: str, image_shape: Shape, classes: int) -> nn.Module:
    """A fresh network taking images (N, C, H, W). image_shape: (H, W, C).

    name: one of `MODELS` or `VISION`, 'torchvision:NAME' for any other of torchvision's classification
    networks, or 'path/module.py:factory' where factory() returns an nn.Module; it may take the keyword
    arguments `classes` and `channels`. Runs that file's code. Raises InputError.
    """
    if name in MODELS:
        return MODELS[name](image_shape, classes)
    if name in VISION or name.startswith(PREFIX):
        return build_vision(name.removeprefix(PREFIX), image_shape, classes)
    parts = split(name)
    if parts is None:
        known = ", ".join((*MODELS, *VISION))
        raise InputError(f"unknown model '{name}'; known: {known}, {PREFIX}NAME, or module.py:factory")
    return from_file(*parts, classes, image_shape[2])
