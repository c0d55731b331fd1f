"""The figures of statfs(2) as the kernel computes them for a read-only mount.

Spec: the kernel's xfs_fs_statfs(): blocks less the log; free less what allocation keeps for itself; inodes as many as
free space could hold, up to the share that inodes may take.
"""

from __future__ import annotations

from guestkit.fs.base import StatVfs
from guestkit.fs.xfs.groups import Sums
from guestkit.fs.xfs.superblock import Superblock

_SET_ASIDE = 8  # blocks a group: what the free lists and the trees of free space may need
_MOST_INODES = (1 << 56) - 1


def statvfs(superblock: Superblock, sums: Sums) -> StatVfs:
    """`sums`: of the superblock when it was unmounted cleanly, else of the groups."""
    sup = superblock
    free = max(0, sums.free_blocks - _SET_ASIDE * sup.ag_count - sums.tree_blocks)
    files = min(sums.inodes + (free << sup.inodes_per_block_log), _MOST_INODES)
    most = _most_inodes(sup)
    if most:
        files = min(files, most)
    files = max(files, sup.inode_count)
    free_files = max(0, files - (sums.inodes - sums.free_inodes))
    uuid = sup.uuid
    return StatVfs(
        bsize=sup.block_size,
        frsize=sup.block_size,
        blocks=sup.data_blocks - (sup.log_blocks if sup.log_start else 0),
        bfree=free,
        bavail=free,
        files=files,
        ffree=free_files,
        favail=free_files,
        namemax=255,
        fsid=int.from_bytes(uuid[:8], "little") ^ int.from_bytes(uuid[8:], "little"),
    )


def _most_inodes(sup: Superblock) -> int:
    """As many inodes as the share of space that they may take holds; 0: without bound."""
    if not sup.max_inode_percent:
        return 0
    chunk = max(64, sup.inodes_per_block) >> sup.inodes_per_block_log
    # a chunk is as long as inodes are aligned for the sake of a cluster
    return sup.data_blocks * sup.max_inode_percent // 100 // chunk * chunk << sup.inodes_per_block_log
