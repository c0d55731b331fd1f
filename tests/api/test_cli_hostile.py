"""The guestkit command over filesystems that no tool makes: loops, forbidden names, endless depth, several systems."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from memoryfs import Directory, File, MemoryFS, MemoryGuest, Part, Symlink

from guestkit.cli import hints, output, view
from guestkit.cli import main as command
from guestkit.cli.output import CopyProgress, escape, escape_lines, human_size
from guestkit.errors import Corrupt, GuestkitError
from guestkit.guest import Guest


class Result:
    def __init__(self, status: int, out: bytes, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def guestkit(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Any:
    """Run the command in this process on a guest from memory: guestkit(guest, "ls", "x", "/")."""

    def call(guest: Guest, *words: str) -> Result:
        monkeypatch.setattr(view, "open_guest", lambda arguments: guest)
        monkeypatch.setenv("GUESTKIT_DEBUG", "1")
        capfdbinary.readouterr()
        status = command.main(words)
        out, err = capfdbinary.readouterr()
        return Result(status, out, err.decode())

    return call


def looping() -> MemoryGuest:
    top = Directory({})
    inner = Directory({"again": top, "f": b"1"})
    top.names = {"d": inner, "self": top}
    return MemoryGuest(Part(MemoryFS({"top": top})))


def test_directory_inside_itself_ends_every_walk(guestkit: Any, tmp_path: Path) -> None:
    start = time.monotonic()
    for words in (["ls", "-R"], ["tree"], ["find"], ["ls", "-R", "--json"], ["tree", "--json"]):
        found = guestkit(looping(), *words, "-p", "sda", "x", "/")
        assert b"f" in found.out
        assert (found.status in (0, 1) and "ancestor" in found.err) or "inside itself" in found.err
    found = guestkit(looping(), "cp", "-r", "-p", "sda", "x", "/top", str(tmp_path / "out"))
    assert found.status == 1
    assert (tmp_path / "out" / "d" / "f").read_bytes() == b"1"
    assert time.monotonic() - start < 5


def test_great_depth_ends_and_is_told(guestkit: Any) -> None:
    names: Any = {"bottom": b""}
    for _ in range(400):
        names = {"d" * 100: names}
    guest = MemoryGuest(Part(MemoryFS(names)))
    for words in (["ls", "-R"], ["tree"]):
        found = guestkit(guest, *words, "-p", "sda", "x", "/")
        assert found.status == 1 and "too deep" in found.err
    assert len(found.out) < 10 << 20
    assert "bottom" in guestkit(guest, "find", "-p", "sda", "x", "/").out.decode()


def test_unreadable_entries_are_shown_and_do_not_hide_others(guestkit: Any) -> None:
    bad = File(b"", error=Corrupt("inode", "checksum"))
    guest = MemoryGuest(Part(MemoryFS({"a": b"1", "bad": bad, "c": b"2"})))
    found = guestkit(guest, "ls", "-l", "-p", "sda", "x", "/")
    assert [line.split()[-1] for line in found.out.splitlines()] == [b"a", b"bad", b"c"]
    assert found.status == 0 and "warning" in found.err
    listed = json.loads(guestkit(guest, "ls", "--json", "-p", "sda", "x", "/").out)
    assert [entry["type"] for entry in listed] == ["file", "unreadable", "file"]
    assert guestkit(guest, "ls", "--strict", "-p", "sda", "x", "/").status == 1
    assert guestkit(guest, "cat", "-p", "sda", "x", "/bad").status == 1


def test_a_damaged_link_is_told_and_fails(guestkit: Any) -> None:
    class Broken(MemoryFS):
        def readlink(self, ino: int) -> Any:
            raise Corrupt("link target", "length", where=f"inode {ino}")

    guest = MemoryGuest(Part(Broken({"a": b"1", "link": Symlink("a"), "z": b"2"})))
    for words in (["ls", "-l"], ["ls", "--json"], ["find", "--json"], ["tree"], ["tree", "--json"]):
        found = guestkit(guest, *words, "-p", "sda", "x", "/")
        assert found.status == 1, words
        assert found.err.count("link target") == 1 and "/link" in found.err, words
        assert b"link" in found.out and b"z" in found.out
    assert guestkit(guest, "stat", "-p", "sda", "x", "/link").status == 1
    for words in (["ls"], ["find"]):  # which tell no targets
        assert guestkit(guest, *words, "-p", "sda", "x", "/").status == 0


def test_listing_that_breaks_off_shows_what_came_before_and_fails(guestkit: Any) -> None:
    class Broken(MemoryFS):
        def scan(self, directory: int, cookie: int = 0) -> Any:
            yield from super().scan(directory, cookie)
            raise Corrupt("directory block 7", "checksum")

    guest = MemoryGuest(Part(Broken({"a": b"1"})))
    for words in (["ls"], ["tree"], ["ls", "--json"]):
        found = guestkit(guest, *words, "-p", "sda", "x", "/")
        assert found.status == 1 and b"a" in found.out and "directory block 7" in found.err


def test_first_of_several_systems_is_shown_and_the_others_named(guestkit: Any) -> None:
    def system(name: str) -> MemoryFS:
        return MemoryFS({"etc": {"hosts": "", "hostname": name}, "bin": {}})

    guest = MemoryGuest([Part(system("one")), Part(system("two"))])
    found = guestkit(guest, "cat", "x", "/etc/hostname")
    assert found.out == b"one" and "sda1, sda2" in found.err
    assert guestkit(guest, "cat", "-p", "sda2", "x", "/etc/hostname").out == b"two"
    assert guestkit(guest, "cat", "x", "sda2:/etc/hostname").out == b"two"


def test_mount_option_puts_devices_where_it_says(guestkit: Any) -> None:
    guest = MemoryGuest([Part(MemoryFS({"mnt": {}, "f": b"root"})), Part(MemoryFS({"g": b"two"}))])
    words = ["cat", "-m", "sda1", "-m", "/dev/sda2:/mnt", "x", "/f", "/mnt/g"]
    assert guestkit(guest, *words).out == b"roottwo"
    assert guestkit(guest, "ls", "-m", "sda9:/", "x").status == 1


def test_missing_mount_is_told_only_where_it_matters(guestkit: Any) -> None:
    tree = {"etc": {"fstab": "UUID=gone /data ext4\n", "hostname": "h"}, "bin": {}, "data": {}}
    guest = MemoryGuest(Part(MemoryFS(tree)))
    assert guestkit(guest, "cat", "x", "/etc/hostname").err == ""
    assert "UUID=gone" in guestkit(guest, "cat", "x", "/data/file").err
    assert "UUID=gone" in guestkit(guest, "find", "x").err


def test_guest_links_do_not_reach_the_host(guestkit: Any, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("host")
    links = {"abs": Symlink(os.fspath(tmp_path / "secret")), "up": Symlink("../" * 30 + os.fspath(tmp_path / "secret"))}
    guest = MemoryGuest(Part(MemoryFS({"l": links, "loop": Symlink("loop")})))
    for path in ("/l/abs", "/l/up", "/../../../.." + os.fspath(tmp_path / "secret"), "/loop"):
        found = guestkit(guest, "cat", "-p", "sda", "x", path)
        assert found.status == 1 and found.out == b""


def test_find_names_what_it_could_not_look_at_and_fails(guestkit: Any) -> None:
    bad = File(b"", error=Corrupt("inode", "i_checksum"))
    guest = MemoryGuest(Part(MemoryFS({"good": b"", "bad": bad})))
    for words in (["find"], ["find", "--json"]):
        found = guestkit(guest, *words, "-p", "sda", "x", "/")
        assert found.status == 1
        assert b"good" in found.out and b"bad" in found.out
        assert "/bad: inode: i_checksum" in found.err


def test_error_that_nobody_expected_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    class Wrong(MemoryGuest):
        def filesystem(self, *arguments: Any, **more: Any) -> Any:
            raise RecursionError("deep\x1b")

    monkeypatch.setattr(view, "open_guest", lambda arguments: Wrong(Part(None)))
    monkeypatch.delenv("GUESTKIT_DEBUG", raising=False)
    assert command.main(["ls", "-p", "sda", "x"]) == 1
    (line,) = capfdbinary.readouterr().err.splitlines()
    assert line.startswith(b"guestkit: x: internal error") and b"RecursionError: deep\\x1b" in line


def test_damaged_copies_of_the_sample_give_a_result_or_one_line(
    sample_image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setenv("GUESTKIT_DEBUG", "1")  # what is no GuestkitError comes through
    with Guest() as guest:
        source = guest.add(sample_image).open()
        base = source.read(0, source.size)
    used = [at for at in range(0, len(base), 4096) if base[at : at + 4096].count(0) < 4096]
    chance = random.Random(20)
    image = tmp_path / "mutant.img"
    image.write_bytes(base)
    read = 0
    for _ in range(25):
        places = [chance.choice(used) + chance.randrange(4096) for _ in range(chance.choice((1, 5, 50, 300)))]
        with open(image, "r+b") as file:
            for at in places:
                file.seek(at)
                file.write(bytes([chance.randrange(256)]))
        for words in (["ls", "-laR"], ["inspect", "--apps", "--json"], ["info"]):
            status = command.main([*words, str(image)])
            out, err = capfdbinary.readouterr()
            assert status in (0, 1) and (out or err)
            assert all(line.startswith(b"guestkit: ") for line in err.splitlines())
            read += words[0] == "ls" and out.count(b"\n") > 100
        with open(image, "r+b") as file:
            for at in places:
                file.seek(at)
                file.write(base[at : at + 1])
    assert read > 5  # not all of them were refused whole


def test_special_files_are_named_when_copied_over(guestkit: Any, tmp_path: Path) -> None:
    tree = {"p": File(b"", 0o010644), "f": File(b"x", 0o104755)}
    found = guestkit(MemoryGuest(Part(MemoryFS(tree))), "cp", "-r", "-p", "sda", "x", "/", str(tmp_path))
    assert found.status == 0 and "FIFO" in found.err
    assert os.listdir(tmp_path) == ["f"] and not (tmp_path / "f").stat().st_mode & 0o6000


# output


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain \u00e4\u4e2d", "plain \u00e4\u4e2d"),
        ("a\x1b[31m\x00\n\t\x7f\r", "a\\x1b[31m\\x00\\x0a\\x09\\x7f\\x0d"),
        ("\x9b\u00ad", "\\x9b\\xad"),
        ("\u202e\u2066\u200f\u061c\ufeff\u2028", "\\u202e\\u2066\\u200f\\u061c\\ufeff\\u2028"),
        ("\U000e0041", "\\U000e0041"),
        (b"\xff\xc3\xa4", "\\xff\u00e4"),
        ("\ud800", "\\ud800"),
        ("back\\slash", "back\\slash"),
    ],
)
def test_escape_shows_what_could_act(text: str | bytes, shown: str) -> None:
    assert escape(text) == shown


def test_escape_lines_keeps_line_ends_and_tabs() -> None:
    assert escape_lines("a\n\tb\r\x1b") == "a\n\tb\\x0d\\x1b"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0"),
        (1023, "1023"),
        (1024, "1.0K"),
        (10 * 1024, "10K"),
        (1 << 20, "1.0M"),
        ((1 << 20) - 1, "1.0M"),
        (1536 << 30, "1.5T"),
        (1 << 63, "8.0E"),
        (1 << 80, "1048576E"),
        (None, "-"),
    ],
)
def test_sizes_for_people(size: int | None, text: str) -> None:
    assert human_size(size) == text


def test_progress_appears_only_when_a_copy_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []

    def total() -> int:
        counted.append(1)
        return 100

    monkeypatch.setattr(output.sys.stderr, "isatty", lambda: True, raising=False)
    now = [0.0]
    monkeypatch.setattr(output.time, "monotonic", lambda: now[0])
    with CopyProgress(total) as progress:
        progress(10, b"a")
        assert not counted and progress._bar is None
        now[0] = 5.0
        monkeypatch.undo()
        progress(10, b"b")
        assert counted == [1] and progress._bar is not None
        progress(10, b"[red]\x1b[31m")
        assert progress._bar.tasks[0].completed == 30
        assert "\x1b" not in progress._bar.tasks[0].fields["name"]


def test_no_terminal_no_progress() -> None:
    with CopyProgress(lambda: 1 // 0) as progress:
        progress._start -= 100
        progress(1, b"a")


def test_description_of_an_error_names_the_image_once() -> None:
    error = GuestkitError("broken", where=("disk.img", "sda1"))
    assert hints.describe(error, "disk.img").startswith("disk.img > sda1: broken")
    assert hints.describe(GuestkitError("broken", where="sda1"), "disk.img") == "disk.img: sda1: broken"
