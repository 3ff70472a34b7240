"""hwq: quantisation-aware training to bit-exact HLS C++."""

__version__ = "0.1.0"
