"""Batch normalisation over a batch that several processes share, each holding a part."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hwq.quant.calibration.norms import ESTIMATED


class _Gather(torch.autograd.Function):
    """A row of numbers (K,) -> the rows of all processes (W, K); gradients find the way back."""

    @staticmethod
    def forward(ctx: Any, row: Tensor) -> Tensor:
        rows = row.new_zeros(dist.get_world_size(), len(row))
        rows[dist.get_rank()] = row
        dist.all_reduce(rows)
        return rows

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        whole = grads[0].contiguous().clone()
        dist.all_reduce(whole)
        return whole[dist.get_rank()]


class _Shared(nn.modules.batchnorm._BatchNorm):
    """In training: mean and variance of all processes' images, with one message each way.

    mean = sum n_r mean_r / n; variance = sum (n_r var_r + n_r (mean_r - mean)^2) / n over processes r,
    biased for the output and unbiased (n / (n - 1)) for the running statistics, as in BN.
    """

    def forward(self, input: Tensor) -> Tensor:
        # statistics are estimated from the same images in every process
        if not self.training or getattr(self, ESTIMATED, False):
            plain: Tensor = super().forward(input)
            return plain
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        axes = [d for d in range(x.dim()) if d != 1]
        variance, mean = torch.var_mean(x, axes, correction=0)
        count = x.new_full((1,), x.numel() // x.shape[1])
        channels = x.shape[1]
        rows = _Gather.apply(torch.cat([mean, variance, count]))
        means, variances, counts = rows[:, :channels], rows[:, channels:-1], rows[:, -1:]
        total = counts.detach().sum()
        mean = (means * counts).sum(0) / total
        variance = ((variances + (means - mean).square()) * counts).sum(0) / total
        self._track(mean.detach(), variance.detach(), total, self.momentum)
        shape = [1, channels] + [1] * (x.dim() - 2)
        scale = torch.rsqrt(variance + self.eps)
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        out: Tensor = x * scale.view(shape) + shift.view(shape)
        return out.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, total: Tensor, momentum: float | None) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        # without momentum it is the plain average of all batches
        weight: Any = momentum
        if momentum is None:
            weight = self.num_batches_tracked.double().reciprocal().to(mean.dtype)
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(variance * (total / (total - 1)), weight)


class SharedNorm1d(_Shared, nn.BatchNorm1d):
    """`nn.BatchNorm1d` over all processes."""


class SharedNorm2d(_Shared, nn.BatchNorm2d):
    """`nn.BatchNorm2d` over all processes."""


def share_norms(model: nn.Module) -> None:
    """Turn every batch norm of the network into its shared form; names, tensors and hooks stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm1d:
            module.__class__ = SharedNorm1d
        elif type(module) is nn.BatchNorm2d:
            module.__class__ = SharedNorm2d
