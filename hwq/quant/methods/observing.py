"""Activation ranges that come from the training batches themselves, where nothing else set them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from hwq.quant.methods.contract import ActQuantizer

SETTLED = -1
"""`ObservingAct.seen` of a range that no batch changes any more."""


class ObservingAct(ActQuantizer):
    """Shows every training batch to `observe`, until that or `set_bound` settles the range.

    seen: int64 buffer, batches observed so far, or SETTLED; so a resumed run goes on alike.
    """

    seen: Tensor

    def __init__(self, bits: int, *, signed: bool) -> None:
        super().__init__(bits, signed=signed)
        self.register_buffer("seen", torch.tensor(0))
        self._settled: bool | None = None  # what `seen` says, where it is known: reading it stalls a GPU

    def observe(self, x: Tensor) -> bool:
        """Take what the range needs from a batch x. Returns whether the range is settled now."""
        raise NotImplementedError

    def cover(self, bound: float) -> None:
        """Give codes that cover |x| <= bound."""
        raise NotImplementedError

    def set_bound(self, bound: float) -> None:
        self.cover(bound)
        self.settle()

    def settle(self) -> None:
        """From now on batches change nothing."""
        self.seen.fill_(SETTLED)
        self._settled = True

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.observer is None and not self.off and not self._is_settled():
            with torch.no_grad():
                self.seen.add_(1)
                if self.observe(x.detach()):
                    self.settle()
        return super().forward(x)

    def _is_settled(self) -> bool:
        if self._settled is None:
            self._settled = int(self.seen) == SETTLED
        return self._settled

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        # ranges that were stored without `seen` had been settled before training started
        state_dict.setdefault(f"{prefix}seen", torch.tensor(SETTLED))
        self._settled = None
        super()._load_from_state_dict(state_dict, prefix, *args)


def agreed_mean(value: Tensor) -> Tensor:
    """The mean of a value over the processes of a distributed training: what the whole batch would give."""
    if _is_shared():
        value = value.clone()
        distributed.all_reduce(value)
        value /= distributed.get_world_size()
    return value


def agreed_peak(value: Tensor) -> Tensor:
    """The largest of the values of all processes."""
    if _is_shared():
        value = value.clone()
        distributed.all_reduce(value, distributed.ReduceOp.MAX)
    return value


def _is_shared() -> bool:
    return distributed.is_available() and distributed.is_initialized()
