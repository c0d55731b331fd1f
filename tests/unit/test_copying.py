"""Copying out to the host: everything inside the target, nothing of the guest's followed or made special."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from memoryfs import Directory, File, MemoryFS, Symlink

import guestkit.copying as copying
from guestkit.copying import CopyReport, copy_out, open_directory
from guestkit.errors import Corrupt, InvalidArgument, SourceError
from guestkit.namespace import MountTable
from guestkit.source import BytesSource, Concat, FileSource, Leaf, Source, ZeroSource


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A target directory beside a canary tree that must never change."""
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "file").write_text("untouched")
    before = [(path, path.lstat().st_mtime_ns, path.lstat().st_mode) for path in (canary, canary / "file")]
    (tmp_path / "target").mkdir()
    yield tmp_path / "target"
    assert [(path, path.lstat().st_mtime_ns, path.lstat().st_mode) for path in (canary, canary / "file")] == before
    assert (canary / "file").read_text() == "untouched"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["canary", "target"]


def copy(tree: Any, place: Path, name: bytes = b"", **options: Any) -> CopyReport:
    table = MountTable()
    table.mount(MemoryFS(tree))
    fd = open_directory(os.fspath(place))
    descriptors = len(os.listdir("/proc/self/fd"))
    try:
        return copy_out(table, table.root, name, fd, **options)
    finally:
        assert len(os.listdir("/proc/self/fd")) == descriptors
        os.close(fd)


def reasons(report: CopyReport) -> dict[bytes, str]:
    return dict(report.reasons)


def test_tree_of_files_directories_and_links(place: Path) -> None:
    report = copy({"a": b"one", "d": {"b": b"", "l": Symlink("../a"), "e": {}}}, place, b"copy")
    assert (place / "copy/a").read_bytes() == b"one"
    assert (place / "copy/d/b").read_bytes() == b""
    assert os.readlink(place / "copy/d/l") == "../a"
    assert list((place / "copy/d/e").iterdir()) == []
    assert (report.files, report.directories, report.links, report.size, report.failed) == (2, 3, 1, 3, 0)


def test_empty_name_puts_the_content_right_into_the_target(place: Path) -> None:
    copy({"a": b"1"}, place)
    assert (place / "a").read_bytes() == b"1"


@pytest.mark.parametrize("name", [b".", b"..", b"a/b", b"/", b"a\0"])
def test_name_that_would_lead_elsewhere_is_refused(place: Path, name: bytes) -> None:
    with pytest.raises(InvalidArgument):
        copy({}, place, name)


def test_names_that_no_directory_can_hold_are_left_out(place: Path) -> None:
    bad = [b"../canary/x", b"/etc/x", b".", b"..", b"", b"a/b", b"n\0l"]
    report = copy([(name, b"bad") for name in bad] + [(b"good", b"good")], place)
    assert sorted(os.listdir(place)) == ["good"]
    assert report.failed == len(bad)


def test_entry_behind_a_link_of_the_same_name_is_not_written_through_it(place: Path) -> None:
    canary = os.fspath(place.parent / "canary")
    tree = [
        ("x", Symlink(canary + "/file")),
        ("x", b"evil"),
        ("d", Symlink(canary)),
        ("d", {"file": b"evil", "new": b"evil"}),
        ("sub", [("y", Symlink(canary)), ("y", {"new": b"evil"})]),
    ]
    for options in ({}, {"replace": True}):
        report = copy(tree, place, b"copy" + str(len(options)).encode(), **options)
        assert report.failed == 3


def test_file_in_the_way_is_reported_and_kept(place: Path) -> None:
    (place / "a").write_text("mine")
    report = copy({"a": b"theirs", "b": b"2"}, place)
    assert (place / "a").read_text() == "mine"
    assert (place / "b").read_text() == "2"
    assert reasons(report) == {b"a": "exists already"}


def test_link_in_the_way_is_replaced_not_followed(place: Path) -> None:
    canary = place.parent / "canary"
    (place / "a").symlink_to(canary / "file")
    (place / "d").symlink_to(canary)
    report = copy({"a": b"theirs", "d": {"new": b"evil"}}, place, replace=True)
    assert (place / "a").read_text() == "theirs" and not (place / "a").is_symlink()
    assert report.failed == 1 and b"d" in reasons(report)


def test_replace_fills_directories_and_replaces_files(place: Path) -> None:
    (place / "d").mkdir()
    (place / "d/old").write_text("old")
    (place / "d/same").write_text("old")
    assert copy({"d": {"same": b"new", "other": b"new"}}, place, replace=True).failed == 0
    assert {path.name: path.read_text() for path in (place / "d").iterdir()} == {
        "old": "old",
        "same": "new",
        "other": "new",
    }


