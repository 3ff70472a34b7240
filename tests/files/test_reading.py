"""One reader of small files: whatever stands there, one line, at once, within bounded memory."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import socket
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from hwq.errors import InputError
from hwq.files import (
    SMALL,
    Missing,
    digest,
    open_regular,
    parse_json,
    parse_toml,
    read_bytes,
    read_json,
    read_text,
    read_toml,
)
from hwq.files.parsing import DEPTH

Make = Callable[[Path], Path]


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "x")
    return folder / "x"


def listening(folder: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "x"))
    return folder / "x"


def link(target: str) -> Make:
    def make(folder: Path) -> Path:
        (folder / "x").symlink_to(target)
        return folder / "x"

    return make


def sparse(folder: Path) -> Path:
    with (folder / "x").open("wb") as file:
        file.truncate(1 << 40)
    return folder / "x"


def _same(folder: Path) -> Path:
    return folder


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (fifo, "is a FIFO, not a file"),
        (listening, "is a socket, not a file"),
        (lambda _: Path("/dev/zero"), "is a device, not a file"),
        (link("/dev/zero"), "is a device, not a file"),
        (_same, "is a folder, not a file"),
        (sparse, "holds 1,099,511,627,776 bytes or more, at most 1,048,576 are read"),
        (link("x"), "Too many levels of symbolic links"),
        (lambda folder: folder / ("n" * 300), "File name too long"),
        (lambda folder: folder / "a\0b", "null"),
    ],
)
@pytest.mark.parametrize(
    "read", [read_bytes, read_text, read_toml, lambda p: read_json(p, dict, limit=SMALL)]
)
def test_what_is_no_small_file_is_one_line_at_once(
    make: Make, says: str, read: Callable[[Path], object], tmp_path: Path
) -> None:
    path = make(tmp_path)
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        read(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 2  # a FIFO without a writer would wait for ever


def test_a_file_may_be_reached_by_a_link_and_fill_its_limit(tmp_path: Path) -> None:
    (tmp_path / "to").write_bytes(b"12345")
    path = link("to")(tmp_path)
    assert read_bytes(path, limit=5) == b"12345"
    assert digest(path) == hashlib.sha256(b"12345").hexdigest()
    with open_regular(path) as stream:
        assert stream.read() == b"12345"
    with pytest.raises(InputError, match="holds 5 bytes or more, at most 4 are read; do that"):
        read_bytes(path, limit=4, advice="do that")


def test_a_file_that_says_it_is_empty_is_bounded_too() -> None:
    """The kernel's files: 0 bytes by their own account."""
    assert len(read_bytes("/proc/self/status")) > 100
    with pytest.raises(InputError, match="at most 10 are read"):
        read_bytes("/proc/self/status", limit=10)


