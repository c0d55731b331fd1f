"""XFS read in bulk: inodes by columns, small directories together. Nothing is told that one by one would not be."""

from __future__ import annotations

import random

import pytest
from xfs_images import DATA, Image, fixture, reader, u64

from guestkit.errors import Corrupt, GuestkitError, SourceError
from guestkit.fs.base import Stat, gathered, whole
from guestkit.fs.xfs import columns, dirdata, inode
from guestkit.fs.xfs.blocks import DIRECTORY
from guestkit.fs.xfs.dirdata import Names, directory_format, parse_names, parse_short
from guestkit.fs.xfs.filesystem import Xfs
from guestkit.source import BytesSource

NAMES = sorted(path.name.removesuffix(".img.xz") for path in DATA.glob("xfs*.img.xz"))
OPTIONS = {"needsrepair": "yes"}


def alone(fs: Xfs, ino: int) -> Stat | str:
    try:
        return fs.stat(ino)
    except GuestkitError as error:
        return str(error)


def together(fs: Xfs, inos: list[int]) -> dict[int, Stat | str | None]:
    found = fs.table.stat_many(set(inos))
    assert not found.stats.keys() & found.bad.keys()
    return {**found.stats, **{ino: str(error) for ino, error in found.bad.items()}}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_together_is_what_is_read_alone(name: str) -> None:
    data = fixture(name)
    fs = reader(data, OPTIONS)
    rows = list(fs.walk())
    directories = [fs.root, *(ino for _, ino, status in rows if status is not None and status.mode & 0xF000 == 0x4000)]
    listed, stats = whole(reader(data, OPTIONS).scan_small(directories))
    other = reader(data, OPTIONS)
    for directory, entries in listed.items():
        assert entries == [tuple(entry) for entry in other.scan(directory)]
    assert stats == {ino: other.stat(ino) for ino in {entry[1] for entries in listed.values() for entry in entries}}
    assert {ino: status for _, ino, status in rows} == {ino: other.stat(ino) for _, ino, _ in rows}
    paths: list[tuple[bytes, int]] = []
    pending = [(b"", fs.root)]
    while pending:
        prefix, current = pending.pop()
        for entry in other.scan(current):
            paths.append((prefix + entry.name, entry.ino))
            if other.stat(entry.ino).mode & 0xF000 == 0x4000:
                pending.append((prefix + entry.name + b"/", entry.ino))
    assert sorted((path, ino) for path, ino, _ in rows) == sorted(paths)
    block = fs.superblock.dir_block_size
    for each in directories:
        record = other.table.read(each)
        in_one = record.size == block <= 1 << 14 and record.data_count == 1
        assert (each in listed) == (record.format == inode.LOCAL or in_one)


@pytest.mark.parametrize("name", ["xfs", "xfs-rhel7", "xfs-nrext64", "xfs-inode2048"])
def test_an_inode_of_any_content_is_told_together_as_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image(name)
    inos = sorted({ino for _, ino, _ in image.fs.walk()})[:40]
    chance = random.Random(name)
    assert all(isinstance(alone(image.fs, ino), Stat) for ino in inos)
    clean = bytes(image.data)
    for offset in (*range(6), *range(16, 24), *range(32, 72), *range(91, 100), *range(120, 128), *range(144, 176)):
        for value in (0, 0x7F, 0xFF, chance.randrange(256)):
            victim = chance.choice(inos)
            image.data[:] = clean
            image.inode(victim, (offset, bytes([value])))
            with monkeypatch.context() as patch:
                patch.setattr(inode, "_OFTEN", 0)
                fs = image.open()
                expected = {ino: alone(fs, ino) for ino in inos}
            assert together(image.open(), inos) == expected, (offset, value)
            fs = image.open()
            assert {ino: alone(fs, ino) for ino in inos} == expected  # by pages, once several of one are wanted
            assert sum(isinstance(status, str) for status in expected.values()) <= 1


