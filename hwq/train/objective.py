"""What a step makes small: cross entropy, the teacher's part, and the penalty on clipping values."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from hwq.quant.methods.pact import MPact
from hwq.train.schedule import Schedule


class Objective:
    """`loss` is what training reports; `penalty` is added to it before the gradients."""

    def __init__(self, schedule: Schedule, model: nn.Module, teacher: nn.Module | None) -> None:
        self.schedule, self.teacher = schedule, teacher
        self._clips = [m for m in model.modules() if isinstance(m, MPact) and not m.off]

    def loss(self, images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean over the batch: (1 - distill) * cross entropy + distill * `divergence` from the teacher."""
        logits = logits.float()
        hard = functional.cross_entropy(logits, labels, label_smoothing=self.schedule.label_smoothing)
        if self.teacher is None:
            return hard
        with torch.no_grad():
            wanted = self.teacher(images).float()
        share = self.schedule.distill
        return (1 - share) * hard + share * divergence(logits, wanted, self.schedule.temperature)

    def penalty(self) -> Tensor | None:
        """alpha_decay * sum of alpha^2 over PACT's and mPACT's clipping values; None without any."""
        if not self._clips or not self.schedule.alpha_decay:
            return None
        return self.schedule.alpha_decay * torch.stack([m.alpha().square() for m in self._clips]).sum()


def divergence(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(wanted/T) || softmax(logits/T)), mean over the batch (Hinton, Vinyals, Dean, 2015).

    logits, wanted: (B, classes). T^2 keeps the gradients' size when T changes.
    """
    got, target = (functional.log_softmax(x / temperature, 1) for x in (logits, wanted))
    return temperature**2 * functional.kl_div(got, target, reduction="batchmean", log_target=True)
