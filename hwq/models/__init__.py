"""Networks by name, torchvision's, and a user's own by `module.py:factory`. All plain torch modules."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from torch import nn

from hwq.errors import InputError
from hwq.models.mobilenet import MobileNetV2
from hwq.models.resnet import ResNet
from hwq.models.small import MLP, DigitsNet
from hwq.models.toynet import ToyNet
from hwq.models.vision import NAMES as VISION
from hwq.models.vision import PREFIX, build_vision

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
    path, colon, factory = name.rpartition(":")
    if not colon or not path.endswith(".py"):
        known = ", ".join((*MODELS, *VISION))
        raise InputError(f"unknown model '{name}'; known: {known}, {PREFIX}NAME, or module.py:factory")
    return _from_file(Path(path), factory, classes, image_shape[2])


def located(name: str, base: Path | None = None) -> str:
    """A model's name with the path of module.py:factory made absolute, from `base`; others as they are."""
    path, _, factory = name.rpartition(":")
    if not path.endswith(".py"):
        return name
    return f"{((base or Path()) / Path(path).expanduser()).resolve()}:{factory}"


def _from_file(path: Path, factory: str, classes: int, channels: int) -> nn.Module:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(f"hwq_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.resolve().parent))  # so that it can import its neighbours
    try:
        spec.loader.exec_module(module)
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
