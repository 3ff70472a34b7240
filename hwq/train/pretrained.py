"""Weights of a network that was trained on other classes: all but the last layer are taken over."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn


def fit_classes(network: nn.Module, weights: dict[str, Tensor], source: Path | str) -> str | None:
    """Where only the number of classes differs, put `network`'s own last layer into `weights`, and say so.

    The last layer is the Linear or Conv2d defined last. Everything else that differs is left to `fill`,
    which refuses it.
    """
    layers = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    if not layers:
        return None
    name, layer = layers[-1]
    own = {f"{name}.{key}": value for key, value in layer.state_dict().items()}
    old = weights.get(f"{name}.weight")
    if old is None or old.dim() == 0 or old.shape[1:] != layer.weight.shape[1:]:
        return None
    if len(old) == len(layer.weight):
        return None
    for key, value in own.items():
        if key in weights and weights[key].shape[:1] == old.shape[:1]:
            weights[key] = value.detach().clone()
    return (
        f"{source}: its last layer '{name}' knows {len(old)} classes, the data {len(layer.weight)}: made new"
    )
