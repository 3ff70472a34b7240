"""Quantisation-aware training: fake-quantising layers, one small file a method, one shared contract.

`prepare` turns a plain torch network into one; `contract` says what a method supplies.
"""

from hwq.quant.calibrate import calibrate, calibrate_off, off_tensors
from hwq.quant.contract import MAX_BITS, OFF, ActQuantizer, Quantizer, WeightQuantizer
from hwq.quant.describe import Row, describe, summary, table
from hwq.quant.layers import QuantConv2d, QuantLinear
from hwq.quant.methods import ACT_METHODS, WEIGHT_METHODS
from hwq.quant.norms import estimate_norms
from hwq.quant.placing import INPUT_QUANT
from hwq.quant.policy import LayerRule, Policy
from hwq.quant.prepare import prepare
from hwq.quant.ranges import Ranges
from hwq.quant.tracing import Kind, kind_of, output_shape, trace, where

__all__ = [
    "ACT_METHODS",
    "INPUT_QUANT",
    "MAX_BITS",
    "OFF",
    "WEIGHT_METHODS",
    "ActQuantizer",
    "Kind",
    "LayerRule",
    "Policy",
    "QuantConv2d",
    "QuantLinear",
    "Quantizer",
    "Ranges",
    "Row",
    "WeightQuantizer",
    "calibrate",
    "calibrate_off",
    "describe",
    "estimate_norms",
    "kind_of",
    "off_tensors",
    "output_shape",
    "prepare",
    "summary",
    "table",
    "trace",
    "where",
]
