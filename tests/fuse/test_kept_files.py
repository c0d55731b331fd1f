"""Files that need not be opened: which are kept between reads, and how much memory that may take."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest
from memory import MemoryFS

from guestkit.chains import Chain, ChainedFile, Chains, Heap
from guestkit.fuse import MountOptions, protocol, requests
from guestkit.fuse.requests import Requests
from guestkit.limits import Limits
from guestkit.namespace import MountTable
from guestkit.resolve import resolve
from guestkit.source import BytesSource, Extent, Source

_WHOLE = 64 << 20
_STEP = 32 << 20


class Fragmented(Source):
    """A file of which no two blocks lie together."""

    def __init__(self, place: Source) -> None:
        self.size = _WHOLE
        self.place = place

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        for at in range(offset // 4096 * 4096, offset + length, 4096):
            yield Extent(at, 4096, self.place, at // 4096 * 7 % 16 * 4096)


def served(files: int, source: Source) -> tuple[Requests, list[int], list[int]]:
    """Requests of a mount with so many files, their numbers, and those that were opened."""
    fs = MemoryFS()
    for number in range(files):
        fs.file(fs.root, b"%d" % number, source)
    opened: list[int] = []
    table = MountTable()
    table.mount(fs)
    real = table.open
    table.open = lambda node, stream=b"": (opened.append(node), real(node, stream))[1]  # type: ignore[method-assign]
    numbers = [table.resolve(b"/%d" % number) for number in range(files)]
    return Requests(table, MountOptions(), protocol.Entries(MountOptions())), numbers, opened


def read(served: Requests, number: int, offset: int) -> None:
    served.file(number).read(offset, 100)
    served.rested(number)


def test_files_that_know_much_make_room_for_one_another() -> None:
    mount, numbers, _ = served(40, Fragmented(BytesSource(bytes(1 << 16))))
    most = 0
    for number in numbers:
        for at in range(0, _WHOLE, _STEP):
            read(mount, number, at)
        most = max(most, sum(source.held for source in mount._kept.values()))
    one = mount._kept[numbers[-1]].held
    assert one > 3_000_000
    assert most <= requests._MOST_HELD
    assert len(mount._kept) > 2


def test_one_that_alone_knows_more_is_kept_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "_MOST_HELD", 1_000_000)
    mount, numbers, opened = served(5, Fragmented(BytesSource(bytes(1 << 16))))
    for number in numbers:
        for at in (0, _STEP, 5, _STEP + 5):
            read(mount, number, at)
        assert list(mount._kept) == [number]
    assert opened == numbers


def test_what_was_read_last_is_kept() -> None:
    mount, numbers, opened = served(100, BytesSource(b"x" * 200))
    for number in numbers[1:]:
        read(mount, number, 0)
        read(mount, numbers[0], 0)
    assert len(mount._kept) == requests._MOST_KEPT
    assert opened == [numbers[1], numbers[0], *numbers[2:]]
    read(mount, numbers[1], 0)
    assert opened[-1] == numbers[1]


def test_what_a_mapping_holds_is_told_about_right() -> None:
    place = BytesSource(bytes(1 << 16))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        file = resolve(Fragmented(place))
        for at in range(0, _WHOLE, _STEP):
            file.read(at, 100)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken / 2 < file.held < taken * 2


def test_what_a_chain_holds_is_told_about_right() -> None:
    clusters = 40_000
    # every other cluster, so that each is a run of its own
    table = bytearray(4 * (clusters + 2))
    for cluster in range(2, clusters, 2):
        table[4 * cluster : 4 * cluster + 4] = min(cluster + 2, 0x0FFFFFFF).to_bytes(4, "little")
    table[4 * clusters : 4 * clusters + 4] = b"\xff\xff\xff\x0f"
    chains = Chains(BytesSource(bytes(table)), 0, 28, clusters, Limits())
    size = clusters // 2 * 512
    heap = Heap(BytesSource(bytes(1 << 25)), 0, 512)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        file = ChainedFile(heap, Chain(chains, 2), size, "file")
        assert sum(extent.length for extent in file.extents(0, size)) == size
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert file.held > 500_000 and taken / 3 < file.held < taken * 2
