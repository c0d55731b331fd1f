"""Opening costs the same whatever the size: an MFT of a million records and the FAT of 2 TiB are not read whole."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fatwriter
import pytest
from recipes import ntfs as recipe
from recipes.host import run

from guestkit import Guest
from guestkit.fs.base import FileSystem
from guestkit.fs.exfat import open as open_exfat
from guestkit.fs.fat import open as open_fat
from guestkit.fs.ntfs import Ntfs
from guestkit.fs.ntfs import open as open_ntfs
from guestkit.limits import Limits
from guestkit.source import FileSource, Leaf, Source

RECORDS = 1_050_000
SECONDS = 0.3  # of processor time, which another's work does not change
Open = Callable[..., FileSystem]


class Counted(Leaf):
    """A host file that counts what is read of it, holes too."""

    def __init__(self, path: Path) -> None:
        self.file = FileSource.open(path)
        self.size = self.file.size
        self.bytes = 0

    def read_into(self, offset: int, buf: memoryview) -> None:
        self.bytes += len(buf)
        self.file.read_into(offset, buf)


@pytest.fixture
def counted() -> Iterator[Callable[[Path], Counted]]:
    made: list[Counted] = []

    def make(path: Path) -> Counted:
        made.append(Counted(path))
        return made[-1]

    yield make
    for each in made:
        each.file.close()


def opened(open: Open, source: Source) -> FileSystem:
    """The filesystem, opened in time; once before, for what is imported."""
    open([source], Limits(), {})
    began = time.process_time()
    fs = open([source], Limits(), {})
    assert time.process_time() - began < SECONDS
    return fs


def first_use_in_time(path: Path) -> None:
    """Detection, opening and the first listing of the root, as a Guest does them."""
    with Guest() as guest:
        began = time.process_time()
        guest.add(path, format="raw")
        fs = guest.filesystem("/dev/sda")
        list(fs.scan_stat(fs.root))
        assert time.process_time() - began < SECONDS


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NTFS by mkntfs, its table grown to a million records in sixty pieces; the last one is a copy of $Extend's."""
    path = tmp_path_factory.mktemp("huge") / "ntfs.img"
    with path.open("wb") as file:
        file.truncate(16 << 30)
    run("mkntfs", "-F", "-Q", "-q", "-c", "4096", path)
    raw = recipe.read_record(path, 0)
    parts = recipe.attributes(raw)
    index = next(number for number, part in enumerate(parts) if part[:4] == b"\x80\0\0\0")
    ((lcn, clusters),) = recipe._runs(parts[index])
    runs = [(lcn, clusters)]
    left = RECORDS // 4 - clusters
    piece = -(-left // 59)
    place = 1 << 20  # clusters: 4 GiB in, where nothing is
    while left > 0:
        runs.append((place, min(piece, left)))
        place += piece + 10
        left -= piece
    size = RECORDS // 4 * 4096
    made = bytearray(recipe._nonresident(parts[index], 0, runs, struct.unpack_from("<H", parts[index], 14)[0]))
    struct.pack_into("<QQQ", made, 40, size, size, size)
    parts[index] = bytes(made)
    recipe.write_record(path, 0, recipe.with_attributes(raw, parts))
    extend = _raw_record(path, 11)
    struct.pack_into("<I", extend, 44, RECORDS - 1)
    last = runs[-1]
    recipe.edit(path, (last[0] + last[1]) * 4096 - 1024, bytes(extend))
    return path


def _raw_record(path: Path, number: int) -> bytearray:
    with path.open("rb") as file:
        file.seek(recipe.record_places(path, number)[0])
        return bytearray(file.read(1024))


@pytest.mark.tool("mkntfs")
def test_a_table_of_a_million_records_is_not_read_at_opening(million: Path, counted: Callable[[Path], Counted]) -> None:
    source = counted(million)
    fs = opened(open_ntfs, source)
    assert isinstance(fs, Ntfs)
    assert fs.details()["records"] == RECORDS
    assert source.bytes < 4 << 20  # both openings
    before = source.bytes
    assert fs.stat(RECORDS - 1).mode & 0xF000 == 0x4000
    assert source.bytes - before < 1 << 20
    list(fs.scan_stat(fs.root))
    assert source.bytes - before < 2 << 20


@pytest.mark.tool("mkntfs")
def test_the_first_use_of_a_million_records_is_quick(million: Path) -> None:
    first_use_in_time(million)


def fat32(path: Path) -> None:
    """Two tebibytes less a sector, the most that FAT32 has, of clusters of 32 KiB; a file has the last two."""
    sectors, per, reserved = (1 << 32) - 1, 64, 32
    clusters = (sectors - reserved) * 128 // (per * 128 + 2)
    tables = -(-(clusters + 2) * 4 // 512)
    clusters = (sectors - reserved - 2 * tables) // per
    head = bytearray(512)
    head[:3], head[510:] = b"\xeb\x58\x90", b"\x55\xaa"
    struct.pack_into("<8sHBHBHHBH", head, 3, b"mkfs.fat", 512, per, reserved, 2, 0, 0, 0xF8, 0)
    struct.pack_into("<III", head, 28, 0, sectors, tables)
    struct.pack_into("<HHIH", head, 40, 0, 0, 2, 1)
    struct.pack_into("<BBBI", head, 64, 0x80, 0, 0x29, 0x1234ABCD)
    head[71:90] = b"NO NAME    FAT32   "
    info = bytearray(512)
    struct.pack_into("<I", info, 0, 0x41615252)
    struct.pack_into("<IIII", info, 484, 0x61417272, clusters - 3, 5, 0)
    struct.pack_into("<I", info, 508, 0xAA550000)
    data = (reserved + 2 * tables) * 512
    last = clusters  # the numbers begin at 2, so the last is clusters + 1
    with path.open("wb") as file:
        file.truncate(sectors * 512)
        file.write(head)
        file.write(info)
        for table in range(2):
            start = (reserved + table * tables) * 512
            file.seek(start)
            file.write(struct.pack("<III", 0x0FFFFFF8, 0x0FFFFFFF, 0x0FFFFFFF))
            file.seek(start + last * 4)
            file.write(struct.pack("<II", last + 1, 0x0FFFFFFF))
        file.seek(data)
        file.write(fatwriter.short(b"FAR     TXT", last, 40_000))
        file.seek(data + (last - 2) * 32768)
        file.write(b"far".ljust(32768, b"x") + b"y" * 7232)


def test_the_table_of_two_tebibytes_is_not_read_at_opening(tmp_path: Path, counted: Callable[[Path], Counted]) -> None:
    path = tmp_path / "fat.img"
    fat32(path)
    source = counted(path)
    fs = opened(open_fat, source)
    assert source.bytes < 1 << 20
    (entry,) = fs.scan(fs.root)
    file = fs.open(entry.ino)
    assert (entry.name, file.size) == (b"FAR.TXT", 40_000)
    assert file.read(0, 4) == b"farx"
    assert file.read(32760, 16) == b"x" * 8 + b"y" * 8
    figures = fs.statvfs()  # FSInfo's, the volume being clean
    assert figures.blocks - figures.bfree == 3
    assert source.bytes < 2 << 20
    first_use_in_time(path)


@pytest.mark.tool("mkfs.exfat")
def test_the_bitmap_of_two_tebibytes_is_not_read_at_opening(tmp_path: Path, counted: Callable[[Path], Counted]) -> None:
    path = tmp_path / "exfat.img"
    with path.open("wb") as file:
        file.truncate(2 << 40)
    run("mkfs.exfat", "-c", "32K", path)
    source = counted(path)
    fs = opened(open_exfat, source)
    assert list(fs.scan(fs.root)) == []
    assert source.bytes < 1 << 20
    first_use_in_time(path)
