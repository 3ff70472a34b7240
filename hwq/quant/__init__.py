"""Quantisation-aware training: fake-quantising layers, one small file a method, one shared contract.

`prepare` turns a plain torch network into one; `contract` says what a method supplies.
"""

from hwq.quant.calibration.activations import calibrate, calibrate_off, off_tensors
from hwq.quant.calibration.norms import estimate_norms
from hwq.quant.methods.contract import MAX_BITS, OFF, ActQuantizer, Quantizer, WeightQuantizer
from hwq.quant.methods.ranges import Ranges
from hwq.quant.methods.table import ACT_METHODS, WEIGHT_METHODS
from hwq.quant.placing.describe import Row, describe, summary, table
from hwq.quant.placing.layers import QuantConv2d, QuantLinear
from hwq.quant.placing.placer import INPUT_QUANT
from hwq.quant.placing.policy import LayerRule, Policy
from hwq.quant.placing.prepare import prepare
from hwq.quant.tracing.kinds import Kind, kind_of
from hwq.quant.tracing.logits import logits_network
from hwq.quant.tracing.places import where
from hwq.quant.tracing.shapes import output_shape
from hwq.quant.tracing.spelling.bake import bake
from hwq.quant.tracing.spelling.respell import notes
from hwq.quant.tracing.trace import trace

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
    "bake",
    "calibrate",
    "calibrate_off",
    "describe",
    "estimate_norms",
    "kind_of",
    "logits_network",
    "notes",
    "off_tensors",
    "output_shape",
    "prepare",
    "summary",
    "table",
    "trace",
    "where",
]
