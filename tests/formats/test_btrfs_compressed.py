"""Compressed extents as windows of a file: made once wherever they begin, bad ones alone, with and without threads."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from btrfs_images import Edited

from guestkit.errors import Corrupt
from guestkit.fs.btrfs import open as open_btrfs
from guestkit.fs.btrfs.compression import MOST
from guestkit.fs.btrfs.content import BtrfsFile
from guestkit.fs.btrfs.extents import FileExtent
from guestkit.limits import MIB, Limits
from guestkit.resolve import resolve
from guestkit.source import BytesSource, Leaf

_PLACE = 1 << 22  # logical addresses between extents


class Stored(Leaf):
    """Compressed extents by number, one behind the other or far from it; counts how often each is read."""

    def __init__(self, apart: bool) -> None:
        self.size = 1 << 64
        self.apart = apart
        self.kept: dict[int, bytes] = {}  # by address
        self.numbers: dict[int, int] = {}
        self.end = _PLACE
        self.times: dict[int, int] = {}
        self.reads = 0
        self.bad: set[int] = set()

    def add(self, content: bytes) -> tuple[int, int]:
        packed = zlib.compress(content, 1)
        packed += bytes(-len(packed) % 4096)
        at = self.end
        self.numbers[at] = len(self.kept)
        self.kept[at] = packed
        self.end += _PLACE if self.apart else len(packed)
        return at, len(packed)

    def read_into(self, offset: int, buf: memoryview) -> None:
        self.reads += 1
        done = 0
        while done < len(buf):
            number, packed = self.numbers[offset + done], self.kept[offset + done]
            self.times[number] = self.times.get(number, 0) + 1
            if number in self.bad:
                raise Corrupt("data: bad checksum")
            buf[done : done + len(packed)] = packed
            done += len(packed)


class Map:
    def __init__(self) -> None:
        self.all: list[FileExtent] = []

    def extents(self, offset: int, end: int) -> Iterator[FileExtent]:
        return (each for each in self.all if each.start < end and each.start + each.length > offset)


class Made:
    """A file of compressed extents of the given lengths, one after another; a negative one is a hole."""

    def __init__(self, lengths: list[int], threads: int, seed: int = 1, *, apart: bool = False) -> None:
        dice = Random(seed)
        self.stored = Stored(apart)
        self.limits = Limits(decode_threads=threads)
        map = Map()
        content = bytearray()
        for length in lengths:
            if length < 0:
                content += bytes(-length)
                continue
            whole = (dice.randbytes(256).hex().encode() * (length // 512 + 1))[:length]
            address, size = self.stored.add(whole)
            map.all.append(FileExtent(len(content), length, address, size, 0, length, 1, None))
            content += whole
        self.map = map
        self.content = bytes(content)

    def open(self) -> Any:
        return resolve(self.file())

    def file(self) -> BtrfsFile:
        data: Any = SimpleNamespace(verified=self.stored, unverified=BytesSource(b""), sector=4096, limits=self.limits)
        map: Any = self.map
        return BtrfsFile(data, map, 257, len(self.content), True)


@pytest.fixture(params=[0, 2])
def threads(request: pytest.FixtureRequest) -> int:
    count: int = request.param
    return count


SHIFTED = [36 * 1024] + [MOST] * 40 + [20 * 1024, -8192] + [MOST] * 40


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("piece", [100_000, MOST, MIB])
def test_each_extent_is_read_and_made_once_wherever_it_begins(threads: int, piece: int, apart: bool) -> None:
    made = Made(SHIFTED, threads, apart=apart)
    file = made.open()
    size = len(made.content)
    buf = bytearray(size)
    for at in range(0, size, piece):
        file.read_into(at, memoryview(buf)[at : at + piece])
    made.limits.close()
    assert bytes(buf) == made.content
    assert set(made.stored.times) == set(range(82))
    # a thread and the reader may meet at a unit
    assert sum(made.stored.times.values()) <= (82 + 8 if threads else 82)


@pytest.mark.parametrize("bad", [None, 5])
def test_extents_that_lie_behind_one_another_are_read_at_once(bad: int | None) -> None:
    made = Made([MOST] * 6 + [-MOST, 40_960] + [MOST] * 3, 2)
    made.stored.bad = set() if bad is None else {bad}
    (decoded,) = {extent.source for extent in made.file().extents(0, 6 * MOST)}
    expected = {index: made.content[index * MOST : (index + 1) * MOST] for index in range(6)}
    got = dict(decoded.decode_some(range(7)))
    assert got.pop(6) == bytes(MOST)
    if bad is not None:
        del expected[bad]
    assert got == expected
    assert made.stored.reads == (1 if bad is None else 1 + 6)
    made.limits.close()


def test_parts_of_extents_of_any_place_and_length_are_right(threads: int) -> None:
    dice = Random(7)
    for seed in range(6):
        lengths = [dice.choice((4096, 8192, 61_440, MOST, MOST, MOST - 4096, -4096)) for _ in range(40)]
        made = Made(lengths, threads, seed)
        first, *rest = made.map.all
        # the file begins inside an extent, and an extent is interrupted by another
        made.map.all = [first._replace(skip=4096, length=first.length - 4096)] if first.length > 4096 else [first]
        made.map.all += [each._replace(start=each.start - first.length + made.map.all[0].length) for each in rest]
        lost = first.length - made.map.all[0].length
        made.content = made.content[: first.start] + made.content[first.start + lost :]
        at = next((index for index, each in enumerate(made.map.all) if each.length == MOST), None)
        if at is not None:
            old = made.map.all[at]
            new = dice.randbytes(8192)
            address, stored = made.stored.add(new)
            middle = old.start + 65_536
            made.map.all[at : at + 1] = [
                old._replace(length=65_536),
                FileExtent(middle, 8192, address, stored, 0, 8192, 1, None),
                old._replace(start=middle + 8192, length=MOST - 65_536 - 8192, skip=65_536 + 8192),
            ]
            made.content = made.content[:middle] + new + made.content[middle + 8192 :]
        file = made.open()
        size = len(made.content)
        assert file.read(0, size) == made.content
        for _ in range(200):
            begin = dice.randrange(size)
            length = dice.randrange(size - begin + 1)
            if dice.random() < 0.7:
                length = min(length, 5000)
            assert file.read(begin, length) == made.content[begin : begin + length]
        made.limits.close()


@pytest.mark.parametrize("apart", [False, True])
def test_a_bad_extent_is_an_error_for_its_own_bytes_alone(threads: int, apart: bool) -> None:
    made = Made(SHIFTED, threads, apart=apart)
    made.stored.bad = {20}
    begin = 36 * 1024 + 19 * MOST
    file = made.open()
    for _ in range(2):
        for at in range(0, len(made.content), 65_536):
            length = min(65_536, len(made.content) - at)
            if at < begin + MOST and at + length > begin:
                with pytest.raises(Corrupt, match="bad checksum"):
                    file.read(at, length)
            else:
                assert file.read(at, length) == made.content[at : at + length]
        assert file.read(begin - 10, 10) == made.content[begin - 10 : begin]
        assert file.read(begin + MOST, 10) == made.content[begin + MOST : begin + MOST + 10]
    made.limits.close()


@pytest.mark.parametrize("method", ["zlib", "lzo", "zstd"])
def test_a_bad_checksum_costs_the_extent_alone(threads: int, method: str) -> None:
    image = Edited("default")
    fs = image.open()
    key = fs.lookup(fs.lookup(fs.root, method.encode()), b"size-400001")
    good = fs.open(key).read(0, 400_001)
    file: Any = fs.open(key)
    second = list(file._map.extents(0, 400_001))[1]
    assert (second.start, second.length) == (MOST, MOST)
    image.data[image.place(second.address) + 50] ^= 1
    limits = Limits(decode_threads=threads)
    fs = open_btrfs([BytesSource(bytes(image.data))], limits, {})
    source = fs.open(key)
    for at in range(0, 400_001, 50_000):
        length = min(50_000, 400_001 - at)
        if at < 2 * MOST and at + length > MOST:
            with pytest.raises(Corrupt, match="bad checksum"):
                source.read(at, length)
        else:
            assert source.read(at, length) == good[at : at + length]
    limits.close()


def test_a_long_stream_keeps_little_and_its_threads_end_with_the_limits(threads: int) -> None:
    before = set(threading.enumerate())
    made = Made([MOST] * 200, threads)
    file = made.open()
    most = 0
    for at in range(0, len(made.content), MIB):
        assert file.read(at, min(MIB, len(made.content) - at)) == made.content[at : at + MIB]
        most = max(most, made.limits.cache.bytes)
    assert made.limits.cache.bytes <= 5 * MIB  # of the first reads, before it was a stream
    assert most <= (12 * MIB if threads else 5 * MIB)
    assert len(set(threading.enumerate()) - before) <= threads
    made.limits.close()
    assert set(threading.enumerate()) <= before
    assert made.limits.cache.bytes == 0