def test_a_wrong_checksum_among_many_hides_its_inode_alone() -> None:
    image = Image()
    rows = {path: status for path, _, status in image.fs.walk()}
    inos = sorted({status.ino for status in rows.values() if status is not None})
    victim = inos[len(inos) // 2]
    image.data[image.sup.inode_offset(victim) + 40] ^= 1
    found = together(image.open(), inos)
    assert [ino for ino in inos if not isinstance(found[ino], Stat)] == [victim]
    assert "di_crc" in str(found[victim])
    fs = image.open()
    lost = {path for path, ino, status in fs.walk() if status is None}
    assert lost and all(rows[path].ino == victim for path in lost)  # type: ignore[union-attr]
    assert fs.problems()[0] >= 1


def test_an_inode_without_a_place_among_many_costs_itself_alone() -> None:
    image = Image("xfs-groups")
    inos = sorted({ino for _, ino, _ in image.fs.walk()})
    sup = image.sup
    outside = (sup.ag_blocks + 1) << sup.inodes_per_block_log  # in the first group's numbers, behind its end
    far = sup.ag_count << sup.ag_inode_log
    assert outside < 1 << sup.ag_inode_log
    for column in (16, 256):
        found = inode.Found({}, {})
        list(image.open().table.stat_pieces({*inos, outside, far, 0}, found, column))
        assert found.stats == {ino: image.fs.stat(ino) for ino in inos}
        assert found.bad.keys() == {outside, far, 0}
    assert isinstance(found.bad[outside], Corrupt)


class Unreadable(BytesSource):
    """Bytes of which one sector cannot be read."""

    bad = -1

    def read_into(self, offset: int, buf: memoryview) -> None:
        if offset <= self.bad < offset + len(buf):
            raise SourceError("unreadable")
        super().read_into(offset, buf)

    def read(self, offset: int, length: int) -> bytes:
        if offset <= self.bad < offset + length:
            raise SourceError("unreadable")
        return super().read(offset, length)


def test_a_sector_that_cannot_be_read_hides_the_inodes_in_it_alone() -> None:
    source = Unreadable(fixture("xfs"))
    fs = reader(source)
    rows = list(fs.walk())
    victim = next(ino for path, ino, _ in rows if path == b"blocks")
    fs = reader(source)
    source.bad = fs.superblock.inode_offset(victim) + 100
    found = together(fs, [ino for _, ino, _ in rows])
    assert [ino for ino, status in found.items() if not isinstance(status, Stat)] == [victim]


@pytest.mark.parametrize("what", ["checksum", "owner", "name", "inode", "short"])
def test_a_damaged_directory_is_left_out_of_those_listed_together_and_told(what: str) -> None:
    image = Image()
    path = "directories/short" if what == "short" else "removed"
    victim = image.ino(path)
    if what == "short":
        image.inode(victim, (image.fork(path) + 6, b"\xff"))
    else:
        (block,) = image.blocks(path, 0, 1)
        name = next(image.fs.scan(victim)).name
        entry = image.bytes(block).index(bytes([len(name)]) + name) - 8
        if what == "checksum":
            image.data[block * image.sup.block_size + entry] ^= 1
        elif what == "owner":
            image.block(block, DIRECTORY, (40, u64(77)))
        elif what == "name":
            image.block(block, DIRECTORY, (entry + 9, b"/"))
        else:
            image.block(block, DIRECTORY, (entry, u64(1 << 50)))
    directories = [image.fs.root]
    directories += [ino for _, ino, status in image.fs.walk() if status is not None and status.mode & 0xF000 == 0x4000]
    before, _ = whole(image.fs.scan_small(directories))
    listed, _ = whole(image.open().scan_small(directories))
    assert before.keys() - listed.keys() == {victim}
    assert all(entries == before[ino] for ino, entries in listed.items())
    fs = image.open()
    told: list[bytes] = []
    paths = {name for name, _, _ in fs.walk(None, lambda name, _: told.append(name))}
    assert told == [path.encode()] and fs.problems()[0]
    lost = {name for name, _, _ in image.fs.walk()} - paths
    assert all(name.startswith(path.encode() + b"/") for name in lost)


def test_directories_that_are_none_are_left_out() -> None:
    image = Image()
    fs = image.open()
    file = image.ino("blocks")
    listed, stats = whole(fs.scan_small([file, 1 << 60, 0, fs.root]))
    assert listed.keys() <= {fs.root}
    assert stats.keys() == {entry[1] for entries in listed.values() for entry in entries}


def test_scan_small_pauses() -> None:
    image = Image()
    directories = [ino for _, ino, status in image.fs.walk() if status is not None and status.mode & 0xF000 == 0x4000]
    assert sum(1 for _ in image.open().scan_small(directories)) > 5


@pytest.mark.parametrize("name", ["xfs", "xfs-parent", "xfs-no-ftype", "xfs-v4"])
def test_plain_entries_are_read_as_careful_reading_has_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image(name)
    form = directory_format(image.sup)
    chance = random.Random(name)
    blocks: list[tuple[bytes, bool]] = []
    forks: list[bytes] = []
    for path, ino, mode in [(b"", image.fs.root, 0x4000)] + [
        (path, ino, status.mode) for path, ino, status in image.fs.walk() if status is not None
    ]:
        if mode & 0xF000 != 0x4000:
            continue
        record = image.fs.table.read(ino)
        if record.format == inode.LOCAL:
            forks.append(record.data_fork[: record.size])
        else:
            number = image.blocks(path.decode(), 0, 1)[0]
            buf = image.bytes(number)
            blocks.append((buf, buf[:4] in dirdata.BLOCK_MAGICS))
    assert blocks and forks

    def told(names: Names) -> tuple[object, str]:
        return names.entries, str(names.flaw)

    odd = 0
    for _ in range(4000):
        fork, (buf, single) = bytearray(chance.choice(forks)), chance.choice(blocks)
        block = bytearray(buf)
        for _ in range(chance.randrange(3)):
            fork[chance.randrange(len(fork))] = chance.choice((0, 1, 2, 0x2E, 0x2F, 0xFF, chance.randrange(256)))
            place = chance.randrange(64, 400) if chance.random() < 0.8 else chance.randrange(len(block))
            block[place] = chance.choice((0, 1, 2, 0x2E, 0x2F, 0xFF, chance.randrange(256)))
        if chance.random() < 0.1:
            fork = fork[: chance.randrange(len(fork))]
        quick = told(parse_names(bytes(block), 0, form, single)), told(parse_short(bytes(fork), form))
        with monkeypatch.context() as patch:
            patch.setattr(dirdata, "_plain_names", lambda *_: None)
            patch.setattr(dirdata, "_plain_short", lambda *_: None)
            careful = told(parse_names(bytes(block), 0, form, single)), told(parse_short(bytes(fork), form))
        assert quick == careful
        odd += careful[0][1] != "None"
    assert odd > 100


@pytest.mark.parametrize("early", [(), (0,), (3, 4), range(20)])
def test_big_timestamps_on_both_sides_of_1970_and_at_their_bounds(early: tuple[int, ...] | range) -> None:
    """Those of many are subtracted at once; one before 1970 would borrow from the one that stands beside it."""
    epoch = columns._EPOCH
    values = [epoch + number * 10**17 + 5 for number in range(1, 21)]
    values[9], values[10] = (1 << 64) - 1, (0x1E << 56)
    for place in early:
        values[place] = (0, epoch - 1, epoch, epoch + 1, 1)[place % 5]
    stored = memoryview(b"".join(value.to_bytes(8, "big") for value in values)).cast("Q")
    found = columns._times([stored[:10], stored[10:]], 10)
    assert [*found[0], *found[1]] == [value - epoch for value in values]


@pytest.mark.parametrize(
    ("step", "gap", "sizes"),
    [(1, 0, [1024] * 9 + [784]), (1, 1 << 20, [1024] * 9 + [784]), (3, 0, [1024, 4096, 4880])],
    ids=["together", "in two places", "apart"],
)
def test_lists_grow_only_where_inodes_lie_far_apart(step: int, gap: int, sizes: list[int]) -> None:
    places = [128 + number * step + (gap if number >= 500 else 0) for number in range(10_000)]
    entries = [(b"name", place, 8, number + 1) for number, place in enumerate(places)]
    batches = [entries[at : at + 16] for at in range(0, len(entries), 16)]
    found = list(gathered(batches))
    assert [len(each) for each in found] == sizes
    assert [entry for each in found for entry in each] == entries
