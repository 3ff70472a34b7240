"""`hwq sweep`: accuracy, code errors and memory over a grid of constant formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hwq.cli.options import HELP, NewFile, code_options, trusted
from hwq.errors import InputError, MismatchError

if TYPE_CHECKING:
    from hwq.cli.networks import Networks
    from hwq.cli.sweep_output import Shown
    from hwq.engine import Preference
    from hwq.sweep import Backend, Network, Point, Row, Store, Sweep, Workers

DEFAULT = ("32,10", "24,10", "16,8", "16,6", "16,auto", "12,channel", "8,auto")
_LOSS = 0.1
"""Of --check's choice, where --within says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOptions:
    """The command's options, as text where the user wrote text. within, mixed: percentage points."""

    fixed: Sequence[str]
    widths: str | None
    integers: str | None
    roundings: str
    bits: str | None
    edge_fixed: str
    images: int | None
    error_images: int
    wrong_above: float
    data: str | None
    off_bits: int | None
    threads: int | None
    engine: Preference
    backend: Backend | None
    jobs: int | None
    address: str | None
    within: float | None
    mixed: float | None
    check: int
    check_ap: int
    picture: bool
    out: Path | None
    model: str | None = None
    trust: bool = False

    def formats(self) -> tuple[list[str], list[str]]:
        """(formats as text, those of --widths x --integer left out). Raises InputError."""
        from hwq.sweep import parse_rules, parse_widths, width_formats

        if self.widths is None:
            if self.integers is not None:
                raise InputError("--integer goes with --widths, as in --widths 8:32:2 --integer auto,channel")
            return list(self.fixed or DEFAULT), []
        rules = parse_rules("auto" if self.integers is None else self.integers)
        kept, left = width_formats(parse_widths(self.widths), rules)
        return [*self.fixed, *kept], left

    def workers(self) -> Workers | None:
        """None: this process does it all. Raises InputError."""
        from hwq.sweep import Workers

        if self.backend is None and self.address is None and (self.jobs or 1) == 1:
            return None
        if self.threads is not None:
            raise InputError("--threads is for a sweep in one process; workers have one thread each")
        return Workers(backend=self.backend or "loky", jobs=self.jobs, address=self.address)


@click.command(context_settings=HELP)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--fixed", multiple=True, metavar="FORMAT", help=f"May be repeated. [{' '.join(DEFAULT)}]")
@click.option("--widths", metavar="SPANS", help="With --integer: start:stop:step as 8:32:2, or 8,12,16.")
@click.option("--integer", "integers", metavar="RULES", help="I of --widths: auto, channel, numbers.  [auto]")
@click.option(
    "--round", "roundings", default="rnd", show_default=True, help="Half up (rnd), floor (trn), or rnd,trn."
)
@click.option(
    "--bits",
    metavar="LIST",
    help="Weights and activations quantised anew, without training, as 8,6 or 8/4 (weights/activations); "
    "own: as they are.",
)
@click.option("--edge-fixed", default="32,16", show_default=True, help="Input constants and logits: W,I.")
@click.option("--images", type=click.IntRange(min=1), help="A sample of this many test images. Default: all.")
@click.option(
    "--error-images",
    type=click.IntRange(min=0),
    default=250,
    show_default=True,
    help="Images for the layers' code errors; accuracy is of all.",
)
@click.option(
    "--wrong-above",
    type=click.FloatRange(0, 100),
    default=1.0,
    show_default=True,
    help="Percent of a layer's codes that may differ before it counts as wrong.",
)
@click.option("--within", type=click.FloatRange(min=0), metavar="LOSS", help="Smallest formats within it.")
@click.option(
    "--mixed", type=click.FloatRange(min=0), metavar="LOSS", help="Search a format for each layer, within it."
)
@click.option(
    "--check", type=click.IntRange(min=0), default=0, help="Compare so many rows with compiled C++."
)
@click.option(
    "--check-ap",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="Images of --check with AMD's types; the native build runs all.",
)
@click.option("--data", help="Other data than the run's own: digits, cifar10[:ROOT] or folder:ROOT.")
@code_options
@click.option("--off-bits", type=click.IntRange(1, 16), help="Codes for tensors that training left off.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads, in one process.")
@click.option("--jobs", type=click.IntRange(min=1), help="Worker processes, one thread each.")
@click.option(
    "--backend", type=click.Choice(["loky", "dask", "ray"]), help="Of the workers.  [default: loky]"
)
@click.option("--address", metavar="URL", help="A running dask or ray cluster. Default: start one here.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "native", "torch"]),
    default="auto",
    show_default=True,
    help="Which exact simulator: compiled C++, torch, or the first that runs here. All give the same.",
)
@click.option("--picture/--no-picture", default=True, show_default=True, help="An .svg and a .png.")
@click.option("--out", type=NewFile(), help="Default: RUN/sweep.csv.")
def command(run: Path, **options: Any) -> None:
    """Measure RUN (a run folder or a checkpoint) at several formats of its constants.

    Each row: test accuracy, output codes that differ from real-valued constants on identical inputs, the
    signal-to-noise ratio of the logits, the constants' memory, the first layer that goes wrong. Lossy
    constants are counted, not refused. Rows go to a CSV and a JSON as they are done; a second call computes
    only what is missing.

    \b
    hwq sweep RUN --widths 8:32:2 --integer auto,channel,8 --round rnd,trn --within 0.1
    hwq sweep RUN --widths 4:16 --integer channel --mixed 0.1
    hwq sweep RUN --widths 4:24 --backend dask --jobs 16
    """
    sweep_run(run, SweepOptions(**options))


