"""Sources and their arithmetic: bytes, extents and errors of the mapping layers, alone and stacked."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from imagefiles import Faulty, content

from guestkit.errors import (
    AccessRefused,
    IsADirectory,
    NotFound,
    SourceError,
    WouldBlock,
)
from guestkit.source import (
    BytesSource,
    Concat,
    Extent,
    FileSource,
    NoFiles,
    Overlay,
    Patch,
    Slice,
    Source,
    ZeroSource,
    patience,
)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[FileSource]:
    path = tmp_path / "file"
    path.write_bytes(random.Random(1).randbytes(300_000))
    source = FileSource.open(path)
    yield source
    source.close()


def tiles(source: Source, offset: int, length: int) -> list[Extent]:
    """The extents of a range, after they were found to tile it."""
    found = list(source.extents(offset, length))
    at = offset
    for extent in found:
        assert extent.offset == at
        assert extent.length > 0
        at += extent.length
    assert at == offset + length
    return found


def bytes_by_extents(source: Source, offset: int, length: int) -> bytes:
    parts = []
    for extent in tiles(source, offset, length):
        leaf = extent.source
        parts.append(bytes(extent.length) if leaf is None else leaf.read(extent.source_offset, extent.length))
    return b"".join(parts)


def check_whole(source: Source, want: bytes, rounds: int = 100) -> None:
    """Every way to read `source` gives the bytes of `want`, and nothing outside can be read."""
    assert source.size == len(want)
    choice = random.Random(len(want))
    for number in range(rounds):
        offset = choice.randrange(len(want) + 1)
        length = choice.randrange(len(want) - offset + 1) if number else 0
        part = want[offset : offset + length]
        assert source.read(offset, length) == part
        assert bytes_by_extents(source, offset, length) == part
        into = bytearray(length)
        source.read_into(offset, memoryview(into))
        assert into == part
    for offset, length in ((-1, 1), (0, len(want) + 1), (len(want), 1), (len(want) + 1, 0), (0, -1), (1 << 70, 1)):
        with pytest.raises(SourceError):
            list(source.extents(offset, length))
        if length >= 0:
            with pytest.raises(SourceError):
                source.read(offset, length)
            if length < 1 << 20:
                with pytest.raises(SourceError):
                    source.read_into(offset, memoryview(bytearray(length)))


def random_stack(choice: random.Random, depth: int) -> tuple[Source, bytes]:
    """A source of random layers and its bytes."""
    if depth == 0:
        data = choice.choice([choice.randbytes(choice.randrange(1, 200)), bytes(choice.randrange(1, 200))])
        return (BytesSource(data) if any(data) else ZeroSource(len(data))), data
    kind = choice.randrange(3)
    if kind == 0:
        parts = [random_stack(choice, depth - 1) for _ in range(choice.randrange(1, 4))]
        return Concat([part for part, _ in parts]), b"".join(data for _, data in parts)
    parent, data = random_stack(choice, depth - 1)
    if kind == 1:
        start = choice.randrange(len(data) + 1)
        size = choice.randrange(len(data) - start + 1)
        return Slice(parent, start, size), data[start : start + size]
    at = 0
    patches = []
    changed = bytearray(data)
    other, bytes_of_other = random_stack(choice, depth - 1)
    while True:
        at += choice.randrange(40)
        room = min(len(data) - at, len(bytes_of_other))
        if room <= 0:
            break
        length = choice.randrange(room + 1)
        from_ = choice.randrange(len(bytes_of_other) - length + 1)
        patches.append(Patch(at, length, other, from_))
        changed[at : at + length] = bytes_of_other[from_ : from_ + length]
        at += length
    return Overlay(parent, patches), bytes(changed)


def test_stacks_of_layers_read_as_the_bytes_they_are_made_of() -> None:
    for seed in range(150):
        choice = random.Random(seed)
        source, want = random_stack(choice, choice.randrange(4))
        check_whole(source, want, 15)


def test_file_reads_its_bytes(file: FileSource) -> None:
    check_whole(file, random.Random(1).randbytes(300_000), 30)


def test_a_stretch_without_holes_is_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as out:
        out.write(b"x" * (1 << 20))
        out.truncate(3 << 20)
        out.seek(2 << 20)
        out.write(b"y" * (1 << 20))
    source = FileSource.open(path)
    asked: list[int] = []
    seek = os.lseek

    def counted(fd: int, offset: int, whence: int) -> int:
        asked.append(offset)
        return seek(fd, offset, whence)

    monkeypatch.setattr(os, "lseek", counted)
    step = 1 << 16
    found = [extent for at in range(0, 3 << 20, step) for extent in source.extents(at, step)]
    assert [extent.source is None for extent in found] == [at in range(16, 32) for at in range(48)]
    assert [extent.offset for extent in found] == [at * step for at in range(48)]
    assert len(asked) == 2 + 16 + 2  # the first stretch, each piece of the hole, the second stretch
    assert [extent.source is None for extent in source.extents(0, 3 << 20)] == [False, True, False]
    source.close()


def test_holes_of_a_file_are_extents_without_a_source(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    want = bytearray(8 << 20)
    with open(path, "wb") as writer:
        writer.truncate(len(want))
        for at in (1 << 20, 3 << 20, 7 << 20):
            writer.seek(at)
            writer.write(b"x" * 65536)
            want[at : at + 65536] = b"x" * 65536
    source = FileSource.open(path)
    try:
        stored = [(e.offset, e.length) for e in tiles(source, 0, source.size) if e.source]
        assert stored == [(1 << 20, 65536), (3 << 20, 65536), (7 << 20, 65536)]
        assert content(source) == want
        assert [e.source for e in tiles(source, 100, 1000)] == [None]
        assert [e.length for e in tiles(source, (1 << 20) + 100, 1000) if e.source] == [1000]
    finally:
        source.close()


def test_file_cut_while_open_is_an_error_and_never_short(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10_000)
    source = FileSource.open(path)
    try:
        os.truncate(path, 5000)
        assert source.read(0, 5000) == b"x" * 5000
        for _ in range(2):
            with pytest.raises(SourceError, match="truncated"):
                source.read(4000, 2000)
            with pytest.raises(SourceError, match="truncated"):
                source.read_into(4000, memoryview(bytearray(2000)))
    finally:
        source.close()


def test_closed_file_is_an_error(file: FileSource) -> None:
    file.close()
    file.close()
    with pytest.raises(SourceError):
        file.read(0, 1)


def test_what_is_no_file_is_refused_by_kind(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(IsADirectory):
        FileSource.open(tmp_path)
    with pytest.raises(SourceError, match="neither"):
        FileSource.open(tmp_path / "fifo")
    with pytest.raises(SourceError, match="neither"):
        FileSource.open("/dev/null")
    with pytest.raises(NotFound):
        FileSource.open(tmp_path / "nothing")


def test_thread_that_may_not_wait_reads_what_is_in_memory(file: FileSource) -> None:
    want = file.read(1000, 5000)
    patience.may_block = False
    try:
        assert file.read(1000, 5000) == want
    except WouldBlock:  # the host may have dropped the pages
        pass
    finally:
        patience.may_block = True


def test_slice_beyond_its_parent_reads_what_is_there() -> None:
    source = Slice(BytesSource(b"x" * 1000), 600, 1000)
    assert source.read(0, 400) == b"x" * 400
    with pytest.raises(SourceError, match="truncated"):
        source.read(399, 2)
    with pytest.raises(SourceError, match="truncated"):
        source.read(900, 1)
    assert source.read(1000, 0) == b""
    beyond = Slice(BytesSource(b"x"), 50, 10)
    with pytest.raises(SourceError):
        beyond.read(0, 1)


def test_overlay_refuses_patches_that_overlap_or_stick_out() -> None:
    base = ZeroSource(100)
    patch = BytesSource(b"x" * 100)
    for patches in ([(0, 10), (5, 10)], [(20, 5), (0, 5)], [(95, 6)]):
        with pytest.raises(ValueError):
            Overlay(base, [Patch(at, length, patch, 0) for at, length in patches])


def test_damage_in_one_layer_costs_only_what_touches_it() -> None:
    bad = Faulty(b"y" * 100, lambda number: True)
    source = Concat([BytesSource(b"a" * 100), bad, BytesSource(b"c" * 100)])
    assert source.read(0, 100) == b"a" * 100
    assert source.read(200, 100) == b"c" * 100
    with pytest.raises(SourceError, match="injected"):
        source.read(50, 200)


def test_no_files_refuses_every_name() -> None:
    with pytest.raises(AccessRefused, match="anything"):
        NoFiles().open("anything", "raw")
