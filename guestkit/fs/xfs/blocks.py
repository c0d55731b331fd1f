"""Blocks: a filesystem's blocks by number, within bounds, and the check of what a block of metadata says of itself.

A block number here counts from the start of the data device; the fsblocks on disk, which hold the allocation group in
their high bits, are turned into it where they are decoded.
Spec: XFS Algorithms & Data Structures, "Metadata Integrity" (checksum, UUID, owner, own place).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from guestkit.checksum import crc32c_extend
from guestkit.errors import Corrupt
from guestkit.fs.xfs.superblock import Superblock
from guestkit.limits import Limits
from guestkit.source import Source

_ZEROS = bytes(4)


class Header(NamedTuple):
    """Where a kind of metadata block of version 5 keeps what tells that it is the one that was looked for."""

    crc: int
    place: int
    uuid: int
    owner: int


DIRECTORY = Header(crc=4, place=8, uuid=24, owner=40)
DA = Header(crc=12, place=16, uuid=32, owner=48)  # nodes and leaves of directories and attributes
REMOTE = Header(crc=12, place=40, uuid=16, owner=32)  # attribute values and symlink targets
BMAP = Header(crc=64, place=24, uuid=40, owner=56)

_number = struct.Struct(">Q").unpack_from


class Blocks:
    """Reads blocks of `device` by number; several threads may."""

    __slots__ = ("_sectors", "_uuid", "block_size", "cache", "count", "crc", "device", "extend", "superblock", "token")

    def __init__(self, device: Source, superblock: Superblock, limits: Limits) -> None:
        self.device = device
        self.superblock = superblock
        self.block_size = superblock.block_size
        self.count = superblock.data_blocks
        self.crc = superblock.has_crc
        self.cache = limits.cache
        self.token = limits.token()
        self.extend = crc32c_extend()
        self._uuid = superblock.meta_uuid
        self._sectors = superblock.block_log - 9

    def number(self, fsblock: int, count: int = 1) -> int:
        """The block number of `fsblock`. Raises: Corrupt unless `count` blocks from it lie in its allocation group."""
        sup = self.superblock
        group, block = fsblock >> sup.ag_block_log, fsblock & ((1 << sup.ag_block_log) - 1)
        found = group * sup.ag_blocks + block
        if block + count > sup.ag_blocks or found + count > self.count or not found:
            raise Corrupt("fsblock", "number", found=fsblock, expected=f"{count} blocks inside an allocation group")
        return found

    def read(self, block: int, count: int = 1) -> bytes:
        """Return `count` blocks. Raises: Corrupt when they lie outside the filesystem; SourceError."""
        if block <= 0 or block + count > self.count:
            raise Corrupt("block number", found=block, expected=f"1 to {self.count - 1}")
        size = self.block_size
        return self.device.read(block * size, count * size)

    def verify(self, buf: bytes, header: Header, block: int, owner: int, what: str) -> None:
        """Check that `buf` is the block at number `block` that belongs to inode `owner`; version 5 alone.

        Raises: Corrupt (EUCLEAN).
        """
        crc, place, uuid, owned = header
        extend = self.extend
        found = extend(extend(extend(0, buf[:crc]), _ZEROS), buf[crc + 4 :])
        stored = int.from_bytes(buf[crc : crc + 4], "little")
        if found != stored:
            raise Corrupt(what, "crc", found=stored, expected=found)
        if buf[uuid : uuid + 16] != self._uuid:
            raise Corrupt(what, "uuid", found=buf[uuid : uuid + 16].hex(), expected=self._uuid.hex())
        (sector,) = _number(buf, place)
        if sector != block << self._sectors:
            raise Corrupt(what, "blkno", found=sector, expected=block << self._sectors)
        (inode,) = _number(buf, owned)
        if inode != owner:
            raise Corrupt(what, "owner", found=inode, expected=owner)