def sweep_run(run: Path, options: SweepOptions) -> None:
    """The whole command. Raises HwqError; MismatchError where the C++ differs."""
    from hwq.cli.sweep_check import passed
    from hwq.cli.sweep_output import Shown, print_mixed, print_smallest, print_table
    from hwq.files import run_lock
    from hwq.sweep import Store, grid, parse_bits, parse_roundings
    from hwq.train.interrupt import Interrupted

    formats, left = options.formats()
    bits = parse_bits("own" if options.bits is None else options.bits)
    points = grid(formats, parse_roundings(options.roundings), bits)
    workers = options.workers()
    networks, network, store = _opened(run, options)
    # sweeps may add to the same files at a time; no other writer of the folder may run beside them
    with run_lock(store.csv_path.parent, shared=True), Shown(points, len(network.pixels)) as shown:
        if left:
            shown.note(f"left out, without fraction bits or with too many: {' '.join(left)}")
        if others := store.others(network.key(points[0])):
            shown.note(
                f"{store.json_path} also holds {others} rows of another checkpoint, of other images or by "
                "another hwq: they stay, and are not shown here"
            )
        work = _Work(networks, network, store, options, shown)
        try:
            rows = work.sweep(workers).rows(points)
            mixed = work.mixed(points, workers)
            rows += [row for row in mixed.values() if row is not None and row not in rows]
            rows = work.checked(rows)
        except KeyboardInterrupt:
            done = len(Store.open(store.csv_path).rows)
            raise Interrupted(
                f"interrupted; {done} rows are in {store.json_path}, the same command goes on from them"
            ) from None
    print_table(rows, options.wrong_above)
    if options.within is not None:
        print_smallest(rows, options.within, networks, options.data)
    if options.mixed is not None:
        print_mixed(mixed, options.mixed, networks, options.data)
    files = [store.csv_path, store.json_path, *(work.picture(rows) if options.picture else ())]
    click.echo("\n".join(map(str, files)))
    bad = [row for row in rows if not passed(row)]
    if bad:
        raise MismatchError(f"{bad[0]['format']}: the C++ differs from this sweep: {bad[0]['checked']}")


def _opened(run: Path, options: SweepOptions) -> tuple[Networks, Network, Store]:
    """What is there to sweep, and where rows go. Nothing has been written yet. Raises InputError, OSError."""
    from hwq.cli.networks import Networks
    from hwq.files import check_writable
    from hwq.fixed import parse_edge
    from hwq.sweep import Network, Store

    edge = parse_edge(options.edge_fixed)
    store = Store.open(options.out or (run if run.is_dir() else run.parent) / "sweep.csv")
    check_writable(store.csv_path.parent)
    code = trusted(options.model, options.trust)
    networks = Networks(run, edge, options.off_bits, options.data, store.csv_path.parent, code)
    images = networks.images(options.images)
    network = Network.of(
        networks.checkpoint,
        str(networks.spec),
        edge,
        networks.candidate,
        images.pixels,
        images.labels,
        off_bits=options.off_bits,
        error_images=options.error_images,
    )
    return networks, network, store


@dataclass(frozen=True, slots=True)
class _Work:
    """The steps of a sweep, on one network and one store."""

    networks: Networks
    network: Network
    store: Store
    options: SweepOptions
    shown: Shown

    def sweep(self, workers: Workers | None, network: Network | None = None) -> Sweep:
        from hwq.sweep import Sweep

        return Sweep(
            network or self.network,
            self.store,
            workers=workers,
            threads=self.options.threads or self.options.jobs,
            engine=self.options.engine,
            wrong_above=self.options.wrong_above / 100,
            watcher=self.shown,
        )

    def mixed(self, points: Sequence[Point], workers: Workers | None) -> dict[Point, Row | None]:
        """By reference, the best row of --mixed. Steps that depend on each other run in this process."""
        from hwq.sweep import search

        if self.options.mixed is None:
            return {}
        few = self.network.error_images
        small = self.network.first(few)
        one = self.sweep(None)
        return {
            reference: search(
                one,
                self.sweep(workers, small),
                reference,
                [p.name for p in points if p.network == reference.network and p != reference],
                self.options.mixed,
                self.shown.note,
            )
            for reference in dict.fromkeys(p.reference for p in points)
        }

    def checked(self, rows: list[Row]) -> list[Row]:
        """The rows, some of them compared with C++ and stored so."""
        from hwq.cli.sweep_check import check, chosen, covers

        if not self.options.check:
            return rows
        loss = _LOSS if self.options.within is None else self.options.within
        for row in chosen(rows, self.options.check, loss):
            if covers(row, self.options.check_ap):
                continue
            done = check(
                row,
                self.networks,
                self.network,
                self.options.check_ap,
                engine=self.options.engine,
                threads=self.options.threads or self.options.jobs or 1,
                shown=self.shown,
            )
            self.store.put(done)
            rows = [done if other is row else other for other in rows]
        return rows

    def picture(self, rows: Sequence[Row]) -> list[Path]:
        from hwq.sweep import draw

        paths = [self.store.csv_path.with_suffix(suffix) for suffix in (".svg", ".png")]
        title = f"{self.networks.run.resolve().name}, {len(self.network.pixels):,} test images"
        draw(rows, paths, title=title, loss=self.options.within)
        return paths
