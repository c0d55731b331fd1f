"""exFAT: entry sets that are found and decoded many at a time, and directories that are read together."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from recipes.exfat_writer import Folder, Volume, stamp, sum16
from test_exfat import _base, opened

from guestkit.errors import Corrupt, GuestkitError, SourceError, Unsupported
from guestkit.fs.base import whole
from guestkit.fs.exfat import open as open_exfat
from guestkit.fs.exfat.entries import Times, parse_set
from guestkit.fs.exfat.filesystem import ExFat
from guestkit.fs.exfat.sets import Decoder, Finder, Set
from guestkit.limits import Limits
from guestkit.ownership import Ownership
from guestkit.source import BytesSource, Extent, Source


@pytest.fixture
def volume() -> Volume:
    return Volume(_base())


def names_of_every_length(count: int) -> list[str]:
    """`count` names for each number of name entries, from 1 to 17."""
    return [f"{number:03}".ljust(15 * length - number % 14, "x") for length in range(1, 18) for number in range(count)]


def test_sets_of_every_length_are_listed_in_their_order(volume: Volume) -> None:
    folder = volume.folder(volume.root, "dir", 300)
    wanted = names_of_every_length(20)
    random.Random(1).shuffle(wanted)
    for number, name in enumerate(wanted):
        folder.entries += volume.entry_set(name, 0x21 if number % 3 else 0x20, 0, 0, 0, chained=False)
    fs = opened(volume)
    directory = fs.lookup(1, b"dir")
    found = list(fs.scan_stat(directory))
    assert [entry.name.decode() for entry, _ in found] == wanted
    for number, (entry, status) in enumerate(found):
        assert status == fs.stat(entry.ino)
        assert status.mode & 0o222 == (0 if number % 3 else 0o200)
    assert fs.problems() == (0, ())


@pytest.mark.parametrize("place", [1, 4, 20, 33, 36, 40, 56, 64, 65, 66, 95])
def test_a_set_that_is_damaged_hides_itself_alone_among_many(volume: Volume, place: int) -> None:
    folder = volume.folder(volume.root, "dir", 300)
    wanted = names_of_every_length(20)
    sets = [bytearray(volume.entry_set(name, 0x20, 0, 0, 0, chained=False)) for name in wanted]
    damaged = random.Random(place).sample(range(len(sets)), 25)
    for at in damaged:
        sets[at][place] ^= 0x40
    folder.entries += b"".join(sets)
    fs = opened(volume)
    directory = fs.lookup(1, b"dir")
    seen = []
    with pytest.raises((Corrupt, Unsupported)):
        for entry, status in fs.scan_stat(directory):
            assert status is not None
            seen.append(entry.name.decode())
    assert seen == [name for at, name in enumerate(wanted) if at not in damaged]
    assert fs.problems()[0] == 25
    for at in damaged:
        with pytest.raises((Corrupt, Unsupported)):
            fs.lookup(directory, wanted[at].encode())
    failed: list[bytes] = []
    assert len(list(fs.walk(failed=lambda path, error: failed.append(path)))) == len(seen) + 2
    assert failed == [b"dir"]


def _sets(volume: Volume, chooser: random.Random) -> list[Set]:
    """Sets of all kinds, some of them damaged, some of those with a checksum that agrees."""
    found = []
    for number in range(600):
        length = chooser.choice((1, 14, 15, 16, 30, 31, 255, chooser.randrange(1, 256)))
        text = [chooser.choice((0x41, 0x7A, 0xE9, 0x4E2D, 0xD83D, 0xDE00, 0x2E)) for _ in range(length)]
        if chooser.randrange(20) == 0:
            text[chooser.randrange(length)] = chooser.choice((0, 0x2F))
        times = tuple(stamp(*(chooser.randrange(*each) for each in _STAMP)) for _ in range(3))
        data = bytearray(
            volume.entry_set(
                tuple(text),
                chooser.choice((0x20, 0x21, 0x10, 0x30, 0)),
                chooser.choice((0, 5, 77)),
                size := chooser.choice((0, 1, 511, 512, 4097, 9999, 1 << 63)),
                chooser.choice((0, size, size, size, size + 1)),
                chained=bool(chooser.randrange(2)),
                times=times,
                tenths=(chooser.randrange(200), chooser.randrange(200)),
                offsets=tuple(chooser.choice((0, 0x80, 0x84, 0xFC)) for _ in range(3)),
                more=b"".join(chooser.choice(_MORE) for _ in range(chooser.choice((0,) * 20 + (1, 2)))),
            )
        )
        while len(data) > 19 * 32:
            del data[-32:]
        data[1] = len(data) // 32 - 1
        if chooser.randrange(8) == 0:
            data[chooser.randrange(2, len(data))] ^= 1 << chooser.randrange(8)
        if chooser.randrange(8):
            data[2:4] = sum16(bytes(data), (2, 3)).to_bytes(2, "little")
        found.append((number, 1000 + number * 20, bytes(data)))
    return found


_STAMP = ((1980, 2108), (0, 16), (0, 32), (0, 32), (0, 64), (0, 64))
_MORE = (b"\xe5" + bytes(31), b"\xc5" + bytes(31), b"\xc1" + bytes(31))


@pytest.mark.parametrize("seed", range(12))
def test_many_sets_say_what_each_says_by_itself(volume: Volume, seed: int) -> None:
    sets = _sets(volume, random.Random(seed))
    fs = opened(volume)
    most = fs.boot.clusters * fs.boot.cluster_size
    decoder = Decoder(Ownership({}), Times(Ownership({}).utc), fs.boot.cluster_size, most)
    decoded = whole(decoder.decode(sets))
    usual = 0
    for at, (number, place, data) in enumerate(sets):
        name, key, _, cookie = decoded.entries[at]
        try:
            file = parse_set(data, place)
        except GuestkitError as error:
            assert str(decoded.errors[at]) == str(error)
            assert not name
            continue
        if not name:
            assert decoded.unnamed[at] == file
            continue
        assert (name, key, cookie) == (file.name, place, number)
        status = decoded.stats[at]
        if status is None:
            assert decoded.late[at] == file
        else:
            assert status == fs._stat_of(file)
            usual += 1
    assert usual > 10
    shown = [at for at in range(100, 300) if decoded.entries[at][0]]
    entries, late, hidden = decoded.part(100, 300)
    assert entries == [decoded.entries[at] for at in shown]
    assert [100 + at for at in hidden] == [at for at in range(100, 300) if at not in shown]
    assert late == [(number, decoded.late[at]) for number, at in enumerate(shown) if at in decoded.late]


def _found_slowly(data: bytes, first: int) -> tuple[list[Set], list[int], bool]:
    """Sets, entries where something is wrong, whether the end was met: entry by entry, as the specification goes."""
    sets: list[Set] = []
    flaws: list[int] = []
    at, count = 0, len(data) // 32
    while at < count:
        kind = data[at * 32]
        if kind == 0:
            return sets, flaws, True
        behind = at + 1
        if kind == 0x85:
            want = data[at * 32 + 1]
            if 2 <= want <= 18:
                while behind < count and behind <= at + want and data[behind * 32] & 0xC0 == 0xC0:
                    behind += 1
            if 2 <= want <= 18 and behind == at + want + 1:
                sets.append((behind, first + at, data[at * 32 : behind * 32]))
            else:
                flaws.append(at)
        elif kind & 0xE0 == 0x80 and kind not in (0x81, 0x82, 0x83):
            flaws.append(at)
        at = behind
    return sets, flaws, False


@pytest.mark.parametrize("seed", range(300))
def test_sets_are_found_as_when_looked_at_entry_by_entry(seed: int) -> None:
    chooser = random.Random(seed)
    entries = bytearray()
    while len(entries) < 32 * 60:
        way = chooser.randrange(12)
        if way < 8:
            count = chooser.choice((2, 2, 3, 18))
            entries += bytes([0x85, count]).ljust(32, b"h")
            for number in range(count):
                entries += bytes([0xC1 if number else 0xC0]).ljust(32, b"s")
            if way == 7:
                del entries[-32 * chooser.randrange(1, count) :]
        else:
            kind = chooser.choice((0x05, 0x41, 0x80, 0x81, 0x83, 0x85, 0x9F, 0xA0, 0xC0, 0xC1, 0xE1, 0xFF))
            entries += bytes([kind, chooser.choice((0, 1, 2, 19, 255))]).ljust(32, b"o")
    if chooser.randrange(3):
        at = chooser.randrange(len(entries) // 32) * 32
        entries[at] = 0
    wanted, flaws, ended = _found_slowly(bytes(entries), 500)
    finder = Finder()
    found: list[Set] = []
    at = 0
    while at < len(entries) and not finder.ended:
        step = 32 * chooser.choice((1, 2, 5, 100))
        found += finder.feed(bytes(entries[at : at + step]), 500 + at // 32)
        at += step
    finder.finish()
    assert (found, sorted(number for number, _ in finder.flaws), finder.ended) == (wanted, flaws, ended)


def _forest(volume: Volume, count: int = 40) -> list[Folder]:
    made = []
    for number in range(count):
        folder = volume.folder(volume.root, f"d{number}")
        for name in ("one", "a name of several entries"):
            volume.file(folder, f"{name} {number}", b"x")
        made.append(folder)
    return made


def _listed(fs: ExFat, directories: list[int]) -> dict[int, list[object]]:
    listed, stats = whole(fs.scan_small(directories))
    return {key: [(entry, stats[entry[1]]) for entry in entries] for key, entries in listed.items()}


def test_directories_that_are_read_together_list_as_each_by_itself(volume: Volume) -> None:
    made = _forest(volume)
    for number in range(5):
        volume.file(volume.folder(made[3], f"sub{number}"), "leaf", b"")
    fs = opened(volume)
    keys = [entry.ino for entry in fs.scan(1) if entry.type == 4]
    listed = _listed(opened(volume), [*keys, 1, 2, 12345])
    assert set(keys) <= set(listed) <= {*keys, 1}
    for key in keys:
        assert listed[key] == [(tuple(entry), status) for entry, status in fs.scan_stat(key)]


def test_a_damaged_directory_is_left_out_of_those_that_are_read_together(volume: Volume) -> None:
    made = _forest(volume)
    made[7].entries[70] ^= 1
    made[9].entries[1] = 1
    made[11].entries += bytes([0x9F]) + bytes(31)
    del made[13].entries[-32:]
    fs = opened(volume)
    keys = {entry.name: entry.ino for entry in fs.scan(1) if entry.type == 4}
    damaged = {keys[b"d%d" % number] for number in (7, 9, 11, 13)}
    listed = _listed(fs, list(keys.values()))
    assert set(listed) == set(keys.values()) - damaged
    failed: list[bytes] = []
    walked = list(fs.walk(failed=lambda path, error: failed.append(path)))
    assert sorted(failed) == [b"d11", b"d13", b"d7", b"d9"]
    assert len(walked) == 1 + 40 * 3 - 3  # d11 has both of its names
    for key in damaged:
        with pytest.raises((Corrupt, Unsupported)):
            list(fs.scan(key))


class Counting(Source):
    """Counts reads; those that touch `bad` fail."""

    def __init__(self, data: bytes, bad: Callable[[int, int], bool] = lambda at, end: False) -> None:
        self._source = BytesSource(data)
        self._bad = bad
        self.size = len(data)
        self.reads = 0

    def read_into(self, offset: int, buf: memoryview) -> None:
        self.reads += 1
        if self._bad(offset, offset + len(buf)):
            raise SourceError("a bad sector")
        self._source.read_into(offset, buf)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        yield Extent(offset, length, self, offset)


def test_neighbours_are_read_at_once_and_one_that_cannot_be_read_is_left_out_alone(volume: Volume) -> None:
    made = _forest(volume)
    image = volume.close()
    fs = open_exfat([BytesSource(image)], Limits(), {})
    keys = {entry.name: entry.ino for entry in fs.scan(1) if entry.type == 4}
    source = Counting(image)
    fs = open_exfat([source], Limits(), {})
    list(fs.scan(1))
    source.reads = 0
    assert len(whole(fs.scan_small(list(keys.values())))[0]) == 40
    assert source.reads < 40 + 5  # the sets that name them are read one by one
    place = volume.place(made[5].clusters[0])
    broken = open_exfat([Counting(image, lambda at, end: at <= place < end)], Limits(), {})
    assert set(keys.values()) - set(whole(broken.scan_small(list(keys.values())))[0]) == {keys[b"d5"]}
