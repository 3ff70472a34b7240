"""Conv2d and Linear whose weights pass through a weight quantiser."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from hwq.quant.methods.contract import WeightQuantizer


class QuantConv2d(nn.Conv2d):
    """Convolution with fake-quantised weights; the bias stays real (lowering puts it into B)."""

    weight_quant: WeightQuantizer

    @classmethod
    def of(cls, conv: nn.Conv2d, quantizer: WeightQuantizer) -> QuantConv2d:
        """The same layer, sharing its parameters."""
        new = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]  # torch types the stored pair as any tuple
            stride=conv.stride,  # type: ignore[arg-type]
            padding=conv.padding,  # type: ignore[arg-type]
            dilation=conv.dilation,  # type: ignore[arg-type]
            groups=conv.groups,
            bias=conv.bias is not None,
            padding_mode=conv.padding_mode,
            device="meta",
        )
        new.weight, new.bias = conv.weight, conv.bias
        new.weight_quant = quantizer.to(conv.weight.device)
        return new

    def forward(self, input: Tensor) -> Tensor:
        out: Tensor = self._conv_forward(input, self.weight_quant(self.weight), self.bias)
        return out


class QuantLinear(nn.Linear):
    """Linear layer with fake-quantised weights; the bias stays real."""

    weight_quant: WeightQuantizer

    @classmethod
    def of(cls, linear: nn.Linear, quantizer: WeightQuantizer) -> QuantLinear:
        """The same layer, sharing its parameters."""
        new = cls(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        new.weight, new.bias = linear.weight, linear.bias
        new.weight_quant = quantizer.to(linear.weight.device)
        return new

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.weight_quant(self.weight), self.bias)
