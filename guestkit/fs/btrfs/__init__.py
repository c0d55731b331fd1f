"""The Btrfs reader. `open` puts the devices together, has the log replayed, and gives the FileSystem.

Spec: btrfs-progs Documentation/dev/On-disk-format.rst. Options: "norecovery", "nologreplay" and "rescue=nologreplay"
leave the log alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from guestkit.fs.base import Problems
from guestkit.fs.btrfs.assembly import assemble
from guestkit.fs.btrfs.filesystem import Btrfs
from guestkit.fs.btrfs.log import recover
from guestkit.limits import Limits
from guestkit.source import Source


def open(sources: Sequence[Source], limits: Limits, options: Mapping[str, str]) -> Btrfs:
    """Open the filesystem whose devices are `sources`, in any order; some may be missing.

    Raises: Corrupt when no superblock is good, or a tree's root is not; Unsupported for a feature that is not read,
    with its name and bit; InvalidArgument when the devices do not belong together; SourceError.
    """
    damage = Problems()
    trees = assemble(sources, limits, damage)
    state = recover(trees, options)
    return Btrfs(trees, state, limits, damage)
