"""What the kernel is told of a node: mode, owner and times from a Stat, under the mount's options."""

from __future__ import annotations

import stat as _stat

import pyfuse3

from guestkit.fs.base import Stat
from guestkit.fuse.options import MountOptions

TIMEOUT = 86400.0  # seconds: nothing changes below a read-only mount

# the mode that goes with a DT_*, for an entry whose inode cannot be read; 0 is refused by the kernel as an
# attribute and still lists the name
MODES = {kind: kind << 12 for kind in (1, 2, 4, 6, 8, 10, 12)}


class Attributes:
    """Builds pyfuse3.EntryAttributes."""

    def __init__(self, options: MountOptions) -> None:
        self._uid = options.uid
        self._gid = options.gid
        self._mode = None if options.umask is None else 0o777 & ~options.umask
        self._plain = self._uid is None and self._gid is None and self._mode is None

    def of(self, inode: int, status: Stat, entry_timeout: float = TIMEOUT) -> pyfuse3.EntryAttributes:
        """`status` under the number `inode`. Raises: OverflowError for what struct stat cannot hold."""
        # a new EntryAttributes is a regular file of nobody's, with one link and blocks of 4 KiB
        _, mode, nlink, uid, gid, rdev, size, blksize, blocks, atime, mtime, ctime, _ = status
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.entry_timeout = entry_timeout
        entry.attr_timeout = TIMEOUT
        entry.st_mode = mode
        if nlink != 1:
            entry.st_nlink = nlink
        if uid:
            entry.st_uid = uid
        if gid:
            entry.st_gid = gid
        if rdev:
            entry.st_rdev = rdev
        entry.st_size = size
        if blksize != 4096:
            entry.st_blksize = blksize
        entry.st_blocks = blocks
        entry.st_atime_ns = atime
        entry.st_mtime_ns = mtime
        entry.st_ctime_ns = ctime
        if not self._plain:
            if self._uid is not None:
                entry.st_uid = self._uid
            if self._gid is not None:
                entry.st_gid = self._gid
            if self._mode is not None:
                entry.st_mode = _stat.S_IFMT(mode) | self._mode
        return entry

    def unknown(self, inode: int, kind: int, *, entry_timeout: float = TIMEOUT) -> pyfuse3.EntryAttributes:
        """For an entry whose Stat is not known yet: the kernel asks getattr for it when someone wants it."""
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = MODES.get(kind, 0)
        entry.entry_timeout = entry_timeout
        entry.attr_timeout = 0
        return entry
