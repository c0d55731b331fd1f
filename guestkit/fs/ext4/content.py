"""What a file holds: the Source of a mapped file, and data that stands in the inode itself.

Spec: Documentation/filesystems/ext4/ifork.rst and inlinedata.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from guestkit.errors import Corrupt
from guestkit.fs.ext4.blockmap import BlockMap
from guestkit.fs.ext4.blocks import Blocks
from guestkit.fs.ext4.extents import ExtentTree
from guestkit.fs.ext4.inode import EXTENTS_FL, INLINE_DATA_FL, Inode, InodeTable
from guestkit.fs.ext4.xattr import Attribute
from guestkit.mapped import Contiguous, mapped
from guestkit.source import BytesSource, Concat, Extent, Source, ZeroSource

BLOCK_BYTES = 60  # of i_block

_one_extent = struct.Struct("<HHHH4xIHHI").unpack_from  # a header and the extent behind it

Mapping = ExtentTree | BlockMap


def mapping(blocks: Blocks, table: InodeTable, inode: Inode) -> Mapping:
    """Return the map of an inode's blocks. Raises: Corrupt (EUCLEAN) when its root is damaged."""
    if inode.flags & EXTENTS_FL:
        seed = table.seed(inode) if blocks.superblock.metadata_csum else 0
        return ExtentTree(blocks, inode.raw[40:100], inode.ino, seed)
    return BlockMap(blocks, inode.raw[40:100])


class MappedFile(Source):
    """A file's bytes: each block where the map says, zeros where it says nothing. `size` is i_size."""

    __slots__ = ("_blocks", "_map", "_where", "size")

    def __init__(self, blocks: Blocks, map: Mapping, ino: int, size: int) -> None:
        self._blocks = blocks
        self._map = map
        self._where = ino
        self.size = size

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        self.check(offset, length)
        if not length:
            return
        size = self._blocks.block_size
        end = offset + length
        try:
            runs = self._map.runs(offset // size, (end + size - 1) // size)
            yield from mapped(self._blocks.device, runs, size, offset, end, data=1)
        except Corrupt as error:
            error.within(f"inode {self._where}")
            raise


def file_source(blocks: Blocks, table: InodeTable, inode: Inode) -> Source:
    """Return the bytes of a file that stands in blocks. Raises: Corrupt (EUCLEAN) when its map's root is damaged."""
    size = inode.size
    if inode.flags & EXTENTS_FL:
        magic, entries, most, depth, logical, length, high, low = _one_extent(inode.raw, 40)
        if entries == 1 and depth == 0 and logical == 0 and magic == 0xF30A and most == 4:
            start = high << 32 | low
            block = blocks.block_size
            if 0 < length <= 32768 and length * block >= size and blocks.first < start <= blocks.count - length:
                return Contiguous(blocks.device, start * block, size)
    return MappedFile(blocks, mapping(blocks, table, inode), inode.ino, size)


def is_inline(inode: Inode) -> bool:
    """Whether the inode itself holds its data."""
    return bool(inode.flags & INLINE_DATA_FL)


def inline_data(inode: Inode, body: list[Attribute]) -> bytes:
    """Return all bytes that an inline inode has room for: i_block, then the value of system.data.

    `body`: the attributes in the inode's record. Raises: Corrupt (EUCLEAN) when system.data is not there.
    """
    for attribute in body:
        if attribute.kind == 7 and attribute.name == b"data":
            if attribute.inum:
                raise Corrupt("inline data", "e_value_inum", found=attribute.inum, expected=0)
            return inode.i_block + attribute.value
    raise Corrupt("inline data", "system.data", expected="an attribute in the inode")


def inline_source(data: bytes, size: int) -> Source:
    """`data` cut to `size` bytes, or continued with zeros where the file was made longer without writing."""
    if size <= len(data):
        return BytesSource(data[:size])
    return Concat([BytesSource(data), ZeroSource(size - len(data))])
