"""Op class -> the processes, constants and configuration it becomes. One function an op."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import Any

from hwq.emit.folding import divisors, is_depthwise
from hwq.emit.plan import Config, Lanes, Network, OpHeader, Step, Stream, Table, element, pick, pixels
from hwq.emit.rescale import requantize
from hwq.emit.tables import code_ctype, matrix
from hwq.emit.windows import Geometry, map_sizes, pad_sizes, pad_steps, slide
from hwq.ir import (
    Concat,
    Conv2d,
    Flatten,
    Input,
    Linear,
    MaxPool,
    Op,
    Output,
    Pad,
    Requantize,
    SumPool,
)

_PIXEL_LANES = 8
"""The input port carries at most this many 8-bit channels a word."""


def _kernel_input(net: Network, op: Input) -> None:
    channels = op.out.channels
    lanes = Lanes(max(d for d in divisors(channels) if d <= _PIXEL_LANES), channels)
    stream = net.output_stream(op, lanes)
    stream.port = True
    net.publish(op, stream)


def _kernel_output(net: Network, op: Output) -> None:
    source = net.take(op.inputs[0])
    if source.port:
        copy = net.extra_stream(source)
        _copy(net, source, copy)
        source = copy
    source.port = True
    net.publish(op, source)


def _copy(net: Network, source: Stream, target: Stream) -> None:
    lanes = source.lanes
    counts = pick(source.words, source.size // lanes.native)
    net.process(f"hwq::adapt<{counts}, {lanes}>({source.name}, {target.name});", (source,), (target,))


def _kernel_flatten(net: Network, op: Flatten) -> None:
    # (H, W, C) in stream order is the vector: nothing to do but to tap it
    net.publish(op, net.take(op.inputs[0]))


def _weights(net: Network, op: Conv2d | Linear) -> Table:
    flat = op.weight.reshape(op.weight.shape[0], -1)
    net.raw[f"{net.cnames[op.name]}.weight"] = op.weight
    return Table(
        name=f"weight_{net.cnames[op.name]}",
        ctype=code_ctype(op.weight_type),
        dims=f"[{flat.shape[0]}][{flat.shape[1]}]",
        lines=matrix(flat),
        note=f"codes {op.weight_type}, {' x '.join(map(str, op.weight.shape))}",
    )


def _kernel_conv(net: Network, op: Conv2d) -> None:
    fold, channels = net.folding[op.name], net.graph[op.inputs[0]].out.channels
    geometry = Geometry(op.kernel, op.stride, op.padding, op.dilation)
    outs, depthwise = int(op.weight.shape[0]), is_depthwise(op)
    kind = "depthwise" if depthwise else "dense" if op.groups == 1 else "grouped"
    lanes = Lanes(fold.pe if depthwise else fold.simd, channels)
    fed, configs, block = net.take(op.inputs[0], lanes), [], lanes
    if not geometry.plain:
        if not depthwise:
            # one word of the native build holds a whole window: its dot products are as long as can be
            block = Lanes(lanes.folded, geometry.taps * channels)
        fed, window = slide(net, op, fed, geometry, block, channel_major=depthwise, fill=0)
        configs.append(window)
    out = net.output_stream(op, Lanes(fold.pe, outs))
    sizes = {"pixels": pixels(op.out), "outputs": outs, "inputs": int(op.weight[0].size)}
    sizes |= {"channels": channels, "groups": op.groups, "taps": geometry.taps}
    values = {key: str(size) for key, size in sizes.items()}
    values |= {"pe": pick(fold.pe, outs), "block": str(block)}
    values["simd"] = str(block) if kind == "dense" else pick(fold.simd, channels // op.groups)
    _finish_mac(net, op, kind, fed, out, values, configs)


def _finish_mac(
    net: Network,
    op: Conv2d | Linear,
    kind: str,
    fed: Stream,
    out: Stream,
    values: dict[str, str],
    before: list[Config],
) -> None:
    cname = net.cnames[op.name]
    table = _weights(net, op)
    config = Config(
        name=f"cfg_{cname}",
        types={
            "in_t": fed.element,
            "weight_t": element(op.weight_type),
            "weight_raw": table.ctype,
            "acc_t": element(op.out.type),
        },
        values={**values, "acc_bits": str(op.out.type.storage_bits)},
    )
    fold = net.folding[op.name]
    shape = {
        "kernel": kind,
        "lanes": {"dense": "simd", "grouped": "block", "depthwise": "pe"}[kind],
        "weight": table.name,
        "banks": fold.pe,
        "wide": fold.simd,
    }
    call = f"{kind}_{cname}({fed.name}, {out.name});"
    net.process(call, (fed,), (out,), *_all_in(fed, out))
    files = (("hwq_window.h",) if before else ()) + (f"hwq_{kind}.h",)
    net.headers.append(
        OpHeader(
            op=op.name,
            cname=cname,
            kind=type(op).__name__,
            includes=files,
            configs=(*before, config),
            tables=(table,),
            template="mac.h.j2",
            extra=shape,
        )
    )
    net.publish(op, out)


def _all_in(fed: Stream, out: Stream) -> tuple[tuple[int, tuple[Step, ...]], ...]:
    """Per output token, read its share of tokens one by one, then write."""
    share = fed.tokens // out.tokens
    read: Step = (((fed, 1),), ())
    return ((out.tokens, (*([read] * share), ((), (out,)))),)


def _kernel_linear(net: Network, op: Linear) -> None:
    fold = net.folding[op.name]
    native = net.peek(op.inputs[0]).lanes.native
    lanes = Lanes(fold.simd, native)
    fed = net.take(op.inputs[0], lanes)
    outs, ins = op.weight.shape
    out = net.output_stream(op, Lanes(fold.pe, outs))
    values = {"pixels": "1", "outputs": str(outs), "inputs": str(ins)}
    values |= {"pe": pick(fold.pe, outs), "simd": str(lanes)}
    _finish_mac(net, op, "dense", fed, out, values, [])


def _kernel_pool(net: Network, op: MaxPool | SumPool) -> None:
    cname = net.cnames[op.name]
    source = net.take(op.inputs[0])
    lanes, largest = source.lanes, isinstance(op, MaxPool)
    geometry = Geometry(op.kernel, op.stride, op.padding)
    fill = source.type.lo if largest else 0
    fed, window = slide(net, op, source, geometry, lanes, channel_major=True, fill=fill)
    out = net.output_stream(op, lanes)
    config = Config(
        name=f"cfg_{cname}",
        types={"in_t": fed.element, "out_t": out.element},
        values={
            "words": pick(out.words, out.size // lanes.native),
            "taps": str(geometry.taps),
            "lanes": str(lanes),
        },
    )
    kernel = "max_pool" if largest else "sum_pool"
    net.process(f"hwq::{kernel}<cfg_{cname}>({fed.name}, {out.name});", (fed,), (out,))
    net.headers.append(
        OpHeader(
            op=op.name,
            cname=cname,
            kind=type(op).__name__,
            includes=("hwq_window.h", "hwq_pool.h"),
            configs=(window, config),
            tables=(),
        )
    )
    net.publish(op, out)


def _kernel_pad(net: Network, op: Pad) -> None:
    cname, spec = net.cnames[op.name], net.graph[op.inputs[0]].out
    given = net.peek(op.inputs[0]).lanes
    lanes = Lanes(gcd(given.folded, op.before, op.after), gcd(given.native, op.before, op.after))
    source = net.take(op.inputs[0], lanes)
    out = net.output_stream(op, lanes)
    sizes = map_sizes(spec) | pad_sizes(op.padding) | {"before": op.before, "after": op.after}
    config = Config(
        name=f"cfg_{cname}",
        types={"in_t": source.element},
        values={**{key: str(size) for key, size in sizes.items()}, "lanes": str(lanes)},
    )
    steps = pad_steps(source, out, spec, op.padding)
    net.process(f"hwq::pad<{config.name}>({source.name}, {out.name});", (source,), (out,), *steps)
    net.headers.append(
        OpHeader(op=op.name, cname=cname, kind="Pad", includes=("hwq_pad.h",), configs=(config,), tables=())
    )
    net.publish(op, out)


def _kernel_concat(net: Network, op: Concat) -> None:
    joined = net.take(op.inputs[0])
    channels = net.graph[op.inputs[0]].out.channels
    count = pixels(op.out)
    for position, name in enumerate(op.inputs[1:], start=2):
        other = net.take(name)
        more = net.graph[name].out.channels
        total = channels + more
        lanes = Lanes(gcd(max(joined.lanes.folded, other.lanes.folded), total), total)
        if position == len(op.inputs):
            out = net.output_stream(op, lanes)
        else:
            part = net.extra_stream(joined, lanes)
            part.size, part.tokens = total * count, count
            out = part
        call = f"hwq::concat<{count}, {channels}, {more}>({joined.name}, {other.name}, {out.name});"
        net.process(call, (joined, other), (out,))
        joined, channels = out, total
    net.publish(op, joined)


KERNELS: dict[type[Op], Callable[[Network, Any], None]] = {
    Input: _kernel_input,
    Conv2d: _kernel_conv,
    Linear: _kernel_linear,
    Requantize: requantize,
    MaxPool: _kernel_pool,
    SumPool: _kernel_pool,
    Pad: _kernel_pad,
    Concat: _kernel_concat,
    Flatten: _kernel_flatten,
    Output: _kernel_output,
}
"""Every op class; a test asserts it."""
