"""Owners of extent B+trees that changed hands: what an exchange of two inodes' extents leaves to the log's replay.

The exchange (xfs_fsr) swaps the roots. The blocks below name the inode that owns them; the log says only that they
are to be changed, not with what. Spec: XFS_ILOG_DOWNER and XFS_ILOG_AOWNER in fs/xfs/libxfs/xfs_log_format.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from guestkit.checksum import crc32c
from guestkit.errors import Corrupt, SourceError
from guestkit.fs.base import Problems
from guestkit.fs.xfs.superblock import Superblock
from guestkit.source import BytesSource, Patch, Source

DOWNER, AOWNER = 0x200, 0x400
_CORE, _HEADER = 176, 72
_BTREE = 3
_MOST_LEVELS = 9
_MOST_BLOCKS = 1 << 16  # of all inodes
_OWNER, _CRC = slice(56, 64), slice(64, 68)


def owner_patches(source: Source, sup: Superblock, owners: Mapping[int, int], problems: Problems) -> list[Patch]:
    """The patches that make `owners` (inode -> forks) own the blocks of their trees; `source` is replayed."""
    found: dict[int, Patch] = {}
    left = _MOST_BLOCKS
    for ino, forks in owners.items():
        place = sup.inode_offset(ino)
        if (
            sup.version != 5
            or place + sup.inode_size > source.size
            or not sup.has_fsblock(ino >> sup.inodes_per_block_log)
        ):
            continue
        try:
            inode = source.read(place, sup.inode_size)
            if inode[:2] != b"IN" or not any(inode[2:4]):  # freed since
                continue
            for block, data in _blocks(source, sup, inode, forks):
                left -= 1
                if left < 0:
                    raise Corrupt("log", "extents that were exchanged", found="more blocks than can be looked at")
                if int.from_bytes(data[_OWNER], "big") != ino:
                    fixed = ino.to_bytes(8, "big")
                    crc = crc32c(data[:56] + fixed + bytes(4) + data[68:]) ^ 0xFFFFFFFF
                    at = sup.fsblock_offset(block) + 56
                    found[at] = Patch(at, 12, BytesSource(fixed + crc.to_bytes(4, "little")), 0)
        except (Corrupt, SourceError) as error:
            problems.add(f"log, inode {ino}", error)
    return [found[at] for at in sorted(found)]


def _blocks(source: Source, sup: Superblock, inode: bytes, forks: int) -> Iterator[tuple[int, bytes]]:
    """Yield (fsblock, bytes) of the sound blocks of the trees of an inode's `forks`."""
    size, split = sup.block_size, inode[82] * 8
    for wanted, form, start, end in (
        (DOWNER, inode[5], _CORE, _CORE + split if split else len(inode)),
        (AOWNER, inode[83], _CORE + split, len(inode)),
    ):
        if not forks & wanted or form != _BTREE or end > len(inode) or end - start < 4:
            continue
        level, records = struct.unpack_from(">HH", inode, start)
        room = (end - start - 4) // 16
        if not 0 < level < _MOST_LEVELS or records > room:
            continue
        pointers = struct.unpack_from(f">{records}Q", inode, start + 4 + room * 8)
        pending = [(block, level - 1) for block in pointers]
        seen = set(pointers)
        while pending:
            block, level = pending.pop()
            if not sup.has_fsblock(block):
                continue
            data = source.read(sup.fsblock_offset(block), size)
            good = data[:4] == b"BMA3" and data[40:56] == sup.meta_uuid and data[4:6] == level.to_bytes(2, "big")
            if not good or crc32c(data[:64] + bytes(4) + data[68:]) ^ 0xFFFFFFFF != int.from_bytes(
                data[_CRC], "little"
            ):
                continue  # whoever reads it is told
            yield block, data
            most, records = (size - _HEADER) // 16, int.from_bytes(data[6:8], "big")
            if level and records <= most:
                below = struct.unpack_from(f">{records}Q", data, _HEADER + most * 8)
                pending += [(each, level - 1) for each in below if each not in seen]
                seen.update(below)
