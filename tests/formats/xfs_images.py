"""Fixtures of XFS in memory, edited so that their checksums hold again."""

from __future__ import annotations

import lzma
import struct
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import google_crc32c

from guestkit.fs.xfs import open as open_xfs
from guestkit.fs.xfs.blocks import Header
from guestkit.fs.xfs.filesystem import Xfs
from guestkit.limits import Limits
from guestkit.source import BytesSource

DATA = Path(__file__).parent.parent / "data" / "xfs"
INODE_CRC, SUPER_CRC = 100, 224


@cache
def fixture(name: str) -> bytes:
    return lzma.decompress((DATA / f"{name}.img.xz").read_bytes())


def seal(data: bytearray, start: int, size: int, crc: int) -> None:
    """Put the checksum of `size` bytes at `start` where it belongs."""
    data[start + crc : start + crc + 4] = bytes(4)
    found = google_crc32c.value(bytes(data[start : start + size]))
    data[start + crc : start + crc + 4] = found.to_bytes(4, "little")


def reader(image: bytes | bytearray | BytesSource, options: Mapping[str, str] | None = None) -> Xfs:
    source = image if isinstance(image, BytesSource) else BytesSource(bytes(image))
    return open_xfs([source], Limits(decode_threads=0), options or {})


class Image:
    """A fixture that can be edited; `fs` reads it as it was, `open()` as it is."""

    def __init__(self, name: str = "xfs") -> None:
        self.data = bytearray(fixture(name))
        self.fs = reader(fixture(name))
        self.sup = self.fs.superblock

    def open(self, options: Mapping[str, str] | None = None) -> Xfs:
        return reader(self.data, options)

    def ino(self, path: str) -> int:
        found = self.fs.root
        for part in path.encode().split(b"/") if path else ():
            found = self.fs.lookup(found, part)
        return found

    def inode(self, path: str | int, *edits: tuple[int, bytes]) -> int:
        """Edit an inode's record; returns its place."""
        at = self.sup.inode_offset(self.ino(path) if isinstance(path, str) else path)
        for offset, value in edits:
            self.data[at + offset : at + offset + len(value)] = value
        if self.sup.has_crc:
            seal(self.data, at, self.sup.inode_size, INODE_CRC)
        return at

    def fork(self, path: str) -> int:
        """Where in an inode's record its data fork stands."""
        return self.fs.table.read(self.ino(path)).core

    def attr_fork(self, path: str) -> int:
        return self.fs.table.read(self.ino(path)).attr_start

    def block(self, block: int, header: Header, *edits: tuple[int, bytes], count: int = 1) -> None:
        """Edit a block of metadata of `count` filesystem blocks."""
        size = self.sup.block_size
        at = block * size
        for offset, value in edits:
            offset %= count * size
            self.data[at + offset : at + offset + len(value)] = value
        if self.sup.has_crc:
            seal(self.data, at, count * size, header.crc)

    def bytes(self, block: int) -> bytes:
        size = self.sup.block_size
        return bytes(self.data[block * size : (block + 1) * size])

    def superblock(self, *edits: tuple[int, bytes]) -> bytearray:
        for offset, value in edits:
            self.data[offset : offset + len(value)] = value
        if self.data[101] & 0xF == 5:
            seal(self.data, 0, self.sup.sector_size, SUPER_CRC)
        return self.data

    def incompat(self, bits: int) -> bytearray:
        return self.superblock((216, u32(self.sup.incompat | bits)))

    def blocks(self, path: str, start: int = 0, end: int = 1 << 40, *, attr: bool = False) -> list[int]:
        """The blocks of a file's fork that stand somewhere, in order."""
        from guestkit.fs.xfs.extents import attr_map, data_map

        inode = self.fs.table.read(self.ino(path))
        runs = (attr_map if attr else data_map)(self.fs.blocks, inode).runs(start, end)
        return [physical + at for _, physical, count in runs if physical for at in range(count)]

    def fsblock(self, block: int) -> int:
        group, within = divmod(block, self.sup.ag_blocks)
        return group << self.sup.ag_block_log | within


def u16(value: int) -> bytes:
    return struct.pack(">H", value)


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def u64(value: int) -> bytes:
    return struct.pack(">Q", value)


def extent(logical: int, fsblock: int, count: int, *, unwritten: bool = False) -> bytes:
    return struct.pack(">QQ", unwritten << 63 | logical << 9 | fsblock >> 43, (fsblock << 21 | count) & (1 << 64) - 1)
