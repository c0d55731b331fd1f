"""What every FileSystem must do, over every committed fixture of every format that the registry can open."""

from __future__ import annotations

import json
import lzma
import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestkit import registry
from guestkit.errors import (
    Corrupt,
    GuestkitError,
    InvalidArgument,
    IsADirectory,
    NeedKey,
    NoAttribute,
    NotADirectory,
    NotFound,
    Unsupported,
)
from guestkit.fs.base import FileSystem, whole
from guestkit.limits import Limits
from guestkit.resolve import Resolved
from guestkit.source import BytesSource, Slice

DATA = Path(__file__).parent.parent / "data"


def _fixtures() -> list[Path]:
    """The images that have a manifest with a tree."""
    found = []
    for path in sorted(DATA.glob("*/*.img.xz")):
        manifest = path.with_name(path.name.removesuffix(".img.xz") + ".json")
        told = json.loads(manifest.read_text()) if manifest.exists() else {}
        if "tree" in told and told.get("detected", True):  # the others need an option of the user's
            found.append(path)
    return found


FIXTURES = _fixtures()


def _open(path: Path) -> FileSystem:
    source = BytesSource(lzma.decompress(path.read_bytes()))
    return registry.open_filesystem(registry.detect(source).type, [source], Limits(), {})


@pytest.fixture(params=FIXTURES, ids=lambda path: path.name.removesuffix(".img.xz"), scope="module")
def fs(request: pytest.FixtureRequest) -> FileSystem:
    return _open(request.param)


def _directories(fs: FileSystem) -> Iterator[int]:
    yield fs.root
    for _, ino, status in fs.walk():
        if status is not None and stat.S_ISDIR(status.mode):
            yield ino


def test_every_reader_has_fixtures() -> None:
    seen = {registry.detect(BytesSource(lzma.decompress(path.read_bytes()))).type for path in FIXTURES}
    readers: dict[str, set[str]] = {}
    for format in registry.readers("filesystem"):
        readers.setdefault(format.open, set()).add(format.name)
    assert not [reader for reader, types in readers.items() if not types & seen]


def test_the_root_is_a_directory_and_its_own_parent(fs: FileSystem) -> None:
    assert stat.S_ISDIR(fs.stat(fs.root).mode)
    top = next(volume.root for volume in fs.roots() if not volume.path)  # the root may be a subvolume below
    assert fs.parent(top) == top


def test_scan_scan_stat_lookup_and_stat_agree(fs: FileSystem) -> None:
    for directory in _directories(fs):
        entries = list(fs.scan(directory))
        with_stat = list(fs.scan_stat(directory))
        assert [entry for entry, _ in with_stat] == entries
        cookies = [entry.cookie for entry in entries]
        assert len(set(cookies)) == len(cookies)
        assert all(0 < cookie < 2**63 for cookie in cookies)
        for entry, status in with_stat:
            assert entry.name not in (b"", b".", b"..")
            assert b"/" not in entry.name
            assert b"\0" not in entry.name
            assert fs.lookup(directory, entry.name) == entry.ino
            if status is not None:
                assert fs.stat(entry.ino) == status
                assert entry.type in (0, stat.S_IFMT(status.mode) >> 12)
                if stat.S_ISDIR(status.mode):
                    assert fs.parent(entry.ino) == directory


def test_small_directories_that_are_read_together_are_those_that_are_scanned(fs: FileSystem) -> None:
    directories = list(_directories(fs))
    listed, stats = whole(fs.scan_small(directories))
    assert set(listed) <= set(directories)
    for directory, entries in listed.items():
        assert [(entry, stats[entry[1]]) for entry in entries] == [
            (tuple(entry), status) for entry, status in fs.scan_stat(directory)
        ]


def test_scan_goes_on_behind_every_cookie(fs: FileSystem) -> None:
    for directory in _directories(fs):
        entries = list(fs.scan(directory))
        picked = entries if len(entries) <= 40 else random.Random(1).sample(entries, 40)
        for entry in picked:
            behind = list(fs.scan(directory, entry.cookie))
            assert behind == entries[entries.index(entry) + 1 :]


