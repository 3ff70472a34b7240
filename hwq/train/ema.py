"""An exponential moving average of the network: what is evaluated and delivered where `ema` is set."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import fx


class Average:
    """`network`: a copy whose floats follow the trained one, a <- d a + (1 - d) w, after every step.

    BN statistics and learned ranges are averaged with the weights they belong to; integers are copied.
    d rises to `decay` as (1 + n) / (10 + n) over the first n steps, so that the start does not linger.
    """

    def __init__(self, model: fx.GraphModule, decay: float) -> None:
        self.network: fx.GraphModule = deepcopy(model).requires_grad_(False)
        self.decay = decay
        mine, theirs = self.network.state_dict(), model.state_dict()
        floats = [k for k, v in mine.items() if v.is_floating_point()]
        self._floats = [mine[k] for k in floats], [theirs[k] for k in floats]
        self._others = [(v, theirs[k]) for k, v in mine.items() if k not in floats]

    @torch.no_grad()
    def update(self, done: int) -> None:
        """Follow the network after `done` steps of the run."""
        decay = min(self.decay, (1 + done) / (10 + done))
        torch._foreach_lerp_(*self._floats, 1 - decay)
        for mine, theirs in self._others:
            mine.copy_(theirs)
