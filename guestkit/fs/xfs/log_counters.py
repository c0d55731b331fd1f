"""The counters of the XFS superblock, which are kept in the allocation groups while the filesystem is mounted.

After a replay the kernel adds them up, and so the superblock below a reader holds them too.
"""

from __future__ import annotations

import struct

from guestkit.checksum import crc32c
from guestkit.errors import Corrupt, SourceError
from guestkit.fs.base import Problems
from guestkit.fs.xfs.superblock import Superblock
from guestkit.source import Source

_MOST_GROUPS = 1 << 14  # two reads each
_COUNTERS = slice(128, 152)  # sb_icount, sb_ifree, sb_fdblocks
_CRC = 224


def current_superblock(source: Source, sup: Superblock, problems: Problems) -> bytes | None:
    """The sector with the superblock of a replayed filesystem, counters added up; None when that cannot be told."""
    sector = bytearray(source.read(0, sup.sector_size))
    version = int.from_bytes(sector[100:102], "big") & 0xF
    size, blocks, group_size, groups = (
        int.from_bytes(sector[at : at + length], "big") for at, length in ((4, 4), (8, 8), (84, 4), (88, 4))
    )
    if sector[:4] != b"XFSB" or version != sup.version or size != sup.block_size or not sup.lazy_count:
        return None
    if groups > _MOST_GROUPS or group_size != sup.ag_blocks:
        return None
    inodes = free_inodes = free = 0
    for group in range(groups):
        start = group * group_size * size
        try:
            both = source.read(start + sup.sector_size, 2 * sup.sector_size)
        except (Corrupt, SourceError) as error:
            problems.add(f"allocation group {group}", error)
            return None
        if both[:4] != b"XAGF" or both[sup.sector_size : sup.sector_size + 4] != b"XAGI":
            problems.add(f"allocation group {group}", "its headers are damaged: free space cannot be told")
            return None
        listed, free_blocks, _, trees = struct.unpack_from(">4I", both, 48)
        count, _, _, unused = struct.unpack_from(">4I", both, sup.sector_size + 16)
        inodes += count
        free_inodes += unused
        free += listed + free_blocks + trees
    if free > blocks or free_inodes > inodes:
        problems.add("allocation groups", "they count more that is free than there is")
        return None
    sector[_COUNTERS] = struct.pack(">3Q", inodes, free_inodes, free)
    if version == 5:
        sector[_CRC : _CRC + 4] = bytes(4)
        sector[_CRC : _CRC + 4] = (crc32c(sector) ^ 0xFFFFFFFF).to_bytes(4, "little")
    return bytes(sector)
