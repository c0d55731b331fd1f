"""The policy of HostFiles and GuestFiles: what an image may name, and that nothing else is opened."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, NamedTuple

import pytest
from imagefiles import opened

from guestkit.errors import (
    AccessRefused,
    Corrupt,
    GuestkitError,
    InvalidArgument,
    LinkLoop,
    NotFound,
    SourceError,
    Unsupported,
)
from guestkit.files import GuestFiles, HostFiles, plain_name
from guestkit.source import BytesSource, Files, FileSource, NoFiles, Source

_seen: list[tuple[str, object]] | None = None


def _record(event: str, arguments: tuple[object, ...]) -> None:
    if _seen is not None and (event == "open" or event.startswith(("socket.", "subprocess.", "os.exec", "os.posix"))):
        _seen.append((event, arguments[0]))


sys.addaudithook(_record)


@contextmanager
def audited() -> Iterator[list[tuple[str, object]]]:
    """What is opened, connected or started meanwhile."""
    global _seen
    _seen = events = []
    try:
        yield events
    finally:
        _seen = None


class Room(NamedTuple):
    place: Path
    leaves: list[FileSource]
    asked: list[tuple[Source, Files, str | None]]

    def files(self, *allowed: Path, directory: Path | None = None, depth: int = 0) -> HostFiles:
        def open_image(source: Source, files: Files, format: str | None) -> Source:
            self.asked.append((source, files, format))
            return source

        directory = directory or self.place / "images"
        return HostFiles(str(directory), [str(path) for path in allowed], open_image, self.leaves.append, depth)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    """images/ with files, a directory and traps; outside/ beside it."""
    images, outside = tmp_path / "images", tmp_path / "outside"
    (images / "sub" / "deep").mkdir(parents=True)
    outside.mkdir()
    for path in (images / "a.raw", images / "sub" / "b.raw", images / "sub" / "deep" / "c.raw", outside / "secret"):
        path.write_bytes(path.name.encode() * 1000)
    (images / "inner").symlink_to("sub/b.raw")
    (images / "absolute-inner").symlink_to(images / "sub" / "deep")
    (images / "escape").symlink_to(outside / "secret")
    (images / "relative-escape").symlink_to("../outside/secret")
    (images / "directory-escape").symlink_to(outside)
    (images / "loop").symlink_to("loop")
    (images / "round").symlink_to("sub/../round")
    os.mkfifo(images / "fifo")
    if os.geteuid() == 0:
        os.mknod(images / "zero", 0o600 | 0o020000, os.makedev(1, 5))
    leaves: list[FileSource] = []
    yield Room(tmp_path, leaves, [])
    for leaf in leaves:
        leaf.close()


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("a.raw", b"a.raw"),
        ("sub/b.raw", b"b.raw"),
        ("./sub//deep/../b.raw", b"b.raw"),
        ("inner", b"b.raw"),
        ("absolute-inner/c.raw", b"c.raw"),
        ("../images/a.raw", b"a.raw"),
        ("file:a.raw", b"a.raw"),
        ('json:{"driver":"raw","file":{"driver":"file","filename":"a.raw"}}', b"a.raw"),
        ('json:{"driver":"raw","file.filename":"sub/b.raw"}', b"b.raw"),
    ],
)
def test_regular_file_below_the_directory_opens(room: Room, name: str, want: bytes) -> None:
    source = room.files().open(name, "raw")
    assert source.read(0, len(want)) == want
    assert room.leaves == [source]


def test_absolute_name_below_the_directory_opens(room: Room) -> None:
    path = room.place / "images" / "sub" / "b.raw"
    for name in (str(path), f"file:{path}", f"file://{path}"):
        assert room.files().open(name, "raw").read(0, 5) == b"b.raw"


HOSTILE = [
    ("escape", AccessRefused),
    ("relative-escape", AccessRefused),
    ("directory-escape/secret", AccessRefused),
    ("../outside/secret", AccessRefused),
    ("sub/../../outside/secret", AccessRefused),
    ("/etc/passwd", AccessRefused),
    ("../../../../../../../../etc/passwd", AccessRefused),
    ("/proc/self/mem", AccessRefused),
    ("/dev/zero", AccessRefused),
    ("fifo", AccessRefused),
    ("sub", AccessRefused),
    (".", AccessRefused),
    ("sub/", AccessRefused),
    ("..", AccessRefused),
    ("/", AccessRefused),
    ("loop", LinkLoop),
    ("round", LinkLoop),
    ("nothing", NotFound),
    ("a.raw/x", NotFound),
    ("", NotFound),
    ("nbd:127.0.0.1:10809", Unsupported),
    ("nbd://127.0.0.1/x", Unsupported),
    ("https://127.0.0.1/x", Unsupported),
    ("ssh://127.0.0.1/x", Unsupported),
    ("fat:rw:/etc", Unsupported),
    ("blkdebug::a.raw", Unsupported),
    ("json:", Unsupported),
    ("json:[]", Unsupported),
    ("json:" + "[" * 1000, Unsupported),
    ('json:{"driver":"nbd","host":"127.0.0.1"}', Unsupported),
    ('json:{"driver":"raw","file":{"driver":"host_device","filename":"/dev/zero"}}', Unsupported),
    ('json:{"driver":"raw","file":{"driver":"file","filename":"a.raw"},"offset":512}', Unsupported),
    ('json:{"driver":"raw","file":{"driver":"file","filename":7}}', Unsupported),
    ('json:{"driver":"raw","file":{"driver":"file","filename":"/etc/passwd"}}', AccessRefused),
    ("file:/etc/passwd", AccessRefused),
    ("file:///etc/passwd", AccessRefused),
    ("a\0b", InvalidArgument),
    ("\ud800", InvalidArgument),
    ("x" * 5000, InvalidArgument),
    ("y" * 300, GuestkitError),
]


@pytest.mark.parametrize(("name", "error"), HOSTILE)
def test_hostile_name_is_refused_and_opens_nothing(room: Room, name: str, error: type[GuestkitError]) -> None:
    with audited() as events, pytest.raises(error) as caught:
        room.files().open(name, "raw")
    assert caught.value.errno
    inside = (str(room.place / "images"), "images", "sub", "deep")
    assert [event for event in events if event[0] != "open" or event[1] not in inside] == []
    assert not room.leaves


@pytest.mark.root
def test_device_is_refused_and_not_opened(room: Room) -> None:
    with audited() as events, pytest.raises(AccessRefused, match="regular"):
        room.files().open("zero", "raw")
    assert "zero" not in [event[1] for event in events]


# what a header can hold, which ends a name at its NUL
@pytest.mark.parametrize("name", [name for name, _ in HOSTILE if 0 < len(name) < 1000 and "\0" not in name])
def test_image_with_a_hostile_backing_name_opens_itself_only(room: Room, name: str) -> None:
    path = room.place / "images" / "hostile.qcow2"
    path.write_bytes(image(name.encode("utf-8", "surrogatepass"), b"raw"))
    with audited() as events, pytest.raises(GuestkitError, match="backing file"), opened(path):
        pass
    inside = (str(room.place / "images"), "sub", "deep", path, str(path))
    # modules are imported meanwhile
    assert [event for event in events if event[1] not in inside and not str(event[1]).endswith((".py", ".pyc"))] == []


def image(backing: bytes, format: bytes = b"") -> bytes:
    """A qcow2 of 1 MiB, empty, upon `backing`."""
    extension = struct.pack(">II", 0xE2792ACA, len(format)) + format.ljust(-(-len(format) // 8) * 8, b"\0")
    at = 104 + (len(extension) if format else 0) + 8
    head = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        *(b"QFI\xfb", 3, at, len(backing), 16, 1 << 20, 0, 1, 65536, 0, 0, 0, 0, 0, 0, 0, 4, 104),
    )
    return ((head + (extension if format else b"") + bytes(8) + backing).ljust(65536, b"\0")) + bytes(8)


def test_allowed_directory_opens_too(room: Room) -> None:
    files = room.files(room.place / "outside")
    for name in ("../outside/secret", "escape", "relative-escape", "directory-escape/secret"):
        assert files.open(name, "raw").read(0, 6) == b"secret"


def test_names_count_from_the_directory_of_the_naming_file(room: Room) -> None:
    room.files().open("sub/b.raw", "qcow2")
    _, inner, format = room.asked[0]
    assert format == "qcow2"
    assert inner.open("deep/c.raw", "raw").read(0, 5) == b"c.raw"
    assert inner.open("../a.raw", "raw").read(0, 5) == b"a.raw"
    with pytest.raises(AccessRefused):
        inner.open("../../outside/secret", "raw")


def test_link_to_an_image_keeps_the_directory_of_its_name(room: Room) -> None:
    room.files().open("inner", "qcow2")
    assert room.asked[0][1].open("a.raw", "raw").read(0, 5) == b"a.raw"


def test_file_whose_format_was_guessed_may_name_no_further_file(room: Room) -> None:
    room.files().open("a.raw")
    _, inner, format = room.asked[0]
    assert format is None and isinstance(inner, NoFiles)
    with pytest.raises(AccessRefused):
        inner.open("sub/b.raw", "raw")


def test_stated_format_beats_that_of_a_json_name() -> None:
    name = 'json:{"driver":"qcow2","file":{"driver":"file","filename":"x"}}'
    assert plain_name(name, None) == ("x", "qcow2")
    assert plain_name(name, "raw") == ("x", "raw")
    assert plain_name("x", "") == ("x", None)


def test_image_that_stands_on_itself_is_refused(room: Room) -> None:
    images = room.place / "images"
    (images / "self.qcow2").write_bytes(image(b"self.qcow2", b"qcow2"))
    (images / "one.qcow2").write_bytes(image(b"two.qcow2", b"qcow2"))
    (images / "two.qcow2").write_bytes(image(b"sub/../one.qcow2", b"qcow2"))
    for name in ("self.qcow2", "one.qcow2"):
        with pytest.raises(Corrupt, match="its own ancestor"), opened(images / name):
            pass


def test_chain_longer_than_64_is_refused(room: Room) -> None:
    assert room.files(depth=62).open("a.raw", "qcow2")
    with pytest.raises(Unsupported, match="64"):
        room.files(depth=63).open("a.raw", "qcow2")


def test_file_replaced_by_a_link_while_it_is_opened_is_refused(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    files = room.files()
    path = room.place / "images" / "a.raw"
    locate = HostFiles._locate

    def swapped(self: HostFiles, name: str) -> tuple[str, str]:
        found = locate(self, name)
        path.unlink()
        path.symlink_to(room.place / "outside" / "secret")
        return found

    monkeypatch.setattr(HostFiles, "_locate", swapped)
    with pytest.raises(AccessRefused):
        files.open("a.raw", "raw")


def test_directory_replaced_by_a_link_while_it_is_opened_is_refused(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = room.files()
    sub = room.place / "images" / "sub"
    (room.place / "outside" / "b.raw").write_bytes(b"secret")
    locate = HostFiles._locate

    def swapped(self: HostFiles, name: str) -> tuple[str, str]:
        found = locate(self, name)
        sub.rename(room.place / "images" / "moved")
        sub.symlink_to(room.place / "outside")
        return found

    monkeypatch.setattr(HostFiles, "_locate", swapped)
    with pytest.raises(AccessRefused):
        files.open("sub/b.raw", "raw")


def test_failed_image_leaves_no_descriptor(room: Room) -> None:
    def fail(source: Source, files: Files, format: str | None) -> Source:
        raise Corrupt("made up")

    leaves: list[FileSource] = []
    files = HostFiles(str(room.place / "images"), (), fail, leaves.append)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Corrupt, match=r"a\.raw: made up"):
        files.open("a.raw", "qcow2")
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(SourceError):
        leaves[0].read(0, 1)


class Names:
    """A guest of two directories: node 1 the root with `top` (2) and d (3); d holds `low` (4)."""

    tree: ClassVar = {(1, b"top"): 2, (1, b"d"): 3, (3, b"low"): 4, (3, b".."): 1}

    def __init__(self) -> None:
        self.opened: list[int] = []

    def resolve(self, path: bytes, *, start: int | None = None) -> int:
        node = 1 if start is None or path.startswith(b"/") else start
        for part in path.split(b"/"):
            if part:
                if (node, part) not in self.tree:
                    raise NotFound(where=path.decode())
                node = self.tree[node, part]
        return node

    class _Status(NamedTuple):
        mode: int

    def stat(self, node: int) -> _Status:
        return self._Status(0o040755 if node in (1, 3) else 0o100644)

    def open(self, node: int) -> Source:
        self.opened.append(node)
        return BytesSource(b"node%d" % node)


def test_image_in_a_guest_reaches_the_guest_only() -> None:
    names = Names()
    asked = []

    def open_image(source: Source, files: Files, format: str | None) -> Source:
        asked.append(files)
        return source

    files = GuestFiles(names, 3, open_image)
    with audited() as events:
        assert files.open("low", "raw").read(0, 5) == b"node4"
        assert files.open("../top", "raw").read(0, 5) == b"node2"
        assert files.open("/d/low", "qcow2").read(0, 5) == b"node4"
        assert asked[0].open("low", "raw").read(0, 5) == b"node4"
        with pytest.raises(Corrupt, match="ancestor"):
            asked[0].open("low", "qcow2")
        for name, error in (("/etc/passwd", NotFound), ("/", AccessRefused), ("nbd:x", Unsupported)):
            with pytest.raises(error):
                files.open(name, "raw")
        files.open("low", None)
        assert isinstance(asked[-1], NoFiles)
    assert events == []
