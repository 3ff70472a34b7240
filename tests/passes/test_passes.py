"""Passes change no output bit; the runner names the one that breaks its contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from hwq.errors import VerifyError
from hwq.fixed import Constants, IntType, Rounding
from hwq.ir import (
    Conv2d,
    Flatten,
    Graph,
    Input,
    Linear,
    MaxPool,
    Op,
    Output,
    Pad,
    Padding,
    Requant,
    Requantize,
    SumPool,
    TensorSpec,
    pooled_size,
    verify,
)
from hwq.passes import (
    PIPELINE,
    Pass,
    absorb_padding,
    drop_exact_requantize,
    drop_identity,
    drop_unread,
    run_passes,
    tighten_sums,
)
from hwq.simulate.oracle import run_oracle
from tests.graphs import graphs, random_pixels, seeded_graph


def constants(*raw: int, width: int = 16, integer: int = 8) -> Constants:
    values = np.array(raw, dtype=np.int64)
    return Constants(width=width, raw=values, integer=np.full_like(values, integer), format_name="test")


def requant(
    multiplier: Constants, bias: Constants, kind: IntType, rounding: Rounding = Rounding.RND
) -> Requant:
    return Requant(terms=(multiplier,), bias=bias, out=kind, lo=kind.lo, hi=kind.hi, rounding=rounding)


def chain(*steps: Op) -> Graph:
    """Input, codes, then the given ops in a row, then Output."""
    kind = IntType(bits=8, signed=True)
    start = TensorSpec(shape=(4, 4, 2), type=IntType(bits=8, signed=False), scale=1 / 255)
    codes = TensorSpec(shape=(4, 4, 2), type=kind, scale=0.5)
    first = requant(constants(200), constants(-12800), kind)
    ops: list[Op] = [
        Input(name="in", inputs=(), out=start),
        Requantize(name="codes", inputs=("in",), out=codes, requant=first),
        *steps,
    ]
    last = ops[-1]
    ops.append(Output(name="out", inputs=(last.name,), out=last.out))
    graph = Graph(name="chain", ops=tuple(ops))
    verify(graph)
    return graph


def spec(bits: int = 8, scale: float | None = 0.5) -> TensorSpec:
    return TensorSpec(shape=(4, 4, 2), type=IntType(bits=bits, signed=True), scale=scale)


def names(graph: Graph) -> list[str]:
    return [op.name for op in graph]


def same_output(a: Graph, b: Graph) -> None:
    pixels = random_pixels(a, 5, 1)
    np.testing.assert_array_equal(run_oracle(a, pixels)[a.output.name], run_oracle(b, pixels)[b.output.name])


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_pipeline_changes_no_bit(graph: Graph) -> None:
    made = run_passes(graph)
    pixels = random_pixels(graph, 4, 0)
    before, after = run_oracle(graph, pixels), run_oracle(made, pixels)
    for op in made:
        np.testing.assert_array_equal(before[op.name], after[op.name], err_msg=op.name)
    assert run_passes(made).ops == made.ops or names(run_passes(made)) == names(made)


def test_drop_unread() -> None:
    graph = chain(Flatten(name="f", inputs=("codes",), out=replace(spec(), shape=(32,))))
    extra = Pad(name="dead", inputs=("codes",), out=replace(spec(), shape=(4, 4, 3)), before=1, after=0)
    dirty = Graph(name="chain", ops=(*graph.ops[:2], extra, *graph.ops[2:]))
    with pytest.raises(VerifyError, match="nothing reads it"):
        verify(dirty)
    assert names(drop_unread(dirty)) == names(graph)
    assert names(run_passes(dirty)) == names(graph)


def test_drop_identity() -> None:
    graph = chain(
        MaxPool(name="p", inputs=("codes",), out=spec(), kernel=(1, 1), stride=(1, 1)),
        Pad(name="c", inputs=("p",), out=spec(), before=0, after=0),
        Flatten(name="f", inputs=("c",), out=replace(spec(), shape=(32,))),
        Flatten(name="g", inputs=("f",), out=replace(spec(), shape=(32,))),
    )
    made = drop_identity(graph)
    assert names(made) == ["in", "codes", "f", "out"]
    same_output(graph, made)
    kept = chain(
        MaxPool(
            name="p", inputs=("codes",), out=replace(spec(), shape=(2, 2, 2)), kernel=(1, 1), stride=(2, 2)
        ),
        Pad(name="c", inputs=("p",), out=replace(spec(), shape=(2, 2, 3)), before=0, after=1),
    )
    assert drop_identity(kept).ops is not None
    assert names(drop_identity(kept)) == names(kept)


def padded(source: Op, padding: Padding, channels: tuple[int, int] = (0, 0), name: str = "pad") -> Pad:
    h, w, c = source.out.shape
    out = replace(source.out, shape=(*padding.padded((h, w)), sum(channels) + c))
    before, after = channels
    return Pad(name=name, inputs=(source.name,), out=out, padding=padding, before=before, after=after)


def slid(kind: str, source: Op, kernel: tuple[int, int], padding: Padding, name: str = "reader") -> Op:
    """A convolution or pool of stride (1, 2) over `source`."""
    h, w, c = source.out.shape
    size = pooled_size((h, w), kernel, (1, 2), padding)
    common: dict[str, Any] = {"name": name, "inputs": (source.name,), "stride": (1, 2), "padding": padding}
    sums = TensorSpec(shape=(*size, c), type=IntType(bits=24, signed=source.out.type.signed))
    if kind == "conv":
        weight = np.arange(c * c * kernel[0] * kernel[1]).reshape(c, *kernel, c) % 7 - 3
        sums = replace(sums, type=IntType(bits=24, signed=True))
        return Conv2d(**common, out=sums, weight=weight, weight_type=IntType(bits=4, signed=True))
    if kind == "sum":
        return SumPool(**common, out=sums, kernel=kernel)
    return MaxPool(**common, out=replace(source.out, shape=(*size, c)), kernel=kernel)


def coded(signed: bool, *codes: int) -> tuple[Input, Requantize]:
    """A map of 2 x 3 and 2 channels whose codes are `codes` for any image, in turns over the channels."""
    kind = IntType(bits=8, signed=signed)
    pixels = TensorSpec(shape=(2, 3, 2), type=IntType(bits=8, signed=False), scale=1 / 255)
    made = requant(constants(0), constants(*(c << 8 for c in codes)), kind)
    start = Input(name="in", inputs=(), out=pixels)
    return start, Requantize(
        name="codes", inputs=("in",), out=replace(pixels, type=kind, scale=0.5), requant=made
    )


def ended(*ops: Op) -> Graph:
    last = ops[-1]
    graph = Graph(name="net", ops=(*ops, Output(name="out", inputs=(last.name,), out=last.out)))
    verify(graph)
    return graph


SIDES = Padding(top=1, left=2, right=1)


@pytest.mark.parametrize(
    ("kind", "signed", "kernel", "own", "given", "channels", "goes"),
    [
        ("conv", True, (2, 3), Padding(), SIDES, (0, 0), True),
        ("conv", True, (2, 3), Padding(bottom=1, right=3), SIDES, (0, 0), True),
        ("conv", True, (1, 1), Padding(), Padding(top=9, right=9), (0, 0), True),
        ("conv", True, (2, 3), Padding(), SIDES, (2, 0), False),
        ("conv", True, (2, 3), Padding(left=1000), Padding(left=24), (0, 0), True),
        ("conv", True, (2, 3), Padding(left=1000), Padding(left=25), (0, 0), False),
        ("sum", True, (2, 3), Padding(), SIDES, (0, 0), True),
        ("sum", True, (2, 3), Padding(bottom=1), SIDES, (0, 0), True),
        ("sum", True, (2, 3), Padding(top=1), SIDES, (0, 0), False),
        ("sum", True, (2, 2), Padding(), SIDES, (0, 0), False),
        ("max", False, (2, 3), Padding(), SIDES, (0, 0), True),
        ("max", False, (2, 2), Padding(), SIDES, (0, 0), False),
        ("max", True, (2, 3), Padding(), SIDES, (0, 0), False),
    ],
)
def test_padding_goes_into_its_reader(
    kind: str,
    signed: bool,
    kernel: tuple[int, int],
    own: Padding,
    given: Padding,
    channels: tuple[int, int],
    goes: bool,
) -> None:
    start, codes = coded(signed, 5, -9 if signed else 7)
    pad = padded(codes, given, channels)
    graph = ended(start, codes, pad, slid(kind, pad, kernel, own))
    made = absorb_padding(graph)
    verify(made)
    assert ("pad" not in names(made)) == goes
    same_output(graph, made)
    if goes:
        reader = made["reader"]
        assert isinstance(reader, Conv2d | SumPool | MaxPool)
        assert reader.padding == own + given


def test_zeros_win_over_negative_codes() -> None:
    """Why the padding of a signed map stays before a max pool: there its zeros are the largest codes."""
    start, codes = coded(True, -3, -4)
    pad = padded(codes, SIDES)
    before = ended(start, codes, pad, slid("max", pad, (2, 3), Padding()))
    inside = ended(start, codes, slid("max", codes, (2, 3), SIDES))
    pixels = random_pixels(before, 1, 0)
    assert run_oracle(before, pixels)["out"].max() == 0
    assert run_oracle(inside, pixels)["out"].max() == -3


def two_readers(*kinds: str) -> Graph:
    """A padded map, read by ops of equal size, which a requantisation adds."""
    start, codes = coded(True, 5, -9)
    pad = padded(codes, SIDES)
    readers = [slid(kind, pad, (2, 3), Padding(), f"{kind}{i}") for i, kind in enumerate(kinds)]
    made = requant(ONE, constants(0), IntType(bits=8, signed=True))
    total = Requantize(
        name="y",
        inputs=tuple(op.name for op in readers),
        out=TensorSpec(shape=readers[0].out.shape, type=made.out, scale=0.5),
        requant=replace(made, terms=(ONE,) * len(readers)),
    )
    return ended(start, codes, pad, *readers, total)


def test_all_readers_or_none() -> None:
    for kinds, goes in ((("conv", "sum"), True), (("conv", "max"), False), (("conv", "conv"), True)):
        graph = two_readers(*kinds)
        made = absorb_padding(graph)
        assert ("pad" not in names(made)) == goes
        same_output(graph, made)


def test_padding_in_a_row() -> None:
    """Channels first, then rows, then columns: one op, which stays for its channels."""
    start, codes = coded(True, 5, -9)

    def row(*steps: tuple[Padding, tuple[int, int]]) -> list[Op]:
        ops: list[Op] = [start, codes]
        for index, (padding, channels) in enumerate(steps):
            ops.append(padded(ops[-1], padding, channels, f"pad{index}"))
        return ops

    mixed: Sequence[Op] = row((Padding(), (1, 2)), (Padding(top=3), (0, 0)), (SIDES, (0, 4)))
    graph = ended(*mixed)
    made = absorb_padding(graph)
    verify(made)
    assert names(made) == ["in", "codes", "pad2", "out"]
    pad = made["pad2"]
    assert isinstance(pad, Pad)
    assert (pad.padding, pad.before, pad.after) == (SIDES + Padding(top=3), 1, 6)
    same_output(graph, made)
    spatial = row((SIDES, (0, 0)), (SIDES, (0, 0)))
    graph = ended(*spatial, slid("conv", spatial[-1], (2, 3), Padding()))
    made = absorb_padding(graph)
    assert names(made) == ["in", "codes", "reader", "out"]
    same_output(graph, made)


ONE = constants(256)  # 1.0 in <16,8>


@pytest.mark.parametrize(
    ("multiplier", "bias", "rounding", "exact"),
    [
        (ONE, constants(0), Rounding.RND, True),
        (ONE, constants(0), Rounding.TRN, True),
        (ONE, constants(127), Rounding.RND, True),
        (ONE, constants(128), Rounding.RND, False),
        (ONE, constants(-128), Rounding.RND, True),
        (ONE, constants(-129), Rounding.RND, False),
        (ONE, constants(255), Rounding.TRN, True),
        (ONE, constants(256), Rounding.TRN, False),
        (ONE, constants(-1), Rounding.TRN, False),
        (constants(255), constants(0), Rounding.RND, False),
        (constants(256, 257), constants(0), Rounding.RND, False),
        (constants(256, 256), constants(0, 200), Rounding.RND, False),
        (constants(1, width=2, integer=2), constants(0), Rounding.RND, True),
        (constants(1, width=2, integer=3), constants(0), Rounding.RND, False),
    ],
)
def test_exact_requantize(multiplier: Constants, bias: Constants, rounding: Rounding, exact: bool) -> None:
    r = requant(multiplier, bias, IntType(bits=8, signed=True), rounding)
    graph = chain(Requantize(name="r", inputs=("codes",), out=spec(), requant=r))
    made = drop_exact_requantize(graph)
    assert ("r" not in names(made)) == exact
    same_output(graph, made)
    every = np.arange(-127, 128).reshape(-1, 1, 1, 1) * np.ones((1, 4, 4, 2), np.int64)
    from hwq.simulate.oracle import requantize

    changed = bool((requantize(graph["r"], [every]) != every).any())  # type: ignore[arg-type]
    assert changed != exact or not exact


def test_requantize_with_a_clamp_or_another_scale_stays() -> None:
    kind = IntType(bits=8, signed=True)
    clamped = replace(requant(ONE, constants(0), kind), lo=0)
    other = requant(ONE, constants(0), kind)
    for r, out in ((clamped, spec()), (other, spec(scale=0.25))):
        graph = chain(Requantize(name="r", inputs=("codes",), out=out, requant=r))
        assert names(drop_exact_requantize(graph)) == names(graph)


def test_tighten_sums() -> None:
    weight = np.ones((2, 1, 1, 2), dtype=np.int64)
    wide = spec(bits=40, scale=None)
    kind = IntType(bits=8, signed=True)
    conv = Conv2d(
        name="c", inputs=("codes",), out=wide, weight=weight, weight_type=IntType(bits=2, signed=True)
    )
    end = Requantize(name="r", inputs=("c",), out=spec(), requant=requant(ONE, constants(0), kind))
    made = tighten_sums(chain(conv, end))
    assert made["c"].out.type.bits == 9  # 2 * 127 < 2^8, and a sign
    same_output(chain(conv, end), made)
    # something else reads the sums: their type is part of its contract
    pool = MaxPool(name="p", inputs=("c",), out=wide, kernel=(1, 1), stride=(1, 1))
    read = Requantize(name="r", inputs=("p",), out=spec(), requant=requant(ONE, constants(0), kind))
    assert tighten_sums(chain(conv, pool, read))["c"].out.type.bits == 40
    total = SumPool(
        name="s", inputs=("codes",), out=replace(wide, shape=(1, 1, 2)), kernel=(4, 4), stride=(4, 4)
    )
    short = replace(spec(), shape=(1, 1, 2))
    last = Requantize(name="r", inputs=("s",), out=short, requant=requant(ONE, constants(0), kind))
    assert tighten_sums(chain(total, last))["s"].out.type.bits == 12  # 16 * 127 = 2032


def test_weights_are_untouched() -> None:
    for seed in range(8):
        graph = seeded_graph(seed)
        made = run_passes(graph)
        for op in made:
            if isinstance(op, Conv2d | Linear):
                assert op.weight is graph[op.name].weight  # type: ignore[attr-defined]


# -- the runner


def rename(graph: Graph) -> Graph:
    return Graph(name="other", ops=graph.ops)


def lose_output(graph: Graph) -> Graph:
    return Graph(name=graph.name, ops=graph.ops[:-1])


def crash(graph: Graph) -> Graph:
    raise KeyError("x")


def narrow(graph: Graph) -> Graph:
    out = replace(graph.output.out, scale=3.0)
    ops = tuple(replace(op, out=out) if op.name in ("codes", "out") else op for op in graph.ops)
    return Graph(name=graph.name, ops=ops)


def test_runner_names_the_pass_and_those_before() -> None:
    graph = chain()
    ok = Pass(run=drop_identity)
    with pytest.raises(
        VerifyError, match=r"pass 'lose_output' broke its contract \(after drop_identity\): graph"
    ):
        run_passes(graph, (ok, Pass(run=lose_output)))
    with pytest.raises(VerifyError, match=r"pass 'rename' broke its contract \(first pass\): name was chain"):
        run_passes(graph, (Pass(run=rename),))
    with pytest.raises(VerifyError, match=r"pass 'crash' failed \(after drop_identity\): KeyError: 'x'"):
        run_passes(graph, (ok, Pass(run=crash)))
    with pytest.raises(VerifyError, match=r"pass 'narrow' broke its contract .*result was"):
        run_passes(graph, (Pass(run=narrow),))
    with pytest.raises(
        VerifyError, match=r"before pass 'drop_identity' \(first pass\): graph 'chain': must start"
    ):
        run_passes(lose_output(graph), (ok,))


def test_pipeline_is_named() -> None:
    assert [p.name for p in PIPELINE] == [
        "drop_unread",
        "drop_identity",
        "absorb_padding",
        "drop_exact_requantize",
        "tighten_sums",
    ]
