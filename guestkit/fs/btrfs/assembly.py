"""From devices in any order to the trees: which superblock counts, which devices are there, how trees are found.

Spec: btrfs-progs Documentation/dev/On-disk-format.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from guestkit.errors import Corrupt, GuestkitError, InvalidArgument, NotFound, SourceError
from guestkit.fs.base import Problems
from guestkit.fs.btrfs.chunks import (
    CHUNK_ITEM,
    DATA,
    FIRST_CHUNK_TREE,
    METADATA,
    PROFILE_NAMES,
    PROFILES,
    SYSTEM,
)
from guestkit.fs.btrfs.features import check_incompat
from guestkit.fs.btrfs.pool import Member, Pool
from guestkit.fs.btrfs.superblock import MAX_LEVEL, Superblock, read_superblock
from guestkit.fs.btrfs.tree import Items, Nodes, Tree
from guestkit.limits import Limits
from guestkit.resolve import resolve
from guestkit.source import Source

ROOT_ITEM = 132
ROOT_TREE, EXTENT_TREE, CHUNK_TREE = 1, 2, 3
CSUM_TREE = 7
BLOCK_GROUP_TREE = 11

# of a root item, what stands behind its inode: generation, root_dirid, bytenr, byte_limit, bytes_used,
# last_snapshot, flags, refs, drop_progress (a key), drop_level, level
_root_item = struct.Struct("<QQQQQQQI17sBB").unpack_from
ROOT_ITEM_SIZE = 239
_INODE = 160
_DEV_ITEMS, _DEV_ITEM = 1, 216
_DEV_UUID = 66  # where in a device item its uuid begins; that of its filesystem's nodes is behind


class RootItem:
    """A tree's item in the root tree. `refs` 0: the subvolume is deleted."""

    __slots__ = ("address", "bytes_used", "dirid", "flags", "generation", "last_snapshot", "level", "refs")

    def __init__(self, item: bytes) -> None:
        """Raises: Corrupt (EUCLEAN)."""
        if len(item) < ROOT_ITEM_SIZE:
            raise Corrupt("root item", "length", found=len(item), expected=f"at least {ROOT_ITEM_SIZE}")
        fields: tuple[int, ...] = _root_item(item, _INODE)
        self.generation, self.dirid, self.address, _, self.bytes_used = fields[:5]
        self.last_snapshot, self.flags, self.refs = fields[5:8]
        self.level = fields[10]
        if self.level >= MAX_LEVEL:
            raise Corrupt("root item", "level", found=self.level, expected=f"below {MAX_LEVEL}")


class Trees:
    """All trees of the filesystem by number, found through the root tree when first asked for."""

    def __init__(self, pool: Pool) -> None:
        superblock = pool.superblock
        self.pool = pool
        system = Nodes(pool, pool.system_chunk)
        generation = superblock.chunk_root_generation
        self.chunks = Tree(system, superblock.chunk_root, superblock.chunk_root_level, generation, CHUNK_TREE)
        pool.chunk_tree = self.chunks
        self.nodes = Nodes(pool, pool.chunk)
        self.root: Items = Tree(self.nodes, superblock.root, superblock.root_level, superblock.generation, ROOT_TREE)
        self._known: dict[int, Items] = {}

    def root_item(self, number: int) -> RootItem | None:
        """The last item of a tree in the root tree, None for none. Raises: Corrupt, SourceError."""
        found = self.root.before((number, ROOT_ITEM + 1, 0))
        if found is None or found[:2] != (number, ROOT_ITEM):
            return None
        return RootItem(found[3])

    def tree(self, number: int) -> Items:
        """Return the tree of a number. Raises: NotFound, Corrupt, SourceError."""
        known = self._known.get(number)
        if known is None:
            item = self.root_item(number)
            if item is None:
                raise NotFound(f"the Btrfs filesystem has no tree {number}")
            known = Tree(self.nodes, item.address, item.level, item.generation, number)
            known = self._known.setdefault(number, known)
        return known

    def profiles(self) -> dict[str, list[str]]:
        """The profiles in which data, metadata and system chunks stand, by name. Raises: Corrupt, SourceError."""
        kinds = (("data", DATA), ("metadata", METADATA), ("system", SYSTEM))
        found: dict[str, set[str]] = {name: set() for name, _ in kinds}
        first, end = (FIRST_CHUNK_TREE, CHUNK_ITEM, 0), (FIRST_CHUNK_TREE, CHUNK_ITEM + 1, 0)
        for type in {item[24:32] for _, _, _, item in self.chunks.items(first, end)}:
            bits = int.from_bytes(type, "little")
            for name, bit in kinds:
                if bits & bit:
                    found[name].add(PROFILE_NAMES.get(bits & PROFILES, "unknown"))
        return {name: sorted(profiles) for name, profiles in found.items()}

    def replace(self, number: int, tree: Items) -> None:
        """Let `tree` be what is found under a number from now on: a log was replayed."""
        self._known[number] = tree


