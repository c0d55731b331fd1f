"""The figures of statfs(2) as the kernel computes them for Btrfs, from block groups and devices.

Spec: the kernel's btrfs_statfs(), btrfs_calc_avail_data_space() and btrfs_update_global_block_rsv(). Sizes in bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from guestkit.errors import Corrupt, NotFound
from guestkit.fs.base import StatVfs
from guestkit.fs.btrfs import chunks as c
from guestkit.fs.btrfs.assembly import BLOCK_GROUP_TREE, CSUM_TREE, EXTENT_TREE, Trees
from guestkit.fs.btrfs.features import BLOCK_GROUP_TREE as BLOCK_GROUP_FEATURE
from guestkit.fs.btrfs.features import FREE_SPACE_TREE as FREE_SPACE_FEATURE
from guestkit.limits import Budget

FREE_SPACE_TREE = 10
_BLOCK_GROUP_ITEM = 192
_DEV_ITEMS, _DEV_ITEM = 1, 216
_block_group = struct.Struct("<QQQ")  # used, chunk_objectid, flags
_device = struct.Struct("<QQQ")  # devid, total_bytes, bytes_used
_STRIPE = 65536
_RESERVED = 1 << 20  # at the start of each device
_MOST_RESERVE = 512 << 20
_MOST_LEVELS = 8
_UNLINK_ITEMS = 6  # metadata items that removing a name takes
_MOST_GROUPS = 1 << 18

# in the kernel's order: the factor of the last one that data is in counts
_ORDER = (0, c.RAID0, c.RAID1, c.DUP, c.RAID10, c.RAID5, c.RAID6, c.RAID1C3, c.RAID1C4)
_FACTOR = {c.RAID10: 2, c.RAID1: 2, c.DUP: 2, c.RAID1C3: 3, c.RAID1C4: 4}
_MIRRORED = c.RAID10 | c.RAID1 | c.RAID1C3 | c.RAID1C4 | c.RAID5 | c.RAID6 | c.DUP
# from the most redundant, which is what data is allocated in, and how many devices each needs
_PREFERRED = (c.RAID1C4, c.RAID6, c.RAID1C3, c.RAID5, c.RAID10, c.RAID1, c.DUP, c.RAID0)
_LEAST_DEVICES = {
    c.RAID1C4: 4,
    c.RAID6: 3,
    c.RAID1C3: 3,
    c.RAID5: 2,
    c.RAID10: 2,
    c.RAID1: 2,
    c.DUP: 1,
    c.RAID0: 1,
    0: 1,
}


class Group(NamedTuple):
    """A block group: of its `length` bytes, `used` are in use. `type`: what and in which profile.

    `seed`: it stands on a device that is only read.
    """

    length: int
    used: int
    type: int
    seed: bool = False

    @property
    def factor(self) -> int:
        return _FACTOR.get(self.type & c.PROFILES, 1)


def statvfs(trees: Trees) -> StatVfs:
    """Raises: Corrupt, SourceError."""
    superblock = trees.pool.superblock
    groups = block_groups(trees)
    used = sum(group.used * group.factor for group in groups)
    data = [group for group in groups if group.type & c.DATA]
    free = sum((group.length - group.used) * group.factor for group in data)
    free -= sum((group.length - group.used) * group.factor for group in _read_only(groups) if group.type & c.DATA)
    factor = 1
    for profile in _ORDER:
        if any(group.type & c.PROFILES == profile for group in data):
            factor = _FACTOR.get(profile, 1)
    unit = superblock.sector_size
    blocks = superblock.total_bytes // factor // unit
    reserve = _global_reserve(trees)
    return StatVfs(
        bsize=unit,
        frsize=unit,
        blocks=blocks,
        bfree=max(0, blocks - used // factor // unit - reserve // unit),
        bavail=max(0, free // factor + _allocatable(trees, groups) // factor) // unit,
        files=0,
        ffree=0,
        favail=0,
        namemax=255,
        fsid=int.from_bytes(superblock.fsid[:8], "little") ^ int.from_bytes(superblock.fsid[8:], "little"),
    )


def block_groups(trees: Trees) -> list[Group]:
    """All block groups, found by way of the chunks. Raises: Corrupt, SourceError."""
    separate = trees.pool.superblock.compat_ro & BLOCK_GROUP_FEATURE
    try:
        tree = trees.tree(BLOCK_GROUP_TREE if separate else EXTENT_TREE)
    except NotFound as error:
        raise Corrupt(str(error)) from None
    budget = Budget(_MOST_GROUPS, "chunk tree")
    seeds = {number for number, member in trees.pool.members.items() if member.seed}
    found = []
    end = (c.FIRST_CHUNK_TREE, c.CHUNK_ITEM + 1, 0)
    for _, _, start, item in trees.chunks.items((c.FIRST_CHUNK_TREE, c.CHUNK_ITEM, 0), end):
        budget.spend()
        length = int.from_bytes(item[:8], "little")
        group = tree.get((start, _BLOCK_GROUP_ITEM, length))
        if group is None or len(group) < _block_group.size:
            raise Corrupt(f"chunk {start} has no block group")
        used, _, kind = _block_group.unpack_from(group)
        seed = trees.pool.superblock.seeding
        if seeds:
            stripes = c.parse_chunk(start, item, trees.pool.superblock.sector_size).stripes
            seed = not seeds.isdisjoint(stripe.devid for stripe in stripes)
        found.append(Group(length, used, kind, seed))
    return found


def _read_only(groups: Sequence[Group]) -> list[Group]:
    """Groups that the kernel lets nothing be put into: on seeds, or without mirrors beside some with, of one kind."""
    found = [group for group in groups if group.seed]
    for kind in {group.type & ~c.PROFILES for group in groups}:
        same = [group for group in groups if group.type & ~c.PROFILES == kind and not group.seed]
        if any(group.type & _MIRRORED for group in same):
            found += [group for group in same if group.type & c.PROFILES in (0, c.RAID0)]
    return found


def _global_reserve(trees: Trees) -> int:
    """What the kernel keeps so that deleting is possible on a full filesystem."""
    superblock = trees.pool.superblock
    wanted = [EXTENT_TREE, CSUM_TREE]
    twice = 1
    if superblock.compat_ro & FREE_SPACE_FEATURE:
        wanted.append(FREE_SPACE_TREE)
        twice = 2
    if superblock.compat_ro & BLOCK_GROUP_FEATURE:
        wanted.append(BLOCK_GROUP_TREE)
    used = 0
    items = 1 + _UNLINK_ITEMS
    for number in wanted:
        item = trees.root_item(number)
        if item is not None:
            used += item.bytes_used
            items += 1
    each = superblock.node_size * _MOST_LEVELS * 2
    least = items * each + _UNLINK_ITEMS * each * twice
    return min(max(used, least), _MOST_RESERVE)


def _allocatable(trees: Trees, groups: Sequence[Group]) -> int:
    """Bytes of data, copies counted, for which the devices have room outside of block groups."""
    room = []
    devices = 0
    for _, _, _, item in trees.chunks.items((_DEV_ITEMS, _DEV_ITEM, 0), (_DEV_ITEMS, _DEV_ITEM + 1, 0)):
        if len(item) < _device.size:
            raise Corrupt("device item", "length", found=len(item))
        number, total, used = _device.unpack_from(item)
        member = trees.pool.members.get(number)
        if member is None or member.seed:
            continue
        devices += 1
        room.append((total - used) // _STRIPE * _STRIPE)
    profile = _data_profile(groups, 0 if trees.pool.superblock.seeding else devices)
    least = _STRIPE * (2 if profile == c.DUP else 1)
    free: list[int] = sorted((each - _RESERVED for each in room if each > _RESERVED + least), reverse=True)
    if profile == c.RAID0:
        stripes = devices
    elif profile in (c.RAID1, c.RAID1C3, c.RAID1C4):
        stripes = _FACTOR[profile]
    else:
        stripes = 4 if profile == c.RAID10 else 1
    total = 0
    for last in range(len(free) - 1, _LEAST_DEVICES[profile] - 2, -1):
        stripes = min(stripes, last + 1)
        if free[last] >= least:
            size = free[last]
            total += size * stripes
            for other in range(last + 1 - stripes, last + 1):
                free[other] -= size
    return total


def _data_profile(groups: Sequence[Group], devices: int) -> int:
    """What new data would be put into."""
    present = 0
    for group in groups:
        if group.type & c.DATA:
            present |= group.type & c.PROFILES
    for profile in _PREFERRED:
        if present & profile and devices >= _LEAST_DEVICES[profile]:
            return profile
    return 0