def test_special_files_are_left_out_and_set_id_bits_never_kept(place: Path) -> None:
    tree = {
        "null": File(b"", stat.S_IFCHR | 0o666, rdev=os.makedev(1, 3)),
        "disk": File(b"", stat.S_IFBLK | 0o660, rdev=os.makedev(8, 0)),
        "pipe": File(b"", stat.S_IFIFO | 0o644),
        "sock": File(b"", stat.S_IFSOCK | 0o755),
        "su": File(b"x", stat.S_IFREG | 0o6755),
        "dir": Directory({"in": b""}, 0o7777),
    }
    for name, preserve in ((b"plain", False), (b"kept", True)):
        report = copy(tree, place, name, preserve=preserve)
        top = place / name.decode()
        assert sorted(os.listdir(top)) == ["dir", "su"]
        assert report.special == 4 and report.failed == 0
        assert not (top / "su").stat().st_mode & 0o7000
        assert not (top / "dir").stat().st_mode & 0o7000


def test_permissions_follow_the_umask_unless_preserved(place: Path) -> None:
    tree = {
        "f": File(b"x", stat.S_IFREG | 0o666),
        "d": Directory({"f": b""}, 0o577),
        "locked": Directory({"f": b"y"}, 0o000),
    }
    old = os.umask(0o027)
    try:
        copy(tree, place, b"plain")
        copy(tree, place, b"kept", preserve=True)
    finally:
        os.umask(old)
    modes = {name: (place / name).stat().st_mode & 0o7777 for name in ("plain/f", "plain/d", "plain/locked")}
    assert modes == {"plain/f": 0o640, "plain/d": 0o550, "plain/locked": 0}
    modes = {name: (place / name).stat().st_mode & 0o7777 for name in ("kept/f", "kept/d", "kept/locked")}
    assert modes == {"kept/f": 0o666, "kept/d": 0o577, "kept/locked": 0}


def test_times_are_kept_on_request_of_directories_and_links_too(place: Path) -> None:
    when = -(10**9) * 86400 + 123_456_789
    link = Symlink("f")
    link.mtime_ns = when
    directory = Directory({"f": File(b"x", mtime_ns=when), "l": link})
    directory.mtime_ns = when
    copy({"d": directory}, place, preserve=True)
    for name in ("d", "d/f", "d/l"):
        assert (place / name).lstat().st_mtime_ns == when
    copy({"d": directory}, place, b"now")
    assert (place / "now/d/f").stat().st_mtime > time.time() - 60


def test_time_that_the_host_cannot_store_costs_that_file_only(place: Path) -> None:
    report = copy({"a": File(b"x", mtime_ns=1 << 100), "b": b"2"}, place, preserve=True)
    assert report.failed == 1
    assert os.listdir(place) == ["b"]


@pytest.mark.root
def test_owner_is_the_caller_unless_asked(place: Path) -> None:
    tree = {"f": File(b"x", uid=1234, gid=5678), "s": File(b"y", stat.S_IFREG | 0o6755, uid=1234)}
    copy(tree, place, b"plain")
    assert (place / "plain/f").stat().st_uid == os.geteuid()
    copy(tree, place, b"kept", ownership=True, preserve=True)
    assert ((place / "kept/f").stat().st_uid, (place / "kept/f").stat().st_gid) == (1234, 5678)
    assert not (place / "kept/s").stat().st_mode & 0o7000


def test_hard_links_stay_links_inside_the_copy(place: Path) -> None:
    shared = File(b"shared")
    report = copy({"a": shared, "d": {"b": shared, "e": {"c": shared}}, "other": b"x"}, place)
    numbers = {(place / name).stat().st_ino for name in ("a", "d/b", "d/e/c")}
    assert len(numbers) == 1
    assert report.size == len(b"shared") + 1


