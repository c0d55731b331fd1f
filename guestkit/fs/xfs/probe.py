"""Recognition of XFS by its first superblock, checked as the kernel checks it; external logs are told too.

Spec: XFS Algorithms & Data Structures, "Superblocks"; big-endian, the checksum little-endian.
"""

from __future__ import annotations

from guestkit.checksum import crc32c
from guestkit.layout import Layout
from guestkit.probe import Detected, Window, label_text, uuid_text

_SUPER = Layout(
    "xfs_dsb",
    264,
    ">",
    sb_magicnum=(0, "4s"),
    sb_blocksize=(4, "I"),
    sb_dblocks=(8, "Q"),
    sb_uuid=(32, "16s"),
    sb_agblocks=(84, "I"),
    sb_agcount=(88, "I"),
    sb_versionnum=(100, "H"),
    sb_sectsize=(102, "H"),
    sb_inodesize=(104, "H"),
    sb_inopblock=(106, "H"),
    sb_fname=(108, "12s"),
    sb_blocklog=(120, "B"),
    sb_sectlog=(121, "B"),
    sb_inodelog=(122, "B"),
    sb_inopblog=(123, "B"),
    sb_imax_pct=(127, "B"),
)
_CRC = slice(224, 228)


def probe(window: Window) -> Detected | None:
    raw = window.at(0, 512)
    if not raw:
        return None
    (magic, block, blocks, uuid, ag_blocks, ags, version, sector, inode, per_block, name, *logs) = _SUPER.unpack_from(
        raw
    )
    block_log, sector_log, inode_log, per_block_log, most_inodes = logs
    if magic != b"XFSB" or not ags or not 512 <= sector <= 32768 or sector != 1 << min(sector_log, 15):
        return None
    if not 512 <= block <= 65536 or block != 1 << min(block_log, 16):
        return None
    if not 256 <= inode <= 2048 or inode != 1 << min(inode_log, 11):
        return None
    if block_log - inode_log != per_block_log or most_inodes > 100 or per_block != 1 << min(per_block_log, 8):
        return None
    if not blocks or blocks > ags * ag_blocks or blocks < (ags - 1) * ag_blocks + 64:
        return None
    if version & 0xF == 5:
        whole = window.at(0, sector)
        stored = int.from_bytes(whole[_CRC], "little")
        if not whole or crc32c(whole[:224] + bytes(4) + whole[228:]) ^ 0xFFFFFFFF != stored:
            return None
    return Detected(
        type="xfs",
        usage="filesystem",
        label=label_text(name),
        uuid=uuid_text(uuid),
        block_size=sector,
    )


def probe_log(window: Window) -> Detected | None:
    """An external log: a record header in one of the first sectors of a device that is no filesystem."""
    for sector in range(256):
        header = window.at(sector * 512, 512)
        if not header or header[:4] == b"XFSB":
            return None
        if header[:4] == b"\xfe\xed\xba\xbe" and header[8:12] in (b"\0\0\0\1", b"\0\0\0\2"):
            uuid = uuid_text(header[304:320])
            # of the filesystem that it belongs to, not its own
            return Detected(type="xfs_external_log", usage="other", set_uuid=uuid) if uuid else None
    return None
