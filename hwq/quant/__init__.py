"""Quantisation-aware training: fake-quantising layers, one small file a method, one shared contract.

`prepare` turns a plain torch network into one; `contract` says what a method supplies.
"""

from hwq.quant.calibrate import calibrate, calibrate_off, estimate_norms, off_tensors
from hwq.quant.contract import MAX_BITS, OFF, ActQuantizer, Quantizer, WeightQuantizer
from hwq.quant.layers import QuantConv2d, QuantLinear
from hwq.quant.methods import ACT_METHODS, WEIGHT_METHODS
from hwq.quant.policy import Policy
from hwq.quant.prepare import INPUT_QUANT, describe, prepare, table
from hwq.quant.tracing import Kind, kind_of, output_shape, trace, where

__all__ = [
    "ACT_METHODS",
    "INPUT_QUANT",
    "MAX_BITS",
    "OFF",
    "WEIGHT_METHODS",
    "ActQuantizer",
    "Kind",
    "Policy",
    "QuantConv2d",
    "QuantLinear",
    "Quantizer",
    "WeightQuantizer",
    "calibrate",
    "calibrate_off",
    "describe",
    "estimate_norms",
    "kind_of",
    "off_tensors",
    "output_shape",
    "prepare",
    "table",
    "trace",
    "where",
]
