"""Which tensors get how many bits, and by which method."""

from __future__ import annotations

from dataclasses import dataclass, fields

from hwq.errors import InputError
from hwq.quant.contract import MAX_BITS, OFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Bit widths 1..16, or 32 = off. `first_bits`, `last_bits`: weights of the first and last layer.

    weight_bits, act_bits: everything else. first_bits, last_bits: None = weight_bits. input_bits: the
    normalised image. pool_bits: after an average pool. norm_bits: after a BN that stands alone (no conv
    before, no ReLU after). branch: quantise a conv(+BN) that feeds only additions. per_channel: one
    weight scale per output channel. rescale: none, std, max, or auto (max where no BN follows, else
    none). weight_method, act_method: names in `hwq.quant.METHODS`.
    """

    weight_bits: int = 8
    act_bits: int = 8
    first_bits: int | None = None
    last_bits: int | None = None
    input_bits: int = 8
    pool_bits: int = 8
    norm_bits: int = 16
    branch: bool = False
    weight_method: str = "dorefa"
    act_method: str = "mpact"
    per_channel: bool = False
    rescale: str = "auto"

    def __post_init__(self) -> None:
        for field in fields(self):
            if not field.name.endswith("_bits"):
                continue
            bits = getattr(self, field.name)
            if bits is None and field.name in ("first_bits", "last_bits"):
                continue
            if not isinstance(bits, int) or (bits != OFF and not 1 <= bits <= MAX_BITS):
                raise InputError(f"{field.name} must be 1..{MAX_BITS}, or {OFF} for off, not {bits}")
        if self.rescale not in ("auto", "none", "std", "max"):
            raise InputError(f"rescale must be auto, none, std or max, not '{self.rescale}'")

    @staticmethod
    def floating() -> Policy:
        """Everything off: float training."""
        return Policy(
            weight_bits=OFF,
            act_bits=OFF,
            first_bits=OFF,
            last_bits=OFF,
            input_bits=OFF,
            pool_bits=OFF,
            norm_bits=OFF,
        )
