"""INODE_ITEM: what stat() shows.

Spec: btrfs-progs Documentation/dev/On-disk-format.rst, "INODE_ITEM"; figures are those of the kernel's btrfs_getattr().
"""

from __future__ import annotations

import os
import stat as _stat
from typing import NamedTuple

from guestkit.errors import Corrupt
from guestkit.fs.base import Stat
from guestkit.layout import Layout

INODE_ITEM = 1
INODE_REF = 12
INODE_EXTREF = 13
XATTR_ITEM = 24
DIR_ITEM = 84
DIR_INDEX = 96
EXTENT_DATA = 108

FIRST_FREE = 256
LAST_FREE = (1 << 64) - 256

NODATASUM = 1

_INODE = Layout(
    "btrfs_inode_item",
    160,
    "<",
    generation=(0, "Q"),
    size=(16, "Q"),
    nbytes=(24, "Q"),
    nlink=(40, "I"),
    uid=(44, "I"),
    gid=(48, "I"),
    mode=(52, "I"),
    rdev=(56, "Q"),
    flags=(64, "Q"),
    atime_sec=(112, "q"),
    atime_nsec=(120, "I"),
    ctime_sec=(124, "q"),
    ctime_nsec=(132, "I"),
    mtime_sec=(136, "q"),
    mtime_nsec=(144, "I"),
    otime_sec=(148, "q"),
    otime_nsec=(156, "I"),
)
SIZE = _INODE.size
_unpack = _INODE.unpack_from
_FLAGS = slice(64, 72)
_S = 1_000_000_000
_KINDS = frozenset(
    (_stat.S_IFREG, _stat.S_IFDIR, _stat.S_IFLNK, _stat.S_IFCHR, _stat.S_IFBLK, _stat.S_IFIFO, _stat.S_IFSOCK)
)
_new = tuple.__new__


class Inode(NamedTuple):
    """An inode as its item says. `flags`: NODATASUM and others."""

    stat: Stat
    flags: int


def parse_stat(number: int, buffer: bytes, at: int, size: int, block: int) -> Stat:
    """Return the Stat of the item of `size` bytes at `at` of `buffer`. `block`: the sector size.

    Raises: Corrupt (EUCLEAN).
    """
    if size < SIZE:
        raise Corrupt("inode item", "length", found=size, expected=SIZE)
    (_, length, nbytes, nlink, uid, gid, mode, rdev, _, a, an, c, cn, m, mn, o, on) = _unpack(buffer, at)
    if mode & 0xF000 not in _KINDS:
        raise Corrupt("inode item", "mode", found=mode)
    if length >> 63:
        raise Corrupt("inode item", "size", found=length)
    return _new(
        Stat,
        (
            number,
            mode,
            nlink,
            uid,
            gid,
            os.makedev(rdev >> 20 & 0xFFF, rdev & 0xFFFFF) if rdev else 0,
            length,
            block,
            (nbytes + block - 1) // block * (block >> 9),
            a * _S + an,
            m * _S + mn,
            c * _S + cn,
            o * _S + on,
        ),
    )


def parse_inode(number: int, item: bytes, block: int) -> Inode:
    """Raises: Corrupt (EUCLEAN)."""
    return Inode(parse_stat(number, item, 0, len(item), block), int.from_bytes(item[_FLAGS], "little"))
