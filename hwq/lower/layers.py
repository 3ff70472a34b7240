"""Convolution, linear layer and batch normalisation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hwq.ir import NO_PADDING, Conv2d, Linear, Padding, TensorSpec, accumulator_type, pooled_size
from hwq.lower.context import Call, Context
from hwq.lower.values import Codes, Factor, Floats, Pending, Term
from hwq.quant import QuantConv2d, QuantLinear, WeightQuantizer


def conv2d(context: Context, call: Call) -> Pending:
    """An accumulator; weight (O, C/groups, KH, KW) becomes (O, KH, KW, C/groups)."""
    module = call.module
    assert isinstance(module, QuantConv2d)
    codes = context.codes(call.tensor(), call)
    padding = _padding(module, call)
    if len(codes.shape) != 3:
        call.fail(f"a convolution of a vector of {codes.shape[0]} values")
    if codes.shape[2] != module.in_channels:
        call.fail(f"takes {module.in_channels} channels, is given {codes.shape[2]}")
    weight, scale = _weight_codes(module.weight_quant, module.weight, call)
    weight = np.ascontiguousarray(weight.transpose(0, 2, 3, 1))
    weight.setflags(write=False)
    stride, dilation = _pair(module.stride), _pair(module.dilation)
    kernel = (weight.shape[1], weight.shape[2])
    size = pooled_size((codes.shape[0], codes.shape[1]), kernel, stride, padding, dilation)
    if min(size) < 1:
        call.fail(f"kernel {kernel} does not fit a map of {codes.shape[0]} x {codes.shape[1]}")
    kind = accumulator_type(weight, context.builder.bounds[codes.op], module.groups)
    op = Conv2d(
        name=context.builder.name(call.name),
        inputs=(codes.op,),
        out=TensorSpec(shape=(*size, weight.shape[0]), type=kind),
        weight=weight,
        weight_type=module.weight_quant.type,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=module.groups,
    )
    return _accumulator(context.builder.add(op), codes, scale, module.bias)


def _padding(module: nn.Conv2d, call: Call) -> Padding:
    if module.padding == "valid":
        return NO_PADDING
    if module.padding == "same":
        rows, columns = (
            d * (k - 1) for d, k in zip(_pair(module.dilation), _pair(module.kernel_size), strict=True)
        )
        # an odd one out goes below and to the right, as torch has it
        padding = Padding(
            top=rows // 2, bottom=rows - rows // 2, left=columns // 2, right=columns - columns // 2
        )
    else:
        padding = Padding.even(*_pair(module.padding))
    if padding and module.padding_mode != "zeros":
        call.fail(f"padding_mode='{module.padding_mode}' is not supported; use 'zeros'")
    return padding


def linear(context: Context, call: Call) -> Pending:
    """An accumulator; columns follow the (H, W, C) order of a flattened map."""
    module = call.module
    assert isinstance(module, QuantLinear)
    codes = context.codes(call.tensor(), call)
    if len(codes.shape) != 1:
        call.fail("a linear layer on a feature map; flatten it first")
    if codes.shape[0] != module.in_features:
        call.fail(f"takes {module.in_features} values, is given {codes.shape[0]}")
    weight, scale = _weight_codes(module.weight_quant, module.weight, call)
    if codes.order is not None:
        weight = np.ascontiguousarray(weight[:, codes.order])
    weight.setflags(write=False)
    kind = accumulator_type(weight, context.builder.bounds[codes.op])
    op = Linear(
        name=context.builder.name(call.name),
        inputs=(codes.op,),
        out=TensorSpec(shape=(weight.shape[0],), type=kind),
        weight=weight,
        weight_type=module.weight_quant.type,
    )
    return _accumulator(context.builder.add(op), codes, scale, module.bias)


def _accumulator(op: Conv2d | Linear, codes: Codes, scale: Factor, bias: torch.Tensor | None) -> Pending:
    channels = op.out.channels
    return Pending(
        terms=(Term(op=op.name, factors=(scale, *codes.factors)),),
        bias=np.zeros(channels) if bias is None else _real(bias),
        inner=op.out.shape,
        shape=op.out.shape,
    )


def _weight_codes(
    quantizer: WeightQuantizer, weight: torch.Tensor, call: Call
) -> tuple[npt.NDArray[np.int64], Factor]:
    """Integer weights, and their scale: a float, or one a channel."""
    if not bool(torch.isfinite(weight).all()):
        call.fail("a weight is NaN or infinite")
    codes, scale = quantizer.codes(weight)
    integers = codes.detach().cpu().numpy().astype(np.int64)
    lo, hi = int(integers.min()), int(integers.max())
    kind = quantizer.type
    if lo < kind.lo or hi > kind.hi:
        call.fail(f"weight codes {lo}..{hi} leave {kind}")
    real = _real(scale)
    return integers, float(real) if real.ndim == 0 else real


def batch_norm(context: Context, call: Call) -> Pending:
    """Folded: every factor gains g = gamma / sqrt(var + eps) on the left, B = beta + (bias - mean) * g."""
    module = call.module
    assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    if module.running_mean is None or module.running_var is None:
        call.fail("BatchNorm without running statistics is not supported")
    value = context.affine(call.tensor(), call)
    if value.shape[-1] != module.num_features:
        call.fail(f"takes {module.num_features} channels, is given {value.shape[-1]}")
    mean, var = _real(module.running_mean), _real(module.running_var)
    gamma = np.ones_like(mean) if module.weight is None else _real(module.weight)
    beta = np.zeros_like(mean) if module.bias is None else _real(module.bias)
    if value.order is not None:
        mean, var, gamma, beta = (v[value.order] for v in (mean, var, gamma, beta))
    with np.errstate(invalid="ignore", divide="ignore"):  # reported by the builder, with the name
        g: Floats = gamma / np.sqrt(var + module.eps)
        bias = beta + (value.bias - mean) * g
    terms = tuple(Term(op=t.op, factors=(g, *t.factors)) for t in value.terms)
    return replace(value, terms=terms, bias=bias)


def unprepared(context: Context, call: Call) -> NoReturn:
    """A plain layer: its weights have no codes."""
    call.fail(f"{call.what} has no weight quantiser; lower what hwq.quant.placing.prepare returned")


def _real(tensor: torch.Tensor) -> Floats:
    made: Floats = tensor.detach().cpu().double().numpy()
    return made


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
