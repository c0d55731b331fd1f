"""DIR_ITEM, DIR_INDEX, XATTR_ITEM and the references back: names, and what they lead to.

Spec: btrfs-progs Documentation/dev/On-disk-format.rst, "DIR_ITEM", "INODE_REF", "INODE_EXTREF" and "ROOT_REF". Items
that are found by a hash hold every name that has it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from guestkit.checksum import crc32c
from guestkit.errors import Corrupt

dir_item = struct.Struct("<QBQQHHB")
_root_ref = struct.Struct("<QQH")
_inode_ref = struct.Struct("<QH")
_extref = struct.Struct("<QQH")

LONGEST_NAME = 255
# BTRFS_FT_* -> DT_*; the others are no kinds of files
DIRECTORY_TYPES = {0: 0, 1: 8, 2: 4, 3: 2, 4: 6, 5: 1, 6: 12, 7: 10}


class DirItem(NamedTuple):
    """A name. `location` and `kind`: objectid and type of the key that it leads to; `value` that of an xattr."""

    location: int
    kind: int
    type: int
    name: bytes
    value: bytes


def name_hash(name: bytes) -> int:
    """The offset of a name's key."""
    return crc32c(name, 0xFFFFFFFE)


def parse_dir_items(item: bytes) -> Iterator[DirItem]:
    """Yield the names that share an item. Raises: Corrupt (EUCLEAN) behind the good ones."""
    at = 0
    head = dir_item.size
    while at < len(item):
        if at + head > len(item):
            raise Corrupt("directory item", "length", found=len(item))
        location, kind, _, _, data_length, name_length, type = dir_item.unpack_from(item, at)
        begin = at + head
        at = begin + name_length + data_length
        if not 0 < name_length <= LONGEST_NAME or at > len(item):
            raise Corrupt("directory item", "name_len", found=name_length)
        middle = begin + name_length
        yield DirItem(location, kind, type, item[begin:middle], item[middle:at])


class RootRef(NamedTuple):
    """Where a subvolume hangs: a directory of the subvolume above, and the name there."""

    directory: int
    name: bytes


def parse_root_ref(item: bytes) -> RootRef:
    """Raises: Corrupt (EUCLEAN)."""
    if len(item) < _root_ref.size:
        raise Corrupt("root reference", "length", found=len(item))
    directory, _, length = _root_ref.unpack_from(item)
    if not 0 < length <= LONGEST_NAME or _root_ref.size + length > len(item):
        raise Corrupt("root reference", "name_len", found=length)
    return RootRef(directory, item[_root_ref.size : _root_ref.size + length])


def first_inode_ref(item: bytes) -> bytes:
    """The first name of an INODE_REF. Raises: Corrupt (EUCLEAN)."""
    if len(item) < _inode_ref.size:
        raise Corrupt("inode reference", "length", found=len(item))
    _, length = _inode_ref.unpack_from(item)
    if not 0 < length <= LONGEST_NAME or _inode_ref.size + length > len(item):
        raise Corrupt("inode reference", "name_len", found=length)
    return item[_inode_ref.size : _inode_ref.size + length]


def first_extref(item: bytes) -> tuple[int, bytes]:
    """(parent, name) of the first name of an INODE_EXTREF. Raises: Corrupt (EUCLEAN)."""
    if len(item) < _extref.size:
        raise Corrupt("extended inode reference", "length", found=len(item))
    parent, _, length = _extref.unpack_from(item)
    if not 0 < length <= LONGEST_NAME or _extref.size + length > len(item):
        raise Corrupt("extended inode reference", "name_len", found=length)
    return parent, item[_extref.size : _extref.size + length]
