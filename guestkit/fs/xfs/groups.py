"""Allocation groups: the sums of what is free, as mounting takes them from the groups' headers.

Spec: XFS Algorithms & Data Structures, "AG Free Space Management" and "AG Inode Management". The trees of free space
and of inodes are not read: nothing that is shown comes from them.
"""

from __future__ import annotations

from typing import NamedTuple

from guestkit.errors import Corrupt
from guestkit.fs.xfs import features as f
from guestkit.fs.xfs.blocks import Blocks
from guestkit.layout import Layout

_AGF = Layout(
    "xfs_agf", 224, ">", agf_magicnum=(0, "4s"), agf_versionnum=(4, "I"), agf_seqno=(8, "I"), agf_length=(12, "I"),
    agf_flcount=(48, "I"), agf_freeblks=(52, "I"), agf_btreeblks=(60, "I"), agf_uuid=(64, "16s"),
    agf_rmap_blocks=(80, "I"), agf_crc=(216, "4s"),
)  # fmt: skip
_AGI = Layout(
    "xfs_agi", 336, ">", agi_magicnum=(0, "4s"), agi_versionnum=(4, "I"), agi_seqno=(8, "I"), agi_length=(12, "I"),
    agi_count=(16, "I"), agi_freecount=(28, "I"), agi_uuid=(296, "16s"), agi_crc=(312, "4s"),
)  # fmt: skip
MOST_SUMMED = 1 << 16  # groups


class Sums(NamedTuple):
    """Over all groups: free blocks, inodes that have a place, and those of them that are free."""

    free_blocks: int
    inodes: int
    free_inodes: int
    tree_blocks: int  # of the free ones, those that the trees of free space themselves stand in, roots apart


def sums(blocks: Blocks) -> Sums:
    """Add up the headers of all groups. Raises: Corrupt (EUCLEAN) when one is damaged; SourceError."""
    free = inodes = free_inodes = trees = 0
    for group in range(blocks.superblock.ag_count):
        try:
            agf = _header(blocks, group, 1, _AGF, b"XAGF")
            agi = _header(blocks, group, 2, _AGI, b"XAGI")
        except Corrupt as error:
            error.within(f"allocation group {group}")
            raise
        free += agf["agf_freeblks"] + agf["agf_flcount"] + agf["agf_btreeblks"]
        # the tree of owners is counted with the others, and there with its root
        owners = agf["agf_rmap_blocks"] - 1 if blocks.superblock.ro_compat & f.RMAPBT else 0
        trees += max(0, agf["agf_btreeblks"] - owners)
        inodes += agi["agi_count"]
        free_inodes += agi["agi_freecount"]
    if free > blocks.count or free_inodes > inodes:
        raise Corrupt("allocation groups", "free blocks", found=free, expected=f"at most {blocks.count}")
    return Sums(free, inodes, free_inodes, trees)


def _header(blocks: Blocks, group: int, sector: int, layout: Layout, magic: bytes) -> dict[str, int]:
    sup = blocks.superblock
    size = sup.sector_size
    buf = blocks.device.read((group * sup.ag_blocks << sup.block_log) + sector * size, size)
    values = layout.parse(buf)
    name = layout.names[0].split("_")[0]
    if values[f"{name}_magicnum"] != magic or values[f"{name}_versionnum"] != 1:
        raise Corrupt(layout.name, "magicnum", found=values[f"{name}_magicnum"], expected=magic)
    if sup.has_crc:
        at = 216 if magic == b"XAGF" else 312
        found = blocks.extend(0, buf[:at] + bytes(4) + buf[at + 4 :])
        stored = int.from_bytes(values[f"{name}_crc"], "little")
        if found != stored:
            raise Corrupt(layout.name, "crc", found=stored, expected=found)
        if values[f"{name}_uuid"] != sup.meta_uuid:
            raise Corrupt(layout.name, "uuid", found=values[f"{name}_uuid"].hex(), expected=sup.meta_uuid.hex())
    if values[f"{name}_seqno"] != group:
        raise Corrupt(layout.name, "seqno", found=values[f"{name}_seqno"], expected=group)
    return values
