"""The items that the replay of a log takes apart and puts together: inodes, names, back references, file extents.

Spec: btrfs-progs Documentation/dev/On-disk-format.rst, "INODE_ITEM", "INODE_REF", "INODE_EXTREF", "DIR_ITEM",
"EXTENT_DATA".
"""

from __future__ import annotations

import stat
import struct
from typing import NamedTuple

from guestkit.checksum import crc32c
from guestkit.errors import Corrupt

INODE_ITEM, INODE_REF, INODE_EXTREF, XATTR_ITEM = 1, 12, 13, 24
DIR_LOG_INDEX, DIR_ITEM, DIR_INDEX, EXTENT_DATA, EXTENT_CSUM = 72, 84, 96, 108, 128
CSUM_OBJECTID = (1 << 64) - 10
LAST = (1 << 64) - 1

INLINE, REGULAR, PREALLOC = 0, 1, 2

_INODE_SIZE = 160
_u32, _u64 = struct.Struct("<I"), struct.Struct("<Q")
_INODE = {"generation": (0, _u64), "size": (16, _u64), "nbytes": (24, _u64), "nlink": (40, _u32), "mode": (52, _u32)}
_dir = struct.Struct("<QBQQHHB")  # location (a key), transid, data_len, name_len, type
_ref = struct.Struct("<QH")  # index, name_len
_extref = struct.Struct("<QQH")  # parent, index, name_len
_extent = struct.Struct("<QQBBHBQQQQ")
_inline = struct.Struct("<QQBBHB")
FT_BY_MODE = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}
FT_DIR = 2


def name_hash(name: bytes) -> int:
    """The offset of a name's DIR_ITEM or XATTR_ITEM key."""
    return crc32c(name, 0xFFFFFFFE)


def extref_hash(parent: int, name: bytes) -> int:
    """The offset of a name's INODE_EXTREF key."""
    return crc32c(name, parent & 0xFFFFFFFF)


class Inode:
    """An INODE_ITEM that can be changed. `size`, `nbytes` in bytes."""

    def __init__(self, item: bytes) -> None:
        """Raises: Corrupt (EUCLEAN)."""
        if len(item) != _INODE_SIZE:
            raise Corrupt("inode item", "length", found=len(item), expected=_INODE_SIZE)
        self.item = bytearray(item)

    def get(self, field: str) -> int:
        place, form = _INODE[field]
        value: int = form.unpack_from(self.item, place)[0]
        return value

    def set(self, field: str, value: int) -> None:
        """`value` is kept within what the field holds."""
        place, form = _INODE[field]
        form.pack_into(self.item, place, max(0, min(value, (1 << 8 * form.size) - 1)))

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.get("mode"))


class Name(NamedTuple):
    """One name of a DIR_ITEM, DIR_INDEX or XATTR_ITEM. `raw`: all its bytes; `location`: the key that it leads to."""

    location: tuple[int, int, int]
    type: int
    name: bytes
    raw: bytes


def parse_names(item: bytes) -> list[Name]:
    """Raises: Corrupt (EUCLEAN)."""
    found = []
    at = 0
    while at < len(item):
        if at + _dir.size > len(item):
            raise Corrupt("directory item", "length", found=len(item), expected=f"at least {at + _dir.size}")
        objectid, kind, offset, _, data_len, name_len, type = _dir.unpack_from(item, at)
        begin = at + _dir.size
        end = begin + name_len + data_len
        if end > len(item) or not name_len:
            raise Corrupt("directory item", "name_len", found=name_len, expected="a name inside the item")
        found.append(Name((objectid, kind, offset), type, item[begin : begin + name_len], item[at:end]))
        at = end
    return found


def make_name(ino: int, type: int, name: bytes, generation: int) -> bytes:
    """The DIR_ITEM or DIR_INDEX item of an inode's name."""
    return _dir.pack(ino, INODE_ITEM, 0, generation, 0, len(name), type) + name


class Ref(NamedTuple):
    """One name of an INODE_REF or INODE_EXTREF item. `place`: the offset of its DIR_INDEX key."""

    parent: int
    place: int
    name: bytes
    raw: bytes


def parse_refs(kind: int, parent: int, item: bytes) -> list[Ref]:
    """`kind`: INODE_REF, whose key's offset is `parent`, or INODE_EXTREF. Raises: Corrupt (EUCLEAN)."""
    found = []
    head = _ref if kind == INODE_REF else _extref
    at = 0
    while at < len(item):
        if at + head.size > len(item):
            raise Corrupt("inode reference", "length", found=len(item), expected=f"at least {at + head.size}")
        *above, index, name_len = head.unpack_from(item, at)
        begin = at + head.size
        end = begin + name_len
        if end > len(item) or not name_len:
            raise Corrupt("inode reference", "name_len", found=name_len, expected="a name inside the item")
        found.append(Ref(above[0] if above else parent, index, item[begin:end], item[at:end]))
        at = end
    return found


def ref_key(kind: int, ino: int, parent: int, name: bytes) -> tuple[int, int, int]:
    """The key of the item that holds a name's back reference."""
    return ino, kind, parent if kind == INODE_REF else extref_hash(parent, name)


def make_ref(kind: int, parent: int, index: int, name: bytes) -> bytes:
    """A name of an INODE_REF or INODE_EXTREF item."""
    if kind == INODE_REF:
        return _ref.pack(index, len(name)) + name
    return _extref.pack(parent, index, len(name)) + name


def parse_log_end(item: bytes) -> int:
    """The last DIR_INDEX offset of a range that the log knows all of. Raises: Corrupt (EUCLEAN)."""
    if len(item) < _u64.size:
        raise Corrupt("directory log item", "length", found=len(item), expected=_u64.size)
    end: int = _u64.unpack_from(item)[0]
    return end


class FileExtent(NamedTuple):
    """An EXTENT_DATA item at file offset `start`; `length` in the file (of inline data: decoded), in bytes."""

    start: int
    length: int
    type: int
    address: int  # on disk, 0 for a hole
    item: bytes

    @property
    def end(self) -> int:
        return self.start + self.length

    @property
    def counted(self) -> bool:
        """Whether the inode's nbytes counts it."""
        return self.type == INLINE or self.address != 0

    def part(self, begin: int, end: int) -> bytes:
        """The item for the file's bytes from `begin` to `end`, which lie inside."""
        fields = list(_extent.unpack_from(self.item))
        fields[8] += begin - self.start
        fields[9] = end - begin
        return _extent.pack(*fields)


def parse_extent(start: int, item: bytes) -> FileExtent | None:
    """None for a type that is not known, which the log's replay passes over. Raises: Corrupt (EUCLEAN)."""
    if len(item) < _inline.size:
        raise Corrupt("file extent", "length", found=len(item), expected=f"at least {_inline.size}")
    _, ram, _, _, _, type = _inline.unpack_from(item)
    if type == INLINE:
        return FileExtent(start, _bounded(start, ram), type, 0, item)
    if type not in (REGULAR, PREALLOC):
        return None
    if len(item) < _extent.size:
        raise Corrupt("file extent", "length", found=len(item), expected=_extent.size)
    address, _, offset, length = _extent.unpack_from(item)[6:]
    _bounded(offset, length)
    return FileExtent(start, _bounded(start, length), type, address, item[: _extent.size])


def _bounded(start: int, length: int) -> int:
    if start + length > LAST:
        raise Corrupt("file extent", "length", found=length, expected="an end below 2^64")
    return length