def test_hard_link_is_not_made_to_what_replaced_the_first_copy(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = File(b"shared")
    canary = place.parent / "canary" / "file"

    def swap(count: int, path: bytes) -> None:
        if path == b"between" and (place / "a").exists() and not (place / "a").is_symlink():
            (place / "a").unlink()
            (place / "a").symlink_to(canary)

    copy([("a", shared), ("between", b"1"), ("z", shared)], place, progress=swap)
    assert (place / "z").read_bytes() == b"shared" and not (place / "z").is_symlink()


def test_directory_with_two_names_is_copied_once(place: Path) -> None:
    twice = Directory({"f": b"1"})
    report = copy({"a": twice, "b": twice}, place)
    assert report.failed == 1
    assert sum((place / name).exists() for name in "ab") == 1


def test_directory_inside_itself_ends(place: Path) -> None:
    loop = Directory({})
    loop.names = {"again": loop, "f": b"1"}
    report = copy({"loop": loop}, place)
    assert report.failed == 1
    assert (place / "loop/f").read_bytes() == b"1"


def test_depth_is_bounded_and_told(place: Path) -> None:
    tree: Any = {"bottom": b""}
    for _ in range(600):
        tree = {"d": tree}
    report = copy(tree, place)
    assert report.failed == 1
    assert "deeper" in next(iter(reasons(report).values()))


def test_damaged_file_leaves_nothing_and_the_rest_is_copied(place: Path) -> None:
    class Damaged(Leaf):
        def __init__(self, size: int) -> None:
            self.size = size

        def read_into(self, offset: int, buf: memoryview) -> None:
            if offset + len(buf) > 4096:
                raise Corrupt("block", "checksum")
            buf[:] = b"x" * len(buf)

    tree = {
        "small": Damaged(8192),
        "large": Damaged(4 << 20),
        "stat": File(b"", error=Corrupt("inode", "i_mode")),
        "good": b"1",
    }
    report = copy(tree, place)
    assert os.listdir(place) == ["good"]
    assert report.failed == 3
    assert set(reasons(report)) == {b"small", b"large", b"stat"}


def test_holes_stay_holes(place: Path) -> None:
    size = (64 << 20) + 8192
    sparse = Concat([BytesSource(b"a" * 4096), ZeroSource(64 << 20), BytesSource(b"z" * 4096)])
    copy({"sparse": File(sparse, blocks=16)}, place)
    status = (place / "sparse").stat()
    assert status.st_size == size and status.st_blocks * 512 < 1 << 20
    with open(place / "sparse", "rb") as file:
        assert file.read(4097) == b"a" * 4096 + b"\0"
        file.seek(-4097, os.SEEK_END)
        assert file.read() == b"\0" + b"z" * 4096


def test_huge_hole_costs_one_step_and_too_large_a_file_is_told(place: Path) -> None:
    start = time.process_time()
    report = copy(
        {"big": File(ZeroSource(1 << 42), blocks=0), "absurd": File(ZeroSource((1 << 63) - 1), blocks=0)}, place
    )
    assert time.process_time() - start < 2
    if (place / "big").exists():  # ext4 of the host ends at 16 TiB, others further up
        assert (place / "big").stat().st_size == 1 << 42
    assert report.failed + report.files == 2


def _host_file(tmp_path: Path, data: bytes) -> FileSource:
    path = tmp_path / "canary" / "source"
    path.write_bytes(data)
    source = FileSource.open(path)
    path.unlink()
    return source


@pytest.mark.parametrize("failure", [None, errno.EXDEV, errno.EINVAL, 0])
def test_plain_host_ranges_are_copied_by_the_kernel_or_by_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: int | None
) -> None:
    (tmp_path / "canary").mkdir()
    data = os.urandom((3 << 20) + 17)
    source = _host_file(tmp_path, data)
    calls = []
    real = os.copy_file_range

    def fake(*arguments: Any) -> int:
        calls.append(arguments)
        if failure is None:
            return real(*arguments)
        if failure:
            raise OSError(failure, "no")
        return 0

    monkeypatch.setattr(copying.os, "copy_file_range", fake)
    parts: list[Source] = [BytesSource(b"head"), source, ZeroSource(5), BytesSource(b"tail")]
    try:
        told: list[int] = []
        report = copy({"f": Concat(parts)}, tmp_path, progress=lambda count, path: told.append(count))
    finally:
        source.close()
    assert calls
    assert (tmp_path / "f").read_bytes() == b"head" + data + bytes(5) + b"tail"
    assert report.size == sum(told) == len(data) + 13


def test_image_that_was_cut_short_is_an_error_of_that_file(place: Path, tmp_path: Path) -> None:
    path = place / "image"
    path.write_bytes(b"x" * (1 << 20))
    source = FileSource.open(path)
    os.truncate(path, 4096)
    path.unlink()
    try:
        report = copy({"f": source, "g": b"1"}, place)
    finally:
        source.close()
    assert report.failed == 1 and os.listdir(place) == ["g"]


def test_full_disk_ends_the_copy_and_leaves_no_half_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(copying.os, "pwrite", full)
    with pytest.raises(SourceError) as caught:
        copy({"a": b"1", "b": b"2"}, place)
    assert "No space" in str(caught.value)
    assert os.listdir(place) == []


def test_interrupt_leaves_no_half_file(place: Path) -> None:
    def interrupt(count: int, path: bytes) -> None:
        if count:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy({"a": b"1" * 100}, place, progress=interrupt)
    assert os.listdir(place) == []


def test_name_too_long_for_the_host_is_told(place: Path) -> None:
    report = copy({"n" * 256: b"1", "ok": b"2"}, place)
    assert report.failed == 1 and os.listdir(place) == ["ok"]


def test_names_are_bytes(place: Path) -> None:
    copy({b"\xff\xfe\n\x1b[31m": b"1"}, place)
    assert os.listdir(os.fsencode(place)) == [b"\xff\xfe\n\x1b[31m"]


def test_reported_names_are_bounded_and_all_counted(place: Path) -> None:
    report = copy({f"p{number}": File(b"", stat.S_IFIFO | 0o644) for number in range(500)}, place)
    assert report.special == 500 and len(report.reasons) == 100
