"""Resolved: the same bytes, extents and errors as its source, and the faults of a moment are not kept."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from imagefiles import Faulty
from test_source import check_whole, random_stack, tiles

from guestkit import resolve as module
from guestkit.errors import Corrupt, SourceError
from guestkit.resolve import Resolved, resolve
from guestkit.source import BytesSource, Concat, Extent, FileSource, Source, ZeroSource


class Patchwork(Source):
    """Pieces of 10 bytes of `parent`, in an order of its own; `bad` ones raise, and `asked` counts."""

    def __init__(self, parent: Source, order: list[int], bad: dict[int, Exception]) -> None:
        self.parent = parent
        self.order = order
        self.bad = bad
        self.size = len(order) * 10
        self.asked = 0

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        self.check(offset, length)
        self.asked += 1
        end = offset + length
        while offset < end:
            piece, within = divmod(offset, 10)
            if piece in self.bad:
                raise self.bad[piece]
            take = min(10 - within, end - offset)
            for extent in self.parent.extents(self.order[piece] * 10 + within, take):
                shift = offset - (self.order[piece] * 10 + within)
                yield Extent(extent.offset + shift, extent.length, extent.source, extent.source_offset)
            offset += take


@pytest.fixture(params=[25, 6])
def window_bits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The usual windows, and ones so small that reads cross them."""
    bits: int = request.param
    monkeypatch.setattr(module, "_WINDOW_BITS", bits)
    monkeypatch.setattr(module, "_WINDOW", 1 << bits)
    return bits


def test_resolved_stack_reads_as_the_stack(window_bits: int) -> None:
    for seed in range(80):
        choice = random.Random(seed)
        source, want = random_stack(choice, choice.randrange(1, 4))
        check_whole(Resolved(source), want, 15)


def test_neighbours_are_joined() -> None:
    data = BytesSource(random.Random(1).randbytes(100))
    disk = Resolved(Patchwork(data, [0, 1, 2, 5, 6, 3], {}))
    assert [(e.offset, e.length, e.source_offset) for e in tiles(disk, 0, 60)] == [
        (0, 30, 0),
        (30, 20, 50),
        (50, 10, 30),
    ]
    zeros = Resolved(Patchwork(ZeroSource(100), [0, 7, 3], {}))
    assert [(e.length, e.source) for e in tiles(zeros, 0, 30)] == [(30, None)]


def test_damage_costs_only_the_reads_that_touch_it(window_bits: int) -> None:
    data = random.Random(1).randbytes(1000)
    for bad in (
        {3: Corrupt("made up")},
        {3: SourceError("made up")},
        {0: Corrupt("x"), 20: Corrupt("x"), 21: SourceError("")},
    ):
        disk = Resolved(Patchwork(BytesSource(data), list(range(30)), dict(bad)))
        for _ in range(2):
            for offset in range(0, 300, 5):
                touched = [piece for piece in bad if offset < piece * 10 + 10 and piece * 10 < offset + 8]
                if touched and offset + 8 <= 300:
                    with pytest.raises((Corrupt, SourceError)):
                        disk.read(offset, 8)
                elif offset + 8 <= 300:
                    assert disk.read(offset, 8) == data[offset : offset + 8]
        extents = []
        with pytest.raises((Corrupt, SourceError)):
            for extent in disk.extents(0, 300):
                extents.append(extent)
        assert sum(extent.length for extent in extents) == min(bad) * 10


def test_fault_of_a_moment_is_not_kept(window_bits: int) -> None:
    data = random.Random(1).randbytes(300)
    source = Patchwork(BytesSource(data), list(range(30)), {2: SourceError("for now")})
    disk = Resolved(source)
    with pytest.raises(SourceError):
        disk.read(0, 300)
    source.bad.clear()
    assert disk.read(0, 300) == data
    asked = source.asked
    assert disk.read(100, 50) == data[100:150]
    assert source.asked == asked


def test_mapping_is_asked_for_once(window_bits: int) -> None:
    source = Patchwork(BytesSource(bytes(range(1, 201))), list(range(20)), {})
    disk = Resolved(source)
    disk.read(0, 200)
    asked = source.asked
    for offset in range(190):
        disk.read(offset, 10)
        disk.read_into(offset, memoryview(bytearray(10)))
        list(disk.extents(offset, 10))
    assert source.asked == asked


def test_number_of_kept_extents_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WINDOW_BITS", 6)
    monkeypatch.setattr(module, "_WINDOW", 64)
    monkeypatch.setattr(module, "_MOST_EXTENTS", 20)
    order = random.Random(3).sample(range(100), 100)
    data = random.Random(1).randbytes(1000)
    want = b"".join(data[piece * 10 : piece * 10 + 10] for piece in order)
    disk = Resolved(Patchwork(BytesSource(data), order, {}))
    for _ in range(2):
        for at in range(0, 1000, 37):
            assert disk.read(at, min(37, 1000 - at)) == want[at : at + 37]
            assert sum(len(window.starts) for window in disk._windows.values()) <= 30


def test_leaf_fault_passes_and_retry_is_right() -> None:
    leaf = Faulty(b"z" * 100, lambda number: number == 1)
    disk = Resolved(Concat([leaf, BytesSource(b"y" * 100)]))
    with pytest.raises(SourceError, match="injected"):
        disk.read(50, 100)
    assert disk.read(50, 100) == b"z" * 50 + b"y" * 50


def test_file_cut_while_open_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10_000)
    leaf = FileSource.open(path)
    try:
        disk = Resolved(Concat([leaf]))
        assert disk.read(0, 10_000) == b"x" * 10_000
        with open(path, "r+b") as writer:
            writer.truncate(100)
        with pytest.raises(SourceError, match="truncated"):
            disk.read(50, 100)
        assert disk.read(0, 100) == b"x" * 100
    finally:
        leaf.close()
    with pytest.raises(SourceError):
        disk.read(0, 100)


def test_leaf_and_resolved_are_returned_as_they_are() -> None:
    leaf = BytesSource(b"")
    assert resolve(leaf) is leaf
    disk = resolve(Concat([leaf]))
    assert resolve(disk) is disk
    assert disk.read(0, 0) == b""
