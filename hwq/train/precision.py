"""Mixed precision: layers in 16 bits, everything about codes in float32."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from hwq.errors import InputError
from hwq.quant import ActQuantizer

_KINDS = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """What `amp` means on a device.

    'fp16' (11 significant bits) has a loss scaler and needs a GPU; 'bf16' (8 significant bits) runs on
    both. Activations are rounded to codes in float32, as evaluation, lowering and hardware do; products
    of 16-bit numbers make the logits of training differ a little from those of evaluation.
    """

    def __init__(self, amp: str, device: torch.device, model: nn.Module) -> None:
        self.kind, self.device = _KINDS.get(amp), device
        if amp == "fp16" and device.type != "cuda":
            raise InputError(f"amp = 'fp16' needs a GPU, not '{device.type}'; 'bf16' runs there, or 'off'")
        if amp == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise InputError("this GPU has no bf16; take amp = 'fp16'")
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")
        if self.kind is not None:
            for module in model.modules():
                if isinstance(module, ActQuantizer):
                    module.register_forward_pre_hook(_in_float32)

    def cast(self) -> AbstractContextManager[Any]:
        """For the forward pass."""
        return nullcontext() if self.kind is None else torch.autocast(self.device.type, self.kind)

    def backward(self, loss: Tensor) -> None:
        """Gradients of the loss, scaled where 16 bits need it."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, optimiser: torch.optim.Optimizer) -> None:
        """Update, unless scaled gradients overflowed."""
        self.scaler.step(optimiser)
        self.scaler.update()

    def state(self) -> dict[str, Any]:
        """The scaler's numbers, for a checkpoint; empty without one."""
        return self.scaler.state_dict()

    def fill(self, state: dict[str, Any]) -> None:
        """The inverse of `state`. Raises KeyError for a state of another kind."""
        if not self.scaler.is_enabled():
            return
        for key, value in self.scaler.state_dict().items():
            if type(state[key]) is not type(value) or not 0 <= state[key] < math.inf:
                raise KeyError(key)
        self.scaler.load_state_dict(state)


def _in_float32(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(a.float() for a in args)
