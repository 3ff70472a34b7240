"""What rows say: where a format goes wrong, which are worth their bits, the smallest within a loss."""

from __future__ import annotations

from collections.abc import Sequence

from hwq.fixed import AutoFormat, ChannelFormat, LiteralFormat, ShiftFormat, parse_format
from hwq.sweep.points import REAL, Point
from hwq.sweep.store import Row


def point_of(row: Row) -> Point:
    """What was measured."""
    pairs = [tuple(text.rsplit("=", 1)) for text in row["assigned"]]
    layers = tuple((op, form) for op, form in pairs)
    return Point(name=row["format"], rounding=row["round"], bits=row["bits"], layers=layers)


def first_wrong(row: Row, above: float) -> str:
    """The first requantisation, in the graph's order, of which a larger share of codes than `above` (0..1)
    differs, or that has a harmful constant; "" for none. The logits count by their harmful constants only.
    """
    logits = next(reversed(row["snr"]), "")
    shares = {**row["edge_layers"], **row["layers"]}
    shares.pop(logits, None)
    names = (n for n in row["snr"] if shares.get(n, 0.0) > above or row["harmful_layers"].get(n))
    return next(names, "")


def width_and_rule(row: Row) -> tuple[int, str] | None:
    """(W, how I is found) of a row whose layers all have one `W,...` format: `auto`, `channel`, `I = 8`."""
    if row["assigned"] or row["format"] == REAL:
        return None
    match parse_format(row["format"]):
        case AutoFormat(width=width):
            return width, "auto"
        case ChannelFormat(width=width):
            return width, "channel"
        case LiteralFormat() as form:
            _, rest = str(form).split(",", 1)
            return form.type.width, f"I = {rest}"
        case ShiftFormat() | _:
            return None


def rule_of(row: Row) -> str:
    """How I is found, in words, with bits and rounding where they are not the network's own and `rnd`."""
    point, found = point_of(row), width_and_rule(row)
    name = "mixed" if row["assigned"] else row["format"]
    bits = [f"w{'a'.join(point.bits.split('/'))}"] if point.bits else []
    return " ".join([name if found is None else found[1], *bits, *(["trn"] if row["round"] == "trn" else [])])


def cost(row: Row) -> tuple[int, float]:
    """Fewer bits come first, then the more accurate."""
    return row["memory"], -row["accuracy"]


def pareto(rows: Sequence[Row]) -> list[Row]:
    """Rows that no other of the same bit widths beats: as accurate or more, with as few bits of constants or
    fewer, and better in one. By rising memory; of rows equal in both the first. Real-valued constants take no
    part.
    """
    stored = [row for row in rows if row["format"] != REAL]
    front: list[Row] = []
    best: dict[str, float] = {}
    for row in sorted(stored, key=cost):
        if row["accuracy"] > best.get(row["bits"], -1.0):
            best[row["bits"]] = row["accuracy"]
            front.append(row)
    return front


def within(rows: Sequence[Row], loss: float) -> list[Row]:
    """Rows at most `loss` points below the real-valued constants of their network and rounding."""
    real = {point_of(row).network: row["accuracy"] for row in rows if row["format"] == REAL}
    # accuracies are ratios of counts: a loss of exactly 0.1 must not fall to the last bit of a float64
    return [
        row
        for row in rows
        if row["format"] != REAL and real[point_of(row).network] - row["accuracy"] <= loss + 1e-9
    ]


def smallest(rows: Sequence[Row]) -> tuple[dict[str, Row], Row | None]:
    """(by rule the row of the smallest W, the row of the fewest bits), the more accurate of equal ones.

    Rules are those of `rule_of`.
    """
    best: dict[str, Row] = {}
    for row in sorted(rows, key=cost):
        found = width_and_rule(row)
        if found is None:
            continue
        rule = rule_of(row)
        if rule not in best or (found[0] < (width_and_rule(best[rule]) or (0,))[0]):
            best[rule] = row
    least = min(rows, key=cost, default=None)
    return best, least


def clipping_warning(rows: Sequence[Row]) -> str:
    """One loud line where logits of a row leave their type; "" for none."""
    bad = [row for row in rows if row["clipped"]]
    if not bad:
        return ""
    worst = max(bad, key=lambda row: (row["clipped_images"], row["clipped"]))
    share = 100 * worst["clipped_images"] / worst["images"]
    which = "all rows" if len(bad) == len(rows) else f"{len(bad)} of {len(rows)} rows"
    return (
        f"WARNING: logits of {which} are clipped at the ends of their type {worst['edge']}, at most "
        f"{worst['clipped']:,} in {worst['clipped_images']:,} of {worst['images']:,} images ({share:.2f}%): "
        f"{point_of(worst)}. Their accuracy is not the constants': give another --edge-fixed (`hwq explain` "
        "names the cheapest)"
    )
