"""Sliding windows and padding: their processes, configurations and schedules."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from hwq.emit.plan import Config, Lanes, Network, Step, Stream, pixels
from hwq.emit.tables import literal
from hwq.ir import Op, Padding, TensorSpec

Pair = tuple[int, int]
Schedule = list[tuple[int, tuple[Step, ...]]]


@dataclass(frozen=True, slots=True)
class Geometry:
    """A sliding window; (vertical, horizontal) pairs."""

    kernel: Pair
    stride: Pair
    padding: Padding
    dilation: Pair = (1, 1)

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    @property
    def plain(self) -> bool:
        """The window is the pixel itself."""
        return self.kernel == (1, 1) and self.stride == (1, 1) and not self.padding


def map_sizes(spec: TensorSpec) -> dict[str, int]:
    """Of a feature map, as a configuration names them."""
    return dict(zip(("height", "width", "channels"), spec.shape, strict=True))


def pad_sizes(padding: Padding) -> dict[str, int]:
    """As a configuration names them."""
    return dict(zip(("pad_top", "pad_bottom", "pad_left", "pad_right"), padding.sides, strict=True))


def slide(
    net: Network, op: Op, source: Stream, geometry: Geometry, block: Lanes, *, channel_major: bool, fill: int
) -> tuple[Stream, Config]:
    """The window process before an op: what it writes, and its configuration."""
    cname, spec = net.cnames[op.name], net.graph[op.inputs[0]].out
    size = pixels(op.out) * geometry.taps * spec.channels
    fed = net.stream(f"w_{cname}", spec.type, block, size, pixels(op.out))
    thins = geometry.kernel == (1, 1)
    fed.inner = not thins
    values = map_sizes(spec) | pad_sizes(geometry.padding)
    pairs = {"kernel": geometry.kernel, "stride": geometry.stride, "dilation": geometry.dilation}
    for key, (vertical, horizontal) in pairs.items():
        values |= {f"{key}_h": vertical, f"{key}_w": horizontal}
    config = Config(
        name=f"window_{cname}",
        types={"in_t": source.element},
        values={
            **{key: str(value) for key, value in values.items()},
            "lanes": str(source.lanes),
            "block": str(block),
            "channel_major": "1" if channel_major else "0",
        },
        bounds={"fill": literal(fill)},
    )
    call = f"hwq::window<{config.name}>({source.name}, {fed.name});"
    net.process(call, (source,), (fed,), *_window_steps(source, fed, spec, geometry), thins=thins)
    return fed, config


def _window_steps(source: Stream, target: Stream, spec: TensorSpec, geometry: Geometry) -> Schedule:
    """Reads and writes of the window process, pixel by pixel."""
    read: Step = (((source, 1),), ())
    write: Step = ((), (target,))
    (rows, columns, _), padding, stride = spec.shape, geometry.padding, geometry.stride
    reach = [d * (k - 1) for d, k in zip(geometry.dilation, geometry.kernel, strict=True)]
    height, width = padding.padded((rows, columns))

    def ends(at: int, axis: int) -> bool:
        past = at - reach[axis]
        return past >= 0 and past % stride[axis] == 0

    @cache  # rows are alike but for these two
    def row(inside: bool, yields: bool) -> tuple[Step, ...]:
        steps: list[Step] = []
        for x in range(width):
            if inside and 0 <= x - padding.left < columns:
                steps.append(read)
            if yields and ends(x, 1):
                steps.append(write)
        return tuple(steps)

    return [(1, row(0 <= y - padding.top < rows, ends(y, 0))) for y in range(height)]


def pad_steps(source: Stream, target: Stream, spec: TensorSpec, padding: Padding) -> Schedule:
    """Reads and writes of the padding process, pixel by pixel."""
    zeros: Step = ((), (target,))
    code: Step = (((source, 1),), (target,))
    rows, columns, _ = spec.shape
    width = padding.padded((rows, columns))[1]
    row = (*[zeros] * padding.left, *[code] * columns, *[zeros] * padding.right)
    return [(padding.top * width, (zeros,)), (rows, row), (padding.bottom * width, (zeros,))]
