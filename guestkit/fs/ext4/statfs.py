"""The figures of statfs(2) as the kernel computes them for ext2/3/4: blocks less overhead, free less reserved.

Spec: the kernel's ext4_statfs() and ext4_calculate_overhead(); overhead is what df hides: superblocks, descriptor
tables, bitmaps, inode tables and the internal journal.
"""

from __future__ import annotations

from guestkit.fs.base import StatVfs
from guestkit.fs.ext4 import features as f
from guestkit.fs.ext4.groups import Groups
from guestkit.fs.ext4.superblock import Superblock

_MOST_RESERVED = 4096  # clusters that the kernel keeps for extent conversions
_MOST_TABLE = 64 << 20  # bytes of descriptors that are summed (128 TiB); beyond, the superblock's own figures serve
_MOST_PLACES = 8 << 20  # the same with bigalloc, where each group's metadata must be looked at


def statvfs(superblock: Superblock, groups: Groups, journal_bytes: int, taken: tuple[int, int] = (0, 0)) -> StatVfs:
    """`journal_bytes`: the size of the internal journal, 0 for none; `taken`: clusters and inodes not counted as used.

    Raises: SourceError, Corrupt.
    """
    ratio = superblock.cluster_ratio
    most = _MOST_PLACES if superblock.ro_compat & f.BIGALLOC else _MOST_TABLE
    if groups.table_blocks * superblock.block_size <= most:
        free_clusters, free_inodes = groups.free_counts()
        overhead = _overhead(superblock, groups, journal_bytes)
    else:
        free_clusters, free_inodes, overhead = superblock.free_blocks // ratio, superblock.free_inodes, 0
    if any(taken):
        free_clusters = min(max(0, free_clusters - taken[0]), superblock.blocks_count // ratio)
        free_inodes = min(max(0, free_inodes - taken[1]), superblock.inodes_count)
    blocks = superblock.blocks_count - overhead * ratio
    free = free_clusters * ratio
    reserved = superblock.reserved_blocks
    if superblock.incompat & f.EXTENTS:
        reserved += min(superblock.blocks_count // ratio // 50, _MOST_RESERVED) * ratio
    uuid = superblock.uuid
    mixed = int.from_bytes(uuid[:8], "little") ^ int.from_bytes(uuid[8:], "little")
    return StatVfs(
        bsize=superblock.block_size,
        frsize=superblock.block_size,
        blocks=max(0, blocks),
        bfree=free,
        bavail=max(0, free - reserved),
        files=superblock.inodes_count,
        ffree=free_inodes,
        favail=free_inodes,
        namemax=255,
        fsid=mixed,
    )


def _overhead(superblock: Superblock, groups: Groups, journal_bytes: int) -> int:
    """In clusters."""
    ratio = superblock.cluster_ratio
    journal = -(-(journal_bytes // superblock.block_size) // ratio)
    if superblock.ro_compat & f.BIGALLOC:
        if 0 < superblock.overhead_clusters <= superblock.blocks_count:
            return superblock.overhead_clusters
        return superblock.first_data_block // ratio + _bigalloc_overhead(superblock, groups) + journal
    total = superblock.first_data_block + superblock.group_count * (groups.itb_per_group + 2) + journal
    meta = superblock.incompat & f.META_BG
    if meta:
        for index in range(superblock.first_meta_bg, groups.table_blocks):
            group = index * groups.per_block
            total += sum(g < superblock.group_count for g in {group, group + 1, group + groups.per_block - 1})
    if not (superblock.compat & f.SPARSE_SUPER2 or superblock.ro_compat & f.SPARSE_SUPER or meta):
        return total + superblock.group_count * (1 + superblock.reserved_gdt_blocks + groups.table_blocks)
    for group in _groups_with_super(superblock):
        total += 1 + superblock.reserved_gdt_blocks
        if not meta or group // groups.per_block < superblock.first_meta_bg:
            total += groups.gdt_blocks(group)
    return total


def _groups_with_super(superblock: Superblock) -> list[int]:
    count = superblock.group_count
    if superblock.compat & f.SPARSE_SUPER2 or superblock.ro_compat & f.SPARSE_SUPER:
        candidates = {0, 1, *superblock.backup_groups}
        for base in (3, 5, 7):
            power = base
            while power < count:
                candidates.add(power)
                power *= base
        return [group for group in sorted(candidates) if group < count and superblock.has_super(group)]
    return list(range(count))


def _bigalloc_overhead(superblock: Superblock, groups: Groups) -> int:
    """Clusters that hold metadata of their own group, each counted once a group."""
    ratio = superblock.cluster_ratio
    per_group = superblock.blocks_per_group
    used: dict[int, set[int]] = {}

    def take(block: int, count: int, group: int) -> None:
        first = groups.first_block(group)
        low, high = (block - first) // ratio, (block + count - 1 - first) // ratio
        used.setdefault(group, set()).update(range(low, high + 1))

    for block_bitmap, inode_bitmap, table in groups.places():
        for block in (block_bitmap, inode_bitmap):
            group = (block - superblock.first_data_block) // per_group
            if 0 <= group < superblock.group_count:
                take(block, 1, group)
        group = (table - superblock.first_data_block) // per_group
        end = groups.first_block(group) + per_group - 1
        if 0 <= group < superblock.group_count and table + groups.itb_per_group <= end:
            take(table, groups.itb_per_group, group)
    for group in range(superblock.group_count):
        count = int(superblock.has_super(group)) + groups.gdt_blocks(group)
        if count and count <= per_group:
            take(groups.first_block(group), count, group)
    return sum(len(clusters) for clusters in used.values())
