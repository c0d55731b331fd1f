"""Extended attributes: named streams as "user.NAME", and what ntfs-3g keeps under "system.ntfs_".

As there, only streams are listed, and the others are given to whoever asks for them.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Sequence

from guestkit.errors import GuestkitError, NoAttribute
from guestkit.fs.ntfs import ea, reparse
from guestkit.fs.ntfs import record as r
from guestkit.fs.ntfs.directory import FIRST_USER, ROOT
from guestkit.fs.ntfs.inode import Inode
from guestkit.fs.ntfs.names import to_utf8, to_utf16
from guestkit.fs.ntfs.security import Security
from guestkit.fs.ntfs.status import WOF_STREAM, Status

_MOST = 64 << 10  # bytes of an extended attribute that Linux hands out
_USER = b"user."
_DIRECTORY_FLAG = 0x10
_NORMAL_FLAG = 0x80


class Attributes:
    """The extended attributes of the files of one volume."""

    def __init__(self, status: Status, security: Security) -> None:
        self._status = status
        self._security = security
        self._system: dict[bytes, Callable[[Inode], bytes | None]] = {
            b"system.ntfs_acl": security.descriptor,
            b"system.ntfs_attrib": self._attrib,
            b"system.ntfs_times": self._times,
            b"system.ntfs_crtime": lambda inode: self._times(inode)[:8],
            b"system.ntfs_reparse_data": lambda inode: inode.value(r.REPARSE_POINT, reparse.MOST),
            b"system.ntfs_object_id": lambda inode: inode.value(r.OBJECT_ID, 4096),
            b"system.ntfs_ea": lambda inode: inode.value(r.EA, ea.MOST),
        }

    def streams(self, inode: Inode) -> list[tuple[bytes, bytes, int]]:
        """(name, name in UTF-16, size) of each named stream. Raises: Corrupt."""
        found = []
        for piece in inode.heads(r.DATA):
            if piece.name and not (piece.name == WOF_STREAM and self._is_wof(inode)):
                found.append((to_utf8(piece.name), piece.name, piece.size))
        return found

    def _has_user(self, inode: Inode) -> bool:
        """Whether streams are shown as attributes: not those of links, devices and system files."""
        return (inode.number >= FIRST_USER or inode.number == ROOT) and self._status.kind(inode)[0] in (0x4000, 0x8000)

    def _is_wof(self, inode: Inode) -> bool:
        point = self._status.kind(inode)[1]
        return point is not None and point.tag == reparse.WOF

    def names(self, inode: Inode) -> Sequence[bytes]:
        """Raises: Corrupt."""
        if not any(inode.names(r.DATA)) or not self._has_user(inode):
            return ()
        return [_USER + name for name, _, _ in self.streams(inode)]

    def value(self, inode: Inode, name: bytes) -> bytes:
        """Raises: NoAttribute, Corrupt; GuestkitError (E2BIG) for a stream that is too long to be an attribute."""
        system = self._system.get(name)
        if system is not None:
            found = system(inode)
            if found is None:
                raise NoAttribute
            return found
        stored = to_utf16(name[len(_USER) :]) if name.startswith(_USER) else None
        if not stored or not self._has_user(inode):
            raise NoAttribute
        source = inode.open(r.DATA, stored)
        if source is None or (stored == WOF_STREAM and self._is_wof(inode)):
            raise NoAttribute
        if source.size > _MOST:
            raise GuestkitError(f"the stream has {source.size} bytes", number=errno.E2BIG)
        return source.read(0, source.size)

    def _attrib(self, inode: Inode) -> bytes:
        flags = self._status.information(inode)[4]
        if inode.is_directory:
            flags |= _DIRECTORY_FLAG
        return struct.pack("<I", flags & 0xFFFFFFFF or _NORMAL_FLAG)

    def _times(self, inode: Inode) -> bytes:
        created, changed, record_changed, accessed, _ = self._status.information(inode)
        return struct.pack("<qqqq", created, changed, accessed, record_changed)
