"""EXTENT_DATA: where the bytes of a file stand.

Spec: btrfs-progs Documentation/dev/On-disk-format.rst, "EXTENT_DATA".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from guestkit.errors import Corrupt, Unsupported
from guestkit.fs.btrfs.compression import MOST, check_method
from guestkit.fs.btrfs.inode import EXTENT_DATA
from guestkit.fs.btrfs.tree import Entry, Items

_head = struct.Struct("<QQBBHB")  # generation, ram_bytes, compression, encryption, other_encoding, type
_places = struct.Struct("<QQQQ")  # disk_bytenr, disk_num_bytes, offset, num_bytes
_HEAD = _head.size
_WHOLE = _HEAD + _places.size
_INLINE, _REGULAR, _PREALLOCATED = 0, 1, 2
_MOST_OFFSET = 1 << 63


class FileExtent(NamedTuple):
    """`length` bytes from byte `start` of a file.

    address, size   the extent's logical address and bytes on disk; address 0: zeros
    skip            where in the extent, decompressed, the bytes begin
    whole           bytes of the extent, decompressed
    method          0 or how it is compressed
    inline          the bytes themselves, as they are stored; then address and skip mean nothing
    """

    start: int
    length: int
    address: int
    size: int
    skip: int
    whole: int
    method: int
    inline: bytes | None


def parse_extent(start: int, buffer: bytes, at: int, size: int, sector: int) -> FileExtent:
    """Parse the item of the file's byte `start`, `size` bytes at `at` of `buffer`. Raises: Corrupt, Unsupported."""
    if size < _HEAD:
        raise Corrupt("file extent", "length", found=size)
    _, whole, method, encryption, other, kind = _head.unpack_from(buffer, at)
    if encryption or other:
        raise Unsupported(f"Btrfs file extents with encryption {encryption}, encoding {other}")
    if method:
        check_method(method)
    if start % sector:
        raise Corrupt("file extent", "offset", found=start, expected=f"a multiple of {sector}")
    if kind == _INLINE:
        if start:
            raise Corrupt("inline extent", "offset", found=start, expected=0)
        data = buffer[at + _HEAD : at + size]
        most = MOST if method else len(data)
        if whole > most:
            raise Corrupt("inline extent", "ram_bytes", found=whole, expected=f"at most {most}")
        return FileExtent(0, whole, 0, len(data), 0, whole, method, data)
    if kind not in (_REGULAR, _PREALLOCATED):
        raise Corrupt("file extent", "type", found=kind)
    if size < _WHOLE:
        raise Corrupt("file extent", "length", found=size, expected=_WHOLE)
    address, stored, skip, length = _places.unpack_from(buffer, at + _HEAD)
    if not length or length % sector or start + length > _MOST_OFFSET:
        raise Corrupt("file extent", "num_bytes", found=length)
    if not address or kind == _PREALLOCATED:
        return FileExtent(start, length, 0, 0, 0, 0, 0, None)
    if address % sector or skip % sector or stored % sector or not stored:
        raise Corrupt("file extent", "place", found=address, expected=f"multiples of {sector}")
    if method:
        if stored > MOST or whole > MOST:
            raise Corrupt("file extent", "ram_bytes", found=max(stored, whole), expected=f"at most {MOST}")
        if skip + length > whole:
            raise Corrupt("file extent", "num_bytes", found=skip + length, expected=f"at most {whole}")
    elif skip + length > stored:
        raise Corrupt("file extent", "num_bytes", found=skip + length, expected=f"at most {stored}")
    return FileExtent(start, length, address, stored, skip, whole, method, None)


class ExtentMap:
    """The extents of one file. `known`: all of them, where they were met with the inode; None: asked for."""

    __slots__ = ("_known", "_number", "_sector", "_tree")

    def __init__(
        self, tree: Items, number: int, sector: int, known: tuple[bytes, Sequence[Entry]] | None = None
    ) -> None:
        self._tree = tree
        self._number = number
        self._sector = sector
        self._known = known

    def extents(self, offset: int, end: int) -> Iterator[FileExtent]:
        """Yield the extents that touch bytes [offset, end) in order, which never overlap; what is left out is zeros.

        Raises: Corrupt, Unsupported, SourceError, behind those that are before the damage.
        """
        done = 0
        for extent in self._all(offset, end):
            if extent.start < done:
                raise Corrupt("file extent", "offset", found=extent.start, expected=f"at least {done}")
            done = extent.start + extent.length
            if done > offset:
                if extent.start >= end:
                    return
                yield extent

    def _all(self, offset: int, end: int) -> Iterator[FileExtent]:
        sector = self._sector
        if self._known is not None:
            buffer, entries = self._known
            for _, _, start, at, size in entries:
                yield parse_extent(start, buffer, at, size, sector)
            return
        number = self._number
        first = self._tree.before((number, EXTENT_DATA, offset + 1))
        if first is not None and first[:2] == (number, EXTENT_DATA):
            yield parse_extent(first[2], first[3], 0, len(first[3]), sector)
        for buffer, entries in self._tree.runs((number, EXTENT_DATA, offset + 1), (number, EXTENT_DATA, end)):
            for _, _, start, at, size in entries:
                yield parse_extent(start, buffer, at, size, sector)
