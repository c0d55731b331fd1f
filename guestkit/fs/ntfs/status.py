"""Status: struct stat of a file as ntfs-3g shows it, and of many files in a few reads.

Spec: libfsntfs documentation, "The standard information attribute". Sizes are those of the unnamed $DATA, or of the
index of a directory; owner and mode are options of the mount unless WSL's attributes say otherwise.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

from guestkit.errors import Corrupt, GuestkitError, NotFound
from guestkit.fs.base import Stat
from guestkit.fs.ntfs import ea, reparse
from guestkit.fs.ntfs import record as r
from guestkit.fs.ntfs.inode import I30, Inode, Inodes
from guestkit.fs.ntfs.links import INTERIX_BLK, INTERIX_CHR, INTERIX_LINK, MOST_INTERIX, Links
from guestkit.fs.ntfs.volume import Options

EPOCH = 116_444_736_000_000_000  # 1970 in units of 100 ns since 1601
HIDDEN, SYSTEM, REPARSE = 0x2, 0x4, 0x400  # file attributes
WOF_STREAM = "WofCompressedData".encode("utf-16-le")
_BLKSIZE = 4096

standard_information = struct.Struct("<qqqqI").unpack_from  # creation, change, MFT change, access, attributes
_new = tuple.__new__


class Status:
    """Tells the status of the files of one volume."""

    def __init__(self, inodes: Inodes, links: Links, options: Options) -> None:
        self._inodes = inodes
        self._table = inodes.table
        self._links = links
        self._file_mode = options.owner.file_mode
        self._dir_mode = 0o40000 | options.owner.dir_mode
        self._uid = options.owner.uid
        self._gid = options.owner.gid

    def stat(self, number: int) -> Stat:
        """Raises: NotFound, Corrupt."""
        record = self._table.record(number)
        if not record.flags & r.IN_USE or record.base:
            raise NotFound(f"MFT record {number} holds no file")
        found = self._quick(record.raw, number, record.first, record.used, record.flags, record.links)
        return found or self._full(self._inodes.read(number))

    def of_stream(self, status: Stat, head: r.Piece, links: int) -> Stat:
        """The status of the stream that begins with `head`, of a file of `status` with so many names."""
        mode = status.mode if status.mode & 0xF000 == 0x8000 else 0x8000 | self._file_mode
        return status._replace(mode=mode, nlink=links, rdev=0, size=head.size, blocks=head.packed >> 9)

    def many(self, references: Sequence[int]) -> dict[int, Stat | GuestkitError]:
        """The status, or the error, of each file reference."""
        wanted: dict[int, Stat | GuestkitError] = {}
        sequences = {reference & r.REFERENCE: reference for reference in references}
        fixed, header, quick = r.fixed, r.header, self._quick
        size = self._table.record_size
        for number, raw in self._table.raw_many(sorted(sequences)):
            reference = sequences[number]
            try:
                if isinstance(raw, GuestkitError):
                    raise raw
                buf = fixed(raw, b"FILE")
                _, _, _, sequence, links, first, flags, used, allocated, base = header(buf)
                if flags & 1 and not base and allocated == size and used <= size and first >= 42:
                    if reference >> 48 != sequence and reference >> 48:
                        raise Corrupt("MFT record", "sequence number", found=sequence, expected=reference >> 48)
                    found = quick(buf, number, first, used, flags, links)
                    if found is not None:
                        wanted[number] = found
                        continue
            except GuestkitError as error:
                if number > 3:  # the mirror has the first ones
                    wanted[number] = error
                    continue
            try:
                wanted[number] = self.stat(number)
            except GuestkitError as error:
                wanted[number] = error
        return wanted

    def _quick(self, buf: bytes, number: int, at: int, used: int, flags: int, links: int) -> Stat | None:
        """The status of a file that has nothing special; None where `_full` must tell it."""
        attributes = 0
        size = allocated = 0
        times = None
        directory = flags & 2
        head = r.attribute_head
        while at + 24 <= used:
            kind, length, nonresident, named, name_at, about, _ = head(buf, at)
            if length < 24 or length & 7 or at + length > used:
                return None
            if kind == 0x80:
                if not named and not directory:
                    if nonresident:
                        if length < 64 or buf[at + 16 : at + 24] != b"\0\0\0\0\0\0\0\0" or about & 0x80FF:
                            return None
                        allocated, size, initialized = r.sizes_head(buf, at + 40)
                        if not 0 <= initialized <= size <= allocated:
                            return None
                    else:
                        size, place = r.resident_head(buf, at + 16)
                        if place + size > length:
                            return None
                        allocated = size + 7 & ~7
            elif kind == 0x10:
                if nonresident or length < 60:
                    return None
                value = int.from_bytes(buf[at + 20 : at + 22], "little")
                if value + 36 > length:
                    return None
                created, changed, record_changed, accessed, attributes = standard_information(buf, at + value)
                if attributes & 0x404:
                    return None
                times = created
            elif kind == 0x20:
                return None
            elif kind == 0xA0:
                if directory and named == 4 and buf[at + name_at : at + name_at + 8] == I30:
                    if length < 64 or not nonresident or buf[at + 16 : at + 24] != b"\0\0\0\0\0\0\0\0":
                        return None
                    allocated, size, initialized = r.sizes_head(buf, at + 40)
                    if not 0 <= initialized <= size <= allocated:
                        return None
            elif kind >= 0xD0:
                if kind == 0xFFFFFFFF:
                    break
                if kind <= 0xE0:
                    return None
            at += length
        if times is None:
            return None
        return _new(
            Stat,
            (
                number,
                self._dir_mode if directory else 0x8000 | self._file_mode,
                1 if directory else links,
                self._uid,
                self._gid,
                0,
                size,
                _BLKSIZE,
                allocated >> 9 if directory else allocated + 511 >> 9,
                (accessed - EPOCH) * 100,
                (changed - EPOCH) * 100,
                (record_changed - EPOCH) * 100,
                (times - EPOCH) * 100,
            ),
        )

    # what a file is

    def reparse_point(self, inode: Inode) -> reparse.Reparse | None:
        """The reparse point of a file that has one. Raises: Corrupt."""
        value = inode.value(r.REPARSE_POINT, reparse.MOST)
        return None if value is None else reparse.parse_reparse(value)

    def information(self, inode: Inode) -> tuple[int, int, int, int, int]:
        """(creation, change, MFT change, access, attributes). Raises: Corrupt."""
        piece = inode.head(r.STANDARD_INFORMATION)
        if piece is None or piece.value is None or len(piece.value) < 36:
            raise Corrupt("inode", "$STANDARD_INFORMATION", expected="one", where=inode.where)
        found: tuple[int, int, int, int, int] = standard_information(piece.value)
        return found

    def kind(self, inode: Inode) -> tuple[int, reparse.Reparse | None]:
        """(S_IFMT, reparse point) of a file. Raises: Corrupt."""
        attributes = self.information(inode)[4]
        point = self.reparse_point(inode) if attributes & REPARSE else None
        if point is not None and point.tag in reparse.KINDS:
            return reparse.KINDS[point.tag], point
        if inode.is_directory:
            return 0x4000, point
        if attributes & SYSTEM and point is None:
            return self._interix(inode, attributes), None
        return 0x8000, point

    def _interix(self, inode: Inode, attributes: int) -> int:
        """S_IFMT of a system file, in which Services for Unix keep links, devices, fifos and sockets."""
        data = inode.head(r.DATA)
        if data is None:
            return 0x8000
        if not attributes & HIDDEN and data.size < 2:
            return 0xC000 if data.size else 0x1000
        if not 8 < data.size <= MOST_INTERIX or data.flags & r.ENCRYPTED:
            return 0x8000
        value = inode.value(r.DATA, MOST_INTERIX) or b""
        if value[:8] == INTERIX_LINK:
            return 0xA000
        if len(value) == 24:
            return {INTERIX_CHR: 0x2000, INTERIX_BLK: 0x6000}.get(value[:8], 0x8000)
        return 0x8000

    def eas(self, inode: Inode) -> dict[bytes, bytes]:
        """The extended attributes in the manner of OS/2. Raises: Corrupt."""
        data = inode.value(r.EA, ea.MOST) if inode.head(r.EA_INFORMATION) is not None else None
        return ea.parse_eas(data) if data else {}

    def _device(self, inode: Inode, point: reparse.Reparse | None, eas: dict[bytes, bytes]) -> int:
        if point is None:
            value = inode.value(r.DATA, MOST_INTERIX) or b""
            major, minor = struct.unpack_from("<QQ", value, 8) if len(value) >= 24 else (0, 0)
        else:
            value = eas.get(b"$LXDEV", b"")
            if len(value) != 8:
                raise Corrupt("WSL device", "$LXDEV", found=len(value), expected="8 bytes")
            major, minor = struct.unpack("<II", value)
        if major >> 32 or minor >> 32:
            raise Corrupt("device", "number", found=major)
        return os.makedev(major & 0xFFF, minor & 0xFFFFF)

    def _full(self, inode: Inode) -> Stat:
        try:
            return self._stat(inode)
        except Corrupt as error:
            if not error.where:
                error.within(inode.where)
            raise

    def _stat(self, inode: Inode) -> Stat:
        created, changed, record_changed, accessed, _ = self.information(inode)
        kind, point = self.kind(inode)
        directory = kind == 0x4000
        data = inode.head(r.INDEX_ALLOCATION, I30) if inode.is_directory else inode.head(r.DATA)
        size = data.size if data is not None else 0
        allocated = data.packed if data is not None else 0
        rdev = 0
        eas = self.eas(inode)
        if kind == 0xA000:
            size = len(self._links.read(inode, point).posix())
        elif kind in (0x2000, 0x6000):
            rdev = self._device(inode, point, eas)
        elif point is not None and point.tag == reparse.WOF:
            packed = inode.head(r.DATA, WOF_STREAM)
            allocated = packed.packed if packed is not None else 0
        uid, gid, mode = (ea.number(eas, name) for name in (b"$LXUID", b"$LXGID", b"$LXMOD"))
        if kind == 0xA000:
            mode = 0o777
        elif mode is not None:
            mode &= 0o7777
        else:
            mode = self._dir_mode & 0o7777 if directory else self._file_mode
        return Stat(
            inode.number,
            kind | mode,
            1 if directory else inode.record.links,
            self._uid if uid is None else uid,
            self._gid if gid is None else gid,
            rdev,
            size,
            _BLKSIZE,
            allocated >> 9 if directory else allocated + 511 >> 9,
            (accessed - EPOCH) * 100,
            (changed - EPOCH) * 100,
            (record_changed - EPOCH) * 100,
            (created - EPOCH) * 100,
        )