def assemble(sources: Sequence[Source], limits: Limits, damage: Problems) -> Trees:
    """Put the filesystem together from its devices in any order; some may be missing.

    Devices of others that are seeds are taken where the filesystem stands on them. Of seeds alone, the first counts.
    Raises: Corrupt, Unsupported, SourceError; InvalidArgument when the devices belong to several filesystems or two
    of them claim to be the same.
    """
    first: GuestkitError | None = None
    found: list[tuple[Superblock, Source]] = []
    for source in sources:
        device = resolve(source)
        try:
            superblock, flaws = read_superblock(device)
        except GuestkitError as error:
            if not found:
                first = first or error
            damage.add("superblock", error)
            continue
        for flaw in flaws:
            damage.add(f"superblock of device {superblock.dev_id}", flaw)
        found.append((superblock, device))
    if not found:
        raise first or SourceError("no device was given")
    known = [superblock for superblock, _ in found]
    ours = [each for each in known if not each.seeding]
    if not ours:
        if first is not None:  # what is left may be seeds of that alone
            raise first
        ours = [each for each in known if each.fsid == known[0].fsid]
    best = max(ours, key=lambda each: each.generation)
    check_incompat(best.incompat)
    members: dict[int, Member] = {}
    seeds: list[tuple[Superblock, Source]] = []
    for superblock, device in found:
        if superblock.fsid != best.fsid and superblock.seeding:
            seeds.append((superblock, device))
            continue
        if superblock.fsid != best.fsid:
            raise InvalidArgument(f"devices of the filesystems {best.fsid.hex()} and {superblock.fsid.hex()}")
        if superblock.dev_id in members:
            raise InvalidArgument(f"two devices claim to be device {superblock.dev_id} of {best.fsid.hex()}")
        if superblock.generation != best.generation:
            damage.add(
                f"device {superblock.dev_id}",
                f"was left at generation {superblock.generation}, the filesystem is at {best.generation}",
            )
        members[superblock.dev_id] = Member(superblock.dev_uuid, device, best.node_fsid)
    trees = Trees(Pool(best, members, limits, damage))
    if seeds:
        _sort_seeds(trees, seeds)
        members = trees.pool.members
    if len(members) < best.device_count:
        present = ", ".join(map(str, sorted(members)))
        damage.add("devices", f"of {best.device_count} devices these are here: {present}")
    return trees


def _sort_seeds(trees: Trees, found: Sequence[tuple[Superblock, Source]]) -> None:
    """Make members of those devices of other filesystems that the chunk tree names; the rest is none of ours.

    The chunk tree itself may stand on them in part. Raises: InvalidArgument when two claim to be the same.
    """
    pool = trees.pool
    known: dict[tuple[int, bytes], Member] = {}
    for superblock, device in found:
        key = superblock.dev_id, superblock.dev_uuid
        if key in known:
            raise InvalidArgument(f"two devices claim to be seed device {superblock.dev_id} of {superblock.fsid.hex()}")
        known[key] = Member(superblock.dev_uuid, device, superblock.node_fsid, seed=True)
    own = set(pool.node_fsids)
    pool.seeds = known
    pool.node_fsids |= {member.node_fsid for member in known.values()}
    try:
        for _, _, number, item in trees.chunks.items((_DEV_ITEMS, _DEV_ITEM, 0), (_DEV_ITEMS, _DEV_ITEM + 1, 0)):
            member = known.get((number, item[_DEV_UUID : _DEV_UUID + 16]))
            if member is not None and item[_DEV_UUID + 16 :] == member.node_fsid:
                pool.members.setdefault(number, member)
    except GuestkitError as error:  # with fewer devices, what they hold is missing
        pool.damage.add("device items", error)
    pool.seeds = {}
    pool.node_fsids = own | {member.node_fsid for member in pool.members.values()}
