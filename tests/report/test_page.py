from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hwq.errors import InputError
from hwq.report import Build, ConstantRow, Curve, OpRow, Report, Series, Stage, render, write_report

HOSTILE = 'a"; system("x")<script>alert(1)</script>&'
BUILD = Build(name="ap", note="AMD's types", images=3, values=1234567, mismatches=0, seconds=1.5)
OP = OpRow(name="conv", kind="Conv2d", shape=(8, 8, 4), codes="s12", weights="s4", exact_bits=12, macs=9216)
FULL = Report(
    title="digits",
    subtitle="W4A4",
    builds=(BUILD,),
    stages=(
        Stage(name="float", accuracy=50.0, images=3),
        Stage(name="fake-quant", accuracy=None),
        Stage(name="integer", accuracy=25.0, images=3),
        Stage(name="C++", accuracy=25.0, images=3),
    ),
    ops=(dataclasses.replace(OP, values=1234567),),
    constants=(
        ConstantRow(
            op="q",
            role="B",
            format="32,10",
            count=4,
            integers=(10, 10),
            span=(0.5, 2.0),
            vanished=3,
            harmful=2,
        ),
    ),
    curves=(
        Curve(title="Loss", x_label="epoch", series=(Series(name="loss", points=((0, 2.0), (1, 1.0))),)),
    ),
    commands=("hwq demo",),
    facts=(("g++", "12"),),
)


class _Page(HTMLParser):
    """Collects tags and checks that they nest."""

    VOID = ("meta", "br", "rect", "line", "circle", "path", "polyline")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += " " + data.strip()


def test_a_proven_page_states_what_was_compared() -> None:
    page = _Page(render(FULL))
    assert page.open == []
    text = " ".join(page.text.split())
    assert "PROVEN bit-exact 1,234,567 values compared, 0 mismatches" in text
    assert "MISMATCH" not in text
    assert "50.00 %" in text
    assert "\N{MINUS SIGN}25.00 points" in text  # against float: the stage between was not measured
    assert "no change" in text
    assert "0 saturated, 3 vanished; 2 of them could move an output." in text
    assert "$ hwq demo" in text


def test_a_mismatch_is_the_headline_and_names_the_op() -> None:
    bad = dataclasses.replace(
        FULL,
        builds=(BUILD, dataclasses.replace(BUILD, name="native", mismatches=2, first="conv [1,2]: 3, got 4")),
        ops=(dataclasses.replace(OP, values=10, mismatches=2),),
    )
    text = " ".join(_Page(render(bad)).text.split())
    assert "MISMATCH 2 of 2,469,134 values differ; first in op conv" in text
    assert "PROVEN" not in text
    assert "conv [1,2]: 3, got 4" in text


@pytest.mark.parametrize("builds", [(), (dataclasses.replace(BUILD, values=0),)])
def test_nothing_compared_is_not_proven(builds: tuple[Build, ...]) -> None:
    text = render(dataclasses.replace(FULL, builds=builds))
    assert "NOT YET COMPARED" in text
    assert "PROVEN" not in text


def test_the_smallest_report_renders() -> None:
    assert _Page(render(Report(title="x"))).open == []


def test_every_user_made_string_is_escaped() -> None:
    report = Report(
        title=HOSTILE,
        subtitle=HOSTILE,
        builds=(dataclasses.replace(BUILD, name=HOSTILE, note=HOSTILE, first=HOSTILE, mismatches=1),),
        stages=(Stage(name=HOSTILE, accuracy=50.0, note=HOSTILE),),
        ops=(dataclasses.replace(OP, name=HOSTILE, codes=HOSTILE, weights=HOSTILE, mismatches=1),),
        constants=(dataclasses.replace(FULL.constants[0], op=HOSTILE, role=HOSTILE, format=HOSTILE),),
        curves=(
            Curve(title=HOSTILE, x_label=HOSTILE, series=(Series(name=HOSTILE, points=((0, 1), (1, 1))),)),
        ),
        commands=(HOSTILE,),
        facts=((HOSTILE, HOSTILE),),
    )
    text = render(report)
    page = _Page(text)
    assert page.open == []
    assert "script" not in page.tags
    assert text.count("alert(1)") == text.count("&lt;script&gt;alert(1)&lt;/script&gt;")


def test_nothing_is_fetched_and_no_hole_survives() -> None:
    text = render(FULL)
    assert not re.search(r"(src|href)\s*=|url\(|@import|https?:", text)
    assert "{{" not in text
    assert "{%" not in text
    assert "prefers-color-scheme: dark" in text


def test_written_into_a_folder_or_to_a_file(tmp_path: Path) -> None:
    assert write_report(tmp_path, FULL) == tmp_path / "report.html"
    assert write_report(tmp_path / "own.html", FULL).read_text(encoding="utf-8") == render(FULL)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["own.html", "report.html"]


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        write_report(tmp_path / "missing" / "report.html", FULL)


def test_a_failed_write_keeps_the_earlier_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(tmp_path, FULL)
    before = (tmp_path / "report.html").read_bytes()

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_report(tmp_path, dataclasses.replace(FULL, title="other"))
    assert (tmp_path / "report.html").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
