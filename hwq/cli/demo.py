"""`hwq demo`: the whole route on real digits."""

from __future__ import annotations

from pathlib import Path

import click

from hwq.cli.options import HELP


@click.command(context_settings=HELP)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="runs/demo",
    show_default=True,
    help="Run folder; an earlier demo in it is replaced, anything else is left alone.",
)
@click.option(
    "--bits",
    type=click.Choice(["4", "8"]),
    default="4",
    show_default=True,
    help="Bits of weights and activations.",
)
@click.option("--threads", type=click.IntRange(1, 256), default=2, show_default=True, help="CPU threads.")
def command(out: Path, bits: str, threads: int) -> int:
    """Train, export, compile and prove a small residual CNN on 1,797 real handwritten digits.

    Float training, quantisation-aware training (DoReFa weights, mPACT activations), export with
    ap_fixed<32,10> constants, then every test image through the Python simulator and through the C++,
    compiled with AMD's types and with built-in integers. Writes OUT/report.html. About a minute; exit
    code 1 if a single value differs.
    """
    from hwq.cli.route import demo

    return demo(out, int(bits), threads)