def test_walk_equals_the_recursive_scan(fs: FileSystem) -> None:
    expected = set()
    pending = [(b"", fs.root)]
    while pending:
        prefix, directory = pending.pop()
        for entry, status in fs.scan_stat(directory):
            expected.add((prefix + entry.name, entry.ino, status))
            if status is not None and stat.S_ISDIR(status.mode):
                pending.append((prefix + entry.name + b"/", entry.ino))
    walked = list(fs.walk())
    assert len(walked) == len(set(walked))
    assert set(walked) == expected


def test_reads_at_any_place_equal_slices_of_the_whole(fs: FileSystem) -> None:
    chooser = random.Random(2)
    for _, ino, status in fs.walk():
        if status is None or not stat.S_ISREG(status.mode) or not 0 < status.size <= 1 << 20:
            continue
        try:
            source = fs.open(ino)
            assert source.size == status.size
            whole = source.read(0, source.size)
        except (NeedKey, Corrupt, Unsupported):
            continue
        resolved = Resolved(source)
        for _ in range(6):
            offset = chooser.randrange(source.size)
            length = chooser.randrange(source.size - offset + 1)
            assert source.read(offset, length) == resolved.read(offset, length) == whole[offset : offset + length]
        covered = 0
        for extent in source.extents(0, source.size):
            assert extent.offset == covered
            assert extent.length > 0
            covered += extent.length
        assert covered == source.size


def test_a_filesystem_that_may_not_refuse_files_opens_all(fs: FileSystem) -> None:
    refused = 0
    for _, ino, status in fs.walk():
        if status is not None and stat.S_ISREG(status.mode):
            try:
                fs.open(ino)
            except (NeedKey, Unsupported):
                refused += 1
    assert fs.may_refuse_open() or not refused


def test_xattrs_that_are_listed_can_be_read(fs: FileSystem) -> None:
    for _, ino, _ in fs.walk():
        names = fs.xattr_names(ino)
        assert len(set(names)) == len(names)
        for name in names:
            assert isinstance(fs.xattr(ino, name), bytes)
        with pytest.raises(NoAttribute):
            fs.xattr(ino, b"user.no such attribute")


def test_wrong_kinds_and_missing_names_get_their_own_errors(fs: FileSystem) -> None:
    with pytest.raises(NotFound):
        fs.lookup(fs.root, b"no such name")
    with pytest.raises(IsADirectory):
        fs.open(fs.root)
    with pytest.raises(InvalidArgument):
        fs.readlink(fs.root)
    with pytest.raises(GuestkitError):
        fs.stat(2**51)
    checked = set()
    for _, ino, status in fs.walk():
        kind = 0 if status is None else stat.S_IFMT(status.mode)
        if kind in checked or kind == 0 or kind == stat.S_IFDIR:
            continue
        checked.add(kind)
        with pytest.raises(NotADirectory):
            fs.lookup(ino, b"x")
        with pytest.raises(NotADirectory):
            list(fs.scan(ino))
        with pytest.raises(NotADirectory):
            fs.parent(ino)
        if kind != stat.S_IFREG:
            with pytest.raises((InvalidArgument, NeedKey)):
                fs.open(ino)
        if kind != stat.S_IFLNK:
            with pytest.raises(InvalidArgument):
                fs.readlink(ino)


def test_a_sound_filesystem_reports_no_problem(fs: FileSystem) -> None:
    for _, ino, status in fs.walk():
        if status is not None and stat.S_ISREG(status.mode) and status.size < 1 << 20:
            try:
                fs.open(ino).read(0, status.size)
            except (NeedKey, Unsupported):
                continue
    assert fs.problems() == (0, ())


def test_a_truncated_image_costs_only_what_is_missing(fs: FileSystem, request: pytest.FixtureRequest) -> None:
    path = request.node.callspec.params["fs"]
    data = lzma.decompress(path.read_bytes())
    for part in (0.01, 0.3, 0.7, 0.95):
        source = Slice(BytesSource(data[: int(len(data) * part)]), 0, len(data))
        try:
            short = registry.open_filesystem(fs.kind, [source], Limits(), {})
            for _, ino, status in short.walk():
                if status is not None and stat.S_ISREG(status.mode):
                    short.open(ino).read(0, min(status.size, 65536))
        except GuestkitError:
            continue
