"""Blocks: a filesystem's blocks by number, within bounds, and the part of the cache that belongs to it."""

from __future__ import annotations

from guestkit.errors import Corrupt
from guestkit.fs.ext4.superblock import Superblock
from guestkit.limits import Limits
from guestkit.source import Source


class Blocks:
    """Reads blocks of `device` by number; several threads may."""

    __slots__ = ("block_size", "cache", "count", "device", "first", "superblock", "token")

    def __init__(self, device: Source, superblock: Superblock, limits: Limits) -> None:
        self.device = device
        self.superblock = superblock
        self.block_size = superblock.block_size
        self.count = superblock.blocks_count
        self.first = superblock.first_data_block
        self.cache = limits.cache
        self.token = limits.token()

    def check(self, block: int, count: int = 1) -> None:
        """Raises: Corrupt (EUCLEAN) unless the blocks can hold what an inode names."""
        if block <= self.first or block + count > self.count:
            raise Corrupt("block number", found=block, expected=f"{self.first + 1} to {self.count - 1}")

    def read(self, block: int, count: int = 1) -> bytes:
        """Return `count` blocks. Raises: Corrupt when they lie outside the filesystem; SourceError."""
        self.check(block, count)
        size = self.block_size
        return self.device.read(block * size, count * size)
