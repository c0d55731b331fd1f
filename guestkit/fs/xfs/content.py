"""What a file holds: the Source of a regular file, and the target of a symbolic link.

Spec: XFS Algorithms & Data Structures, "Data Extents" and "Symbolic Links".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from guestkit.errors import Corrupt
from guestkit.fs.extents import Extents
from guestkit.fs.xfs.blocks import REMOTE, Blocks
from guestkit.fs.xfs.extents import data_map
from guestkit.fs.xfs.inode import EXTENTS, LOCAL, Inode
from guestkit.layout import Layout
from guestkit.mapped import Contiguous, mapped
from guestkit.source import Extent, Source, ZeroSource

MAX_LINK = 1024  # bytes of a target
_extent = struct.Struct(">QQ").unpack_from
_LINK_MAPS = 3  # extents that a target may be in
REMOTE_HEADER = Layout("xfs_dsymlink_hdr", 56, ">", magic=(0, "4s"), offset=(4, "I"), bytes=(8, "I"))


class MappedFile(Source):
    """A file's bytes: each block where the map says, zeros where it says nothing. `size` is di_size."""

    __slots__ = ("_device", "_map", "_unit", "_where", "size")

    def __init__(self, blocks: Blocks, map: Extents, ino: int, size: int) -> None:
        self._device = blocks.device
        self._unit = blocks.block_size
        self._map = map
        self._where = ino
        self.size = size

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        self.check(offset, length)
        if not length:
            return
        unit = self._unit
        end = offset + length
        try:
            runs = self._map.runs(offset // unit, (end + unit - 1) // unit)
            yield from mapped(self._device, runs, unit, offset, end, data=1)
        except Corrupt as error:
            error.within(f"inode {self._where}")
            raise


def file_source(blocks: Blocks, inode: Inode) -> Source:
    """Return the bytes of a regular file. Raises: Corrupt (EUCLEAN) when its map's root is damaged."""
    size = inode.size
    if inode.format == EXTENTS:
        if not inode.data_count:
            return ZeroSource(size)
        core = inode.core
        if inode.data_count == 1 and core + 16 <= (inode.attr_start or core + 16) <= len(inode.raw):
            high, low = _extent(inode.raw, core)
            count = low & 0x1FFFFF
            if (
                not high >> 9 and count and count << blocks.superblock.block_log >= size
            ):  # it is written, and begins the file
                physical = blocks.number(high << 43 | low >> 21, count)
                return Contiguous(blocks.device, physical << blocks.superblock.block_log, size)
    return MappedFile(blocks, data_map(blocks, inode), inode.ino, size)


def link_target(blocks: Blocks, inode: Inode) -> bytes:
    """Return a symbolic link's target. Raises: Corrupt (EUCLEAN)."""
    size = inode.size
    if not 0 < size <= MAX_LINK:
        raise Corrupt("symlink", "di_size", found=size, expected=f"1 to {MAX_LINK}")
    if inode.format == LOCAL:
        fork = inode.data_fork
        if size > len(fork):
            raise Corrupt("symlink", "di_size", found=size, expected=f"at most {len(fork)} in the inode")
        return _whole(fork[:size])
    target = b""
    room = blocks.block_size - (REMOTE_HEADER.size if blocks.crc else 0)
    most = -(-size // room)
    for index, (logical, physical, count) in enumerate(data_map(blocks, inode).runs(0, most)):
        if len(target) == size:
            break
        if not physical:
            raise Corrupt("symlink", "block", found=logical, expected="no hole")
        if index == _LINK_MAPS:
            raise Corrupt("symlink", "extents", found=index + 1, expected=f"at most {_LINK_MAPS}")
        buf = blocks.read(physical, count)
        if blocks.crc:  # one header an extent, not one a block
            buf = _remote(blocks, buf, physical, inode.ino, len(target))
        target += buf[: size - len(target)]
    if len(target) != size:
        raise Corrupt("symlink", "length", found=len(target), expected=size)
    return _whole(target)


def _whole(target: bytes) -> bytes:
    if b"\0" in target:
        raise Corrupt("symlink", "target", found=target, expected="no NUL")
    return target


def _remote(blocks: Blocks, buf: bytes, block: int, ino: int, offset: int) -> bytes:
    magic, at, length = REMOTE_HEADER.unpack_from(buf)
    if magic != b"XSLM":
        raise Corrupt("symlink block", "sl_magic", found=magic, expected=b"XSLM")
    blocks.verify(buf, REMOTE, block, ino, "symlink block")
    if at != offset:
        raise Corrupt("symlink block", "sl_offset", found=at, expected=offset)
    if length > len(buf) - 56:
        raise Corrupt("symlink block", "sl_bytes", found=length, expected=f"at most {len(buf) - 56}")
    return buf[56 : 56 + length]
