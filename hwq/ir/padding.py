"""Zeros around a feature map, and the size of what slides over it."""

from __future__ import annotations

from dataclasses import dataclass

MAX_PADDING = 1024
"""Rows or columns on one side at most: enough to centre a small image in a large one, and no more memory
than that for a number in a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Padding:
    """Rows above and below a map, columns left and right of it; each 0 or more.

    With padding a position (y, x) of the map is (top + y, left + x) of the padded one.
    """

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    @classmethod
    def even(cls, vertical: int, horizontal: int) -> Padding:
        """The same above and below, the same left and right."""
        return cls(top=vertical, bottom=vertical, left=horizontal, right=horizontal)

    @property
    def sides(self) -> tuple[int, int, int, int]:
        """(top, bottom, left, right)."""
        return self.top, self.bottom, self.left, self.right

    @property
    def is_even(self) -> bool:
        return self.top == self.bottom and self.left == self.right

    @property
    def rows(self) -> int:
        """Both together."""
        return self.top + self.bottom

    @property
    def columns(self) -> int:
        """Both together."""
        return self.left + self.right

    def padded(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of a map of `size` with its padding."""
        return size[0] + self.rows, size[1] + self.columns

    def within(self, kernel: tuple[int, int]) -> bool:
        """Whether each window of the kernel holds a position of the map, whatever the stride."""
        return max(self.top, self.bottom) < kernel[0] and max(self.left, self.right) < kernel[1]

    def __add__(self, other: Padding) -> Padding:
        """One around the other."""
        sides = (a + b for a, b in zip(self.sides, other.sides, strict=True))
        return Padding(**dict(zip(("top", "bottom", "left", "right"), sides, strict=True)))

    def __bool__(self) -> bool:
        """Whether there is any."""
        return any(self.sides)

    def __str__(self) -> str:
        return f"{self.top} above, {self.bottom} below, {self.left} left, {self.right} right"


NO_PADDING = Padding()


def pooled_size(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: Padding,
    dilation: tuple[int, int] = (1, 1),
) -> tuple[int, int]:
    """(H, W) after a sliding window: floor((n - d(k-1) - 1) / s) + 1 each, n of the padded map."""
    h, w = (
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(padding.padded(size), kernel, stride, dilation, strict=True)
    )
    return h, w
