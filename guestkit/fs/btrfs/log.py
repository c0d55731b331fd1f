"""The log trees: what was fsync'ed since the last commit, merged over the trees that it belongs to.

Where the superblock names a log, the kernel replays it at the next mount, even a read-only one. Here the same is done
in memory: each subvolume's tree is read through one with changes over it (logtree.Changed), and so are the checksums
of data, which the log keeps beside it. All of the logs are replayed or none is.

Spec: btrfs-progs Documentation/dev/On-disk-format.rst ("Log tree"), and the replay of Linux 6.18.
"""

from __future__ import annotations

from collections.abc import Mapping

from guestkit.errors import Corrupt, GuestkitError, NotFound, SourceError
from guestkit.fs.base import State
from guestkit.fs.btrfs.assembly import CSUM_TREE, ROOT_ITEM, RootItem, Trees
from guestkit.fs.btrfs.features import NO_HOLES, unknown_compat_ro
from guestkit.fs.btrfs.logitems import CSUM_OBJECTID, EXTENT_CSUM
from guestkit.fs.btrfs.logreplay import Format, Replay
from guestkit.fs.btrfs.logtree import Changed
from guestkit.fs.btrfs.tree import LOG_TREE, Items, Tree, is_subvolume
from guestkit.limits import Budget

_MOST_STEPS = 600_000  # items of logs, three times, and of what they change
_OFF = ("no", "off", "0", "false")


def recover(trees: Trees, options: Mapping[str, str]) -> State:
    """Replay the logs, if there are any, so that `trees` give what the kernel shows after a mount.

    The options "nologreplay", "norecovery" and "rescue=nologreplay" leave them alone, and so does damage in the logs,
    with which the kernel refuses the mount: what is shown then is the last commit, and the state tells.
    Raises: SourceError when the host cannot read a log that is there.
    """
    superblock = trees.pool.superblock
    if not superblock.log_root:
        return State()
    if _unwanted(options):
        return State("dirty-not-replayed", "there is a log tree, left alone as asked for: this is the last commit")
    unknown = unknown_compat_ro(superblock.compat_ro)
    if unknown:
        return State("dirty-not-replayed", f"unknown compat_ro features 0x{unknown:x} forbid to replay the log tree")
    shape = Format(
        superblock.sector_size,
        superblock.node_size,
        trees.pool.csum.size,
        superblock.generation + 1,
        bool(superblock.incompat & NO_HOLES),
    )
    try:
        log_root = Tree(trees.nodes, superblock.log_root, superblock.log_root_level, shape.generation, LOG_TREE)
        changed, logs = _replay_all(trees, log_root, shape)
    except GuestkitError as error:
        if isinstance(error, SourceError) and _whole(trees):  # the host may read it the next time
            raise
        return State("dirty-not-replayed", f"the log tree cannot be replayed: {error}")
    for number, tree in changed.items():
        tree.freeze()
        trees.replace(number, tree)
    return State("replayed", f"the logs of {logs} subvolumes" if logs != 1 else "the log of one subvolume")


def _whole(trees: Trees) -> bool:
    """Whether all devices are here, none of them cut off."""
    superblock, members = trees.pool.superblock, trees.pool.members.values()
    return len(members) == superblock.device_count and superblock.total_bytes <= sum(
        member.source.size for member in members
    )


def _unwanted(options: Mapping[str, str]) -> bool:
    if any(options.get(name, "no").lower() not in _OFF for name in ("nologreplay", "norecovery")):
        return True
    return bool({"nologreplay", "all"} & set(options.get("rescue", "").split(":")))


def _replay_all(trees: Trees, log_root: Items, shape: Format) -> tuple[dict[int, Changed], int]:
    """The changed trees by number, and how many logs there were. Raises: Corrupt, Unsupported, SourceError."""
    budget = Budget(_MOST_STEPS, "log tree")
    changed: dict[int, Changed] = {}
    try:
        sums = Changed(trees.tree(CSUM_TREE), budget)
        changed[CSUM_TREE] = sums
    except NotFound:
        sums = None
    count = 0
    for _, _, number, item in log_root.items((LOG_TREE, ROOT_ITEM, 0), (LOG_TREE, ROOT_ITEM + 1, 0)):
        budget.spend()
        if not is_subvolume(number):
            raise Corrupt("log tree", "subvolume", found=number)
        root = trees.root_item(number)
        if root is None or not root.refs:  # deleted since
            continue
        mine = RootItem(item)
        log = Tree(trees.nodes, mine.address, mine.level, mine.generation, LOG_TREE)
        replay = Replay(trees.tree(number), log, shape, budget)
        replay.run()
        changed[number] = replay.tree
        count += 1
        if sums is not None:
            for _, _, start, csums in log.items((CSUM_OBJECTID, EXTENT_CSUM, 0), (CSUM_OBJECTID, EXTENT_CSUM + 1, 0)):
                budget.spend()
                put_checksums(sums, start, csums, shape)
    return changed, count


def put_checksums(tree: Changed, start: int, item: bytes, shape: Format) -> None:
    """Put an EXTENT_CSUM item over what a tree says of the same sectors. Raises: Corrupt, Unsupported."""
    sector, size = shape.sector_size, shape.csum_size
    if len(item) % size:
        raise Corrupt("checksum item", "length", found=len(item), expected=f"a multiple of {size}")
    end = start + len(item) // size * sector
    first = (CSUM_OBJECTID, EXTENT_CSUM, start)
    over = list(tree.items(first, (CSUM_OBJECTID, EXTENT_CSUM, end)))
    below = tree.before(first)
    if below is not None and below[:2] == first[:2]:
        over.insert(0, below)
    for objectid, kind, at, old in over:
        upto = at + len(old) // size * sector
        if upto <= start:
            continue
        tree.delete((objectid, kind, at))
        if at < start:
            tree.put((objectid, kind, at), old[: (start - at) // sector * size])
        if upto > end:
            tree.put((objectid, kind, end), old[(end - at) // sector * size :])
    tree.put(first, item)
