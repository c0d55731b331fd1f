"""The Btrfs reader. `open` puts the devices together, has the log replayed, and gives the FileSystem.

Spec: btrfs-progs Documentation/dev/On-disk-format.rst. Options: "norecovery", "nologreplay" and "rescue=nologreplay"
leave the log alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from guestkit.fs.base import Problems, State
from guestkit.fs.btrfs.assembly import assemble
from guestkit.fs.btrfs.filesystem import Btrfs
from guestkit.limits import Limits
from guestkit.source import Source

_OFF = ("0", "no", "false")
_NO_REPLAY = ("norecovery", "nologreplay")
_RESCUE = ("nologreplay", "all")


def open(sources: Sequence[Source], limits: Limits, options: Mapping[str, str]) -> Btrfs:
    """Open the filesystem whose devices are `sources`, in any order; some may be missing.

    Raises: Corrupt when no superblock is good, or a tree's root is not; Unsupported for a feature that is not read,
    with its name and bit; InvalidArgument when the devices do not belong together; SourceError.
    """
    damage = Problems()
    trees = assemble(sources, limits, damage)
    state = State()
    if trees.pool.superblock.log_root:
        state = State("dirty-not-replayed", "the log tree is not replayed")
        if _skips(options):
            state = State("dirty-not-replayed", "recovery was switched off")
    return Btrfs(trees, state, limits, damage)


def _skips(options: Mapping[str, str]) -> bool:
    rescue = options.get("rescue", "").lower().split(":")
    return any(word in _RESCUE for word in rescue) or any(
        options.get(name, "no").lower() not in _OFF for name in _NO_REPLAY
    )
