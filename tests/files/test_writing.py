"""One writer: whole or not at all, through links and devices, and nothing that is no file is replaced."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwq.files import check_file, replacing, write_atomically
from hwq.files.leftovers import is_temporary, temporary_name


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_a_new_file_is_as_the_umask_has_it(tmp_path: Path, umask: None) -> None:
    write_atomically(tmp_path / "x", "a\u00e9")
    assert (tmp_path / "x").read_bytes() == b"a\xc3\xa9"
    assert mode(tmp_path / "x") == 0o600
    os.umask(0o022)
    write_atomically(tmp_path / "y", b"")
    assert mode(tmp_path / "y") == 0o644


@pytest.mark.parametrize("bits", [0o600, 0o640, 0o755])
def test_an_existing_file_keeps_its_mode(bits: int, tmp_path: Path, umask: None) -> None:
    path = tmp_path / "x"
    path.touch()
    path.chmod(bits)
    write_atomically(path, "new")
    assert (path.read_text(), mode(path)) == ("new", bits)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_an_existing_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.touch()
    os.chown(path, 12345, 23456)
    write_atomically(path, "new")
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456)


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    for name in ("there", "new"):
        folder = tmp_path / name
        folder.mkdir()
        (tmp_path / f"to-{name}").symlink_to(f"{name}/file")
        (tmp_path / f"to-to-{name}").symlink_to(f"to-{name}")
    (tmp_path / "there" / "file").write_text("old")
    for name in ("there", "new"):
        write_atomically(tmp_path / f"to-to-{name}", "content")
        assert (tmp_path / f"to-to-{name}").is_symlink()
        assert (tmp_path / f"to-{name}").is_symlink()
        assert (tmp_path / name / "file").read_text() == "content"
        assert [p.name for p in (tmp_path / name).iterdir()] == ["file"]


def test_a_fifo_gets_the_content_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "x"
    os.mkfifo(path)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()), daemon=True)
    reader.start()
    content = bytes(range(256)) * 4096  # more than a pipe holds
    write_atomically(path, content)
    reader.join(10)
    assert got == [content]
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert list(tmp_path.iterdir()) == [path]


def test_a_device_stays_a_device(tmp_path: Path) -> None:
    path = tmp_path / "null"
    path.symlink_to("/dev/null")
    write_atomically(path, "gone")
    assert path.is_symlink()
    if os.geteuid() == 0:  # a node of our own: had it been replaced, the system's would still be there
        made = tmp_path / "made"
        try:
            os.mknod(made, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
            write_atomically(made, "gone")
        except PermissionError:
            return
        assert stat.S_ISCHR(made.stat().st_mode)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_atomically(Path("/dev/full"), "x")
    assert caught.value.filename == "/dev/full"


_INTO_STDOUT = """
import sys
from pathlib import Path
from hwq.files import check_file, write_atomically
print("before", flush=True)
for name in sys.argv[1:]:
    check_file(Path(name))
    write_atomically(Path(name), name + "\\n")
print("after")
"""


def test_the_shells_redirection_is_written_through(tmp_path: Path) -> None:
    """A regular file by stat: replaced, what is printed after would be lost."""
    names = ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", str(tmp_path / "link")]
    (tmp_path / "link").symlink_to("/dev/stdout")
    with (tmp_path / "out").open("wb") as out:
        subprocess.run([sys.executable, "-c", _INTO_STDOUT, *names], stdout=out, check=True)
    assert (tmp_path / "out").read_text().splitlines() == ["before", *names, "after"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_failure_leaves_what_was_there(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    os.mkfifo(tmp_path / "fifo")  # would wait for a reader, were it opened
    for target in (path, tmp_path / "new", tmp_path / "fifo"):
        with pytest.raises(error), replacing(target) as temporary:  # noqa: PT012
            temporary.write_text("half")
            raise error
    assert path.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fifo", "x"]


def test_errors_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "lost").symlink_to("nowhere/file")
    (tmp_path / "file").touch()
    for path, wrong in (
        (tmp_path / "nodir" / "x", FileNotFoundError),
        (tmp_path, IsADirectoryError),
        (tmp_path / "loop", OSError),
        (tmp_path / "lost", FileNotFoundError),
        (tmp_path / "file" / "x", NotADirectoryError),
    ):
        with pytest.raises(wrong) as caught:
            write_atomically(path, "x")
        assert caught.value.filename == str(path)
        with pytest.raises(OSError):  # noqa: PT011 -- said before any work, too
            check_file(path)
    assert not (tmp_path / "nodir").exists()
    for path in (tmp_path / "new", tmp_path / "file", Path("/dev/null")):
        check_file(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anything")
def test_a_protected_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("mine")
    path.chmod(0o400)
    for write in (check_file, lambda p: write_atomically(p, "new")):
        with pytest.raises(PermissionError):
            write(path)
    assert path.read_text() == "mine"


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    names = temporary_name("x"), temporary_name("y"), ".x.hwq-mine", "x.hwq-01234567"
    dead, other, *mine = (tmp_path / name for name in names)
    for path in (dead, other, *mine):
        path.write_text("half")
    folder = tmp_path / temporary_name("x")  # those are their makers' to remove, by name
    folder.mkdir()
    write_atomically(tmp_path / "x", "whole")
    assert sorted(tmp_path.iterdir()) == sorted([*mine, folder, tmp_path / "x"])


def test_what_a_living_process_writes_is_not_removed(tmp_path: Path) -> None:
    from hwq.files.leftovers import remove_dead

    with replacing(tmp_path / "x") as temporary:
        assert is_temporary(temporary.name)
        remove_dead(tmp_path, "x", again=True)
        temporary.write_text("whole")
    assert (tmp_path / "x").read_text() == "whole"


@pytest.mark.parametrize(
    "name", ["-", "-dash", "a b\n\x1b[31m", "[x]*?", "n" * 250, "\u00e9" * 120, "\udcff"]
)
def test_any_name(name: str, tmp_path: Path) -> None:
    for content in ("first", "second"):
        write_atomically(tmp_path / name, content)
    assert (tmp_path / name).read_text() == "second"
    assert [p.name for p in tmp_path.iterdir()] == [name]
