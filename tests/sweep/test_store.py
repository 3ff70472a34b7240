"""The files of a sweep, and what rows say."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwq.errors import InputError
from hwq.sweep import Point, Store, Sweep, pareto, point_of, smallest, width_and_rule, within
from hwq.sweep.store import VERSION
from tests.sweep.networks import network


def swept(path: Path) -> list[dict[str, Any]]:
    return Sweep(network(), Store.open(path)).rows([Point.parse("real"), Point.parse("8,4")])


def test_csv_has_columns_a_layer(tmp_path: Path) -> None:
    rows = swept(tmp_path / "s.csv")
    with (tmp_path / "s.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [line["format"] for line in table] == ["real", "8,4"]
    assert [float(line["local.r1"]) for line in table] == [row["layers"]["r1"] for row in rows]
    assert [float(line["snr.r1"]) for line in table] == [float("inf"), rows[1]["snr"]["r1"]]
    assert [line["logits_snr"] for line in table] == ["inf", str(rows[1]["logits_snr"])]
    assert [int(line["memory"]) for line in table] == [row["memory"] for row in rows]


_OLD = {"hwq_sweep": 1, "rows": [{"format": "8,4"}]}


@pytest.mark.parametrize(
    ("files", "out", "words"),
    [
        ({}, "s.json", "must end in .csv"),
        ({}, "nowhere/s.csv", "no folder"),
        ({"s.csv": "mine"}, "s.csv", "no result of hwq sweep"),
        ({"s.json": "{"}, "s.csv", "no result of hwq sweep"),
        ({"s.json": "[]"}, "s.csv", "no result of hwq sweep"),
        ({"s.json": '{"rows": []}'}, "s.csv", "no result of hwq sweep"),
        ({"s.json": b"\xff\xfe"}, "s.csv", "no result of hwq sweep"),
        ({"s.json": json.dumps({"hwq_sweep": VERSION, "rows": [{"format": "8,4"}]})}, "s.csv", "no result"),
        ({"s.json": json.dumps({"hwq_sweep": VERSION, "rows": {"format": 1}})}, "s.csv", "no result"),
        ({"s.json": json.dumps(_OLD)}, "s.csv", "written by another version"),
        ({"s.json": '{"hwq_sweep": 99, "rows": []}'}, "s.csv", "written by another version"),
    ],
)
def test_foreign_files_are_left_alone(
    tmp_path: Path, files: dict[str, str | bytes], out: str, words: str
) -> None:
    wanted = {name: text.encode() if isinstance(text, str) else text for name, text in files.items()}
    for name, content in wanted.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        Store.open(tmp_path / out)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == wanted


@pytest.mark.parametrize(
    ("field", "value"),
    [("accuracy", "high"), ("layers", []), ("images", 1.5), ("checks", None), ("logits_snr", "inf")],
)
def test_a_row_of_wrong_types(tmp_path: Path, field: str, value: object) -> None:
    rows = swept(tmp_path / "s.csv")
    Store.open(tmp_path / "s.csv")
    rows[1][field] = value
    (tmp_path / "s.json").write_text(json.dumps({"hwq_sweep": VERSION, "rows": rows}))
    with pytest.raises(InputError, match="no result of hwq sweep"):
        Store.open(tmp_path / "s.csv")


def test_a_row_takes_the_place_of_its_own(tmp_path: Path) -> None:
    rows = swept(tmp_path / "s.csv")
    one, other = Store.open(tmp_path / "s.csv"), Store.open(tmp_path / "s.csv")
    one.put({**rows[1], "checked": "equal"})
    other.put({**rows[1], "format": "9,4"})  # written over what the other has not seen
    found = [(row["format"], row["checked"]) for row in Store.open(tmp_path / "s.csv").rows]
    assert found == [("real", ""), ("8,4", "equal"), ("9,4", "")]


# -- what rows say


def row(name: str, memory: int, accuracy: float, bits: str = "", **more: Any) -> dict[str, Any]:
    return {
        "format": name,
        "memory": memory,
        "accuracy": accuracy,
        "bits": bits,
        "round": "rnd",
        "assigned": [],
        **more,
    }


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), max_size=30))
def test_the_front_is_what_nothing_beats(pairs: list[tuple[int, int]]) -> None:
    rows = [row("8,auto", m, float(a)) for m, a in pairs]
    front = [(r["memory"], r["accuracy"]) for r in pareto(rows)]
    wanted = {(m, a) for m, a in pairs if not any(x <= m and y >= a and (x, y) != (m, a) for x, y in pairs)}
    assert front == sorted(wanted)


def test_the_front_leaves_real_constants_out_and_keeps_networks_apart() -> None:
    rows = [row("real", 1, 99.0), row("8,auto", 5, 80.0), row("6,auto", 5, 70.0, "4/4")]
    assert pareto(rows) == rows[1:]


def test_smallest_within() -> None:
    rows = [
        row("real", 999, 90.0),
        row("16,auto", 16, 90.0),
        row("12,auto", 12, 89.9),  # exactly 0.1 below: 90.0 - 89.9 is 0.0999... or 0.1000...1
        row("8,auto", 8, 89.8),
        row("12,channel", 15, 91.0),
        row("shift", 11, 90.0),
        row("real", 999, 80.0, "4/4"),
        row("8,auto", 8, 79.95, "4/4"),
        row("8,6", 8, 95.0, assigned=["r1=4,auto"]),
    ]
    good = within(rows, 0.1)
    assert [r["format"] for r in good] == ["16,auto", "12,auto", "12,channel", "shift", "8,auto", "8,6"]
    best, least = smallest(good)
    assert {rule: r["format"] for rule, r in best.items()} == {
        "auto w4a4": "8,auto",
        "auto": "12,auto",
        "channel": "12,channel",
    }
    assert least is rows[8]
    assert smallest([]) == ({}, None)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("16,auto", (16, "auto")),
        ("12,channel", (12, "channel")),
        ("16,8", (16, "I = 8")),
        ("16,8,TRN,WRAP", (16, "I = 8,TRN,WRAP")),
        ("shift", None),
        ("real", None),
    ],
)
def test_width_and_rule(name: str, found: tuple[int, str] | None) -> None:
    assert width_and_rule(row(name, 1, 1.0)) == found
    assert width_and_rule(row(name, 1, 1.0, assigned=["r1=4,2"])) is None


def test_points_come_back_from_rows(tmp_path: Path) -> None:
    point = Point(name="8,4", rounding="trn", bits="6/4", layers=(("a=b", "4,auto"), ("c", "shift")))
    assert point_of({**network().key(point)}) == point


def _edited(value: Any) -> Any:
    """Another value that the same field could hold."""
    match value:
        case None:
            return 1
        case str():
            known = {"rnd": "trn", "real": "9,4", "": "8/4"}
            return known.get(value) or value[:-1] + ("0" if value[-1] != "0" else "1")
        case int() | float():
            return value + 1
        case dict():
            return {**value, next(iter(value), "x"): 0}
        case _:
            return [*value, "r1=9,4"]


def test_every_edited_figure_of_a_row_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    rows = swept(tmp_path / "s.csv")
    text = path.read_text()
    for name in rows[1]:
        for change in ("edit", "delete"):
            document = json.loads(text)
            row = document["rows"][1]
            if change == "edit":
                row[name] = _edited(row[name])
            else:
                del row[name]
            path.write_text(json.dumps(document))
            with pytest.raises(InputError, match=r"s\.json: "):
                Store.open(tmp_path / "s.csv")
    document = json.loads(text)
    document["rows"][1]["accuracy"] += 1
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="the row of 8,4 is not as it was measured; it is no result"):
        Store.open(tmp_path / "s.csv")
    path.write_text(json.dumps(json.loads(text), indent=3))  # laid out anew: the same rows
    assert len(Store.open(tmp_path / "s.csv").rows) == 2


@pytest.mark.parametrize("field", ["checkpoint", "data", "pixels", "hwq"])
def test_rows_of_another_maker_are_kept_and_counted_not_used(
    tmp_path: Path, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, point = tmp_path / "s.csv", Point.parse("8,4")
    swept(path)
    one = network()
    match field:
        case "pixels":
            pixels = one.pixels.copy()
            pixels[-1, 0, 0, 0] ^= 1
            one = replace(one, pixels=pixels).first(len(pixels))
        case "hwq":
            monkeypatch.setattr("hwq.sweep.run.__version__", "0.0.9")
        case _:
            one = replace(one, **{field: "0" * 64})  # type: ignore[arg-type]
    store = Store.open(path)
    assert store.find(one.key(point)) is None
    assert store.others(one.key(point)) == 2
    Sweep(one, store).rows([point])
    assert [row["format"] for row in store.rows] == ["real", "8,4", "real", "8,4"]
    assert store.others(one.key(point)) == 2
    assert store.find(one.key(point)) is store.rows[3]


def test_labels_are_part_of_the_images() -> None:
    one = network()
    assert replace(one, labels=one.labels + 1).first(len(one.labels)).content != one.content
    assert one.first(len(one.labels)).content == one.content != one.first(len(one.labels) - 1).content
