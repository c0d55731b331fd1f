"""Security descriptors: those that files share in $Secure, and those of older volumes, in the file itself.

Spec: libfsntfs documentation, "The security descriptors". $SII leads from the number in $STANDARD_INFORMATION to the
place in $SDS, where each block of 256 KiB stands twice. Left out: what a descriptor says.
"""

from __future__ import annotations

import struct

from guestkit.errors import Corrupt
from guestkit.fs.ntfs import record as r
from guestkit.fs.ntfs.index import Index
from guestkit.fs.ntfs.inode import Inode, Inodes
from guestkit.fs.ntfs.volume import Volume

SECURE = 9
_SII = "$SII".encode("utf-16-le")
_SDS = "$SDS".encode("utf-16-le")
_MIRROR = 256 << 10
_MOST = 128 << 10  # bytes of one descriptor
_head = struct.Struct("<IIQI").unpack_from  # hash, id, offset, length of an entry of $SDS


class Security:
    """Finds the security descriptors of one volume."""

    def __init__(self, volume: Volume, inodes: Inodes) -> None:
        self._volume = volume
        self._inodes = inodes

    def descriptor(self, inode: Inode) -> bytes | None:
        """The self-relative security descriptor of a file; None when it has none. Raises: Corrupt."""
        own = inode.value(r.SECURITY_DESCRIPTOR, _MOST)
        if own is not None:
            return own
        piece = inode.head(r.STANDARD_INFORMATION)
        value = piece.value if piece is not None else None
        if value is None or len(value) < 72:
            return None
        number = int.from_bytes(value[52:56], "little")
        return self._shared(number) if number else None

    def _shared(self, number: int) -> bytes:
        key = (self._volume.token, "s", number)
        known: bytes | None = self._volume.cache.get(key)
        if known is not None:
            return known
        try:
            offset, length = self._place(number)
            known = self._entry(number, offset, length)
        except Corrupt as error:
            error.within("$Secure")
            raise
        self._volume.cache.put(key, known, len(known) + 200)
        return known

    def _place(self, number: int) -> tuple[int, int]:
        """(offset, length) in $SDS of what $SII has for `number`."""
        secure = self._inodes.read(SECURE)
        index = Index(self._volume, secure, _SII)

        def compare(buf: bytes, at: int, key: int) -> int:
            if key != 4:
                raise Corrupt("index entry", "key_length", found=key, expected=4)
            return number - int.from_bytes(buf[at + 16 : at + 20], "little")

        found = index.descend(compare)
        if found is None:
            raise Corrupt("security descriptor", "id", found=number, expected="one that $SII has")
        buf, at, length = found
        place = int.from_bytes(buf[at : at + 2], "little")
        if place < 20 or place + 20 > length:
            raise Corrupt("index entry", "data_offset", found=place)
        _, _, offset, size = _head(buf, at + place)
        if not 20 <= size <= _MOST:
            raise Corrupt("security descriptor", "length", found=size)
        return offset, size

    def _entry(self, number: int, offset: int, length: int) -> bytes:
        stream = self._inodes.read(SECURE).open(r.DATA, _SDS)
        if stream is None:
            raise Corrupt("$Secure", "$SDS", expected="a stream of that name")
        for place in (offset, offset + _MIRROR):
            if place + length > stream.size:
                continue
            raw = stream.read(place, length)
            digest, own, at, size = _head(raw)
            if (own, at, size) == (number, offset, length) and digest == _hash(raw[20:]):
                return raw[20:]
        raise Corrupt("security descriptor", "hash", found=number, expected="a good copy in $SDS")


def _hash(descriptor: bytes) -> int:
    """How $SDS sums up a descriptor: its words added, the sum rotated by three bits before each."""
    total = 0
    for (word,) in struct.iter_unpack("<I", descriptor + bytes(-len(descriptor) % 4)):
        total = (total << 3 | total >> 29) + word & 0xFFFFFFFF
    return total