@pytest.mark.parametrize("read", [read_bytes, read_text, read_toml, digest, open_regular])
def test_missing_is_an_error_of_its_own(read: Callable[[Path], object], tmp_path: Path) -> None:
    for path in (tmp_path / "x", link("nowhere")(tmp_path)):
        with pytest.raises(Missing, match="x: no such file"):
            read(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_file_of_others(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.touch(0o000)
    with pytest.raises(InputError, match="Permission denied"):
        read_bytes(path)


NOT_JSON = [
    (b"{", "not valid JSON"),
    (b"", "not valid JSON"),
    (b'{"a": 1}\xff', "not UTF-8 text (byte 9 is 0xff)"),
    (b"[]", "must hold a table"),
    (b"[" * 5_000, "nested more than 32 levels deep"),
    (b"[" * 1_000_000, "nested more than 32 levels deep"),
    (b'{"a":' * 5_000, "nested more than 32 levels deep"),
    (b'{"a":' * 200 + b"1" + b"}" * 200, "nested more than 32 levels deep"),
    (b'{"a": NaN}', "the number nan, which is not finite"),
    (b'{"a": [1, -Infinity]}', "the number -inf, which is not finite"),
    (b'{"a": 1e999}', "the number inf, which is not finite"),
    (b'{"a": "\\ud800"}', "no Unicode text"),
    (b'{"\\udfff": 1}', "no Unicode text"),
    (b'{"a": 1, "b": {"c": 1, "c": 2}}', "'c' stands twice"),
    (b'{"a": ' + b"9" * 5_000 + b"}", "not valid JSON"),
    (b'{"a\nb": 1}', "not valid JSON"),
]
NOT_TOML = [
    (b"a = 3x", "not valid TOML"),
    (b"a = 1\na = 2", "not valid TOML"),
    (b"a = '\xff'", "not UTF-8 text (byte 6 is 0xff)"),
    (b"a = " + b"[" * 5_000, "nested more than 32 levels deep"),
    (b"a = " + b"{a = " * 5_000, "nested more than 32 levels deep"),
    (b".".join([b"a"] * 100) + b" = 1", "nested more than 32 levels deep"),
    (b"a = nan", "the number nan, which is not finite"),
    (b"a = [inf]", "the number inf, which is not finite"),
    (b"a = 1e999", "the number inf, which is not finite"),
    (b"a = " + b"9" * 5_000, "not valid TOML"),
    (b"a = '" + b"x" * 100_000, "not valid TOML"),
]


def _json(content: bytes) -> object:
    return parse_json(content, dict, where="x.json", advice="write another")


def _toml(content: bytes) -> object:
    return parse_toml(content, where="x.toml", advice="write another")


@pytest.mark.parametrize(
    ("parse", "name", "content", "says"),
    [(_json, "x.json", *case) for case in NOT_JSON] + [(_toml, "x.toml", *case) for case in NOT_TOML],
    ids=lambda value: getattr(value, "__name__", repr(value)[:40]),
)
def test_what_is_no_document_is_one_line(
    parse: Callable[[bytes], object], name: str, content: bytes, says: str
) -> None:
    with pytest.raises(InputError) as caught:
        parse(content)
    line = str(caught.value)
    assert line.startswith(f"{name}: ")
    assert line.endswith("; write another")
    assert says in line
    assert len(line) < 400


def test_documents_come_out_as_they_are() -> None:
    document = {"a": [1, -2.5, True, None, "\u00e9\U0001f600"], "b": {"": {}}, "c": []}
    assert parse_json(json.dumps(document), dict, where="x") == document
    assert parse_json(json.dumps(document, ensure_ascii=False).encode(), dict, where="x") == document
    assert parse_json(b"\xef\xbb\xbf[1]", list, where="x") == [1]  # as some editors save
    text = 'a = [1, -2.5, true]\nb.c = "\u00e9"\n[t]\nd = 2024-01-01\n'
    assert parse_toml(text.encode(), where="x") == tomllib.loads(text)
    assert parse_toml(b"\xef\xbb\xbfa = 1", where="x") == {"a": 1}
    deepest = "[" * DEPTH + "]" * DEPTH
    assert parse_json(deepest, list, where="x") == json.loads(deepest)
    with pytest.raises(InputError, match="deep"):
        parse_json(f"[{deepest}]", list, where="x")


def test_the_largest_files_take_seconds_and_bounded_memory(tmp_path: Path) -> None:
    """Of what the limits let through, the content that grows most when it is parsed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    parse_json(b"[" + b"{}," * (8 << 20 >> 2) + b"{}]", list, where="x")  # a fifth of `DOCUMENT`
    for content in (
        b"a." * 15 + b"a = 1\n" + b"[[b]]\n" * 20_000,
        b"a = [" + b"{}," * 100_000 + b"]",
        b"a" * (SMALL - 8) + b" = 1",
        b"a = '" + b"x" * (SMALL - 8) + b"'",
    ):
        parse_toml(content, where="x")
    assert time.process_time() - began < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 << 10  # KiB
