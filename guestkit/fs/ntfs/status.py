"""Status: struct stat of a file as ntfs-3g shows it, and of many files in a few reads.

Spec: libfsntfs documentation, "The standard information attribute". Sizes are those of the unnamed $DATA, or of the
index of a directory; owner and mode are options of the mount unless WSL's attributes say otherwise.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Generator, Sequence
from typing import NamedTuple

from guestkit.errors import Corrupt, GuestkitError, NotFound
from guestkit.fs.base import Stat
from guestkit.fs.ntfs import ea, reparse
from guestkit.fs.ntfs import record as r
from guestkit.fs.ntfs.inode import I30, Inode, Inodes
from guestkit.fs.ntfs.links import INTERIX_BLK, INTERIX_CHR, INTERIX_LINK, MOST_INTERIX, Links, interix_target
from guestkit.fs.ntfs.volume import Options

EPOCH = 116_444_736_000_000_000  # 1970 in units of 100 ns since 1601
HIDDEN, SYSTEM, REPARSE = 0x2, 0x4, 0x400  # file attributes
WOF_STREAM = "WofCompressedData".encode("utf-16-le")
_BLKSIZE = 4096

standard_information = struct.Struct("<qqqqI").unpack_from  # creation, change, MFT change, access, attributes
_new = tuple.__new__
_header = struct.Struct("<16xHHHHIIQ").unpack_from  # sequence number, links, first attribute, flags, bytes used, ...
# type, length, non-resident, value length and offset of an attribute, and what standard_information tells behind it
_standard = struct.Struct("<IIB7xIH2xqqqqI").unpack_from
_kind = struct.Struct("<II").unpack_from  # type and length
_form = struct.Struct("<8xBB2xH").unpack_from  # non-resident, name length, flags
_name_at = struct.Struct("<10xH").unpack_from
_sizes = struct.Struct("<16xq16xqqq").unpack_from  # lowest VCN, allocated, data, initialised size


class Found(NamedTuple):
    """What many() gives: one of the two for each file reference."""

    stats: dict[int, Stat | None]
    bad: dict[int, GuestkitError]


class Status:
    """Tells the status of the files of one volume."""

    def __init__(self, inodes: Inodes, links: Links, options: Options) -> None:
        self._inodes = inodes
        self._table = inodes.table
        self._record_size = inodes.table.record_size
        self._links = links
        self._file_mode = options.owner.file_mode
        self._dir_mode = 0o40000 | options.owner.dir_mode
        self._uid = options.owner.uid
        self._gid = options.owner.gid

    def stat(self, number: int) -> Stat:
        """Raises: NotFound, Corrupt."""
        return self._one(number, 0)

    def many(self, references: Collection[int]) -> Generator[None, None, Found]:
        """The status, or the error, of each file reference; neighbouring records are read and decoded together.

        Pauses now and then.
        """
        found = Found({}, {})
        table = self._table
        size = table.record_size
        numbered = {reference & r.REFERENCE: reference for reference in references}
        for members, run in table.runs(sorted(numbered)):
            special = members
            if run and r.fix_run(run, size):
                first = members[0]
                special = self._usual(run, first, [numbered[number] for number in members], found.stats)
                for number in special:
                    begin = (number - first) * size
                    table.keep(number, bytes(run[begin : begin + size]))
            self._each([numbered[number] for number in special], found)
            yield
        if len(numbered) < len(references):  # some are referred to with several sequence numbers
            self._each([each for each in references if each not in found.stats and each not in found.bad], found)
        return found

    def _each(self, references: Sequence[int], found: Found) -> None:
        for reference in references:
            try:
                found.stats[reference] = self._one(reference & r.REFERENCE, reference >> 48)
            except GuestkitError as error:
                found.bad[reference] = error

    def _one(self, number: int, sequence: int) -> Stat:
        """The status of one file; `sequence`: what a reference says, or 0. Raises: NotFound, Corrupt."""
        record = self._table.record(number)
        if not record.flags & r.IN_USE or record.base:
            raise NotFound(f"MFT record {number} holds no file")
        if sequence not in (0, record.sequence):
            raise Corrupt("MFT record", "sequence number", found=record.sequence, expected=sequence)
        found: dict[int, Stat | None] = {}
        self._usual(record.raw, number, [number], found)
        return found.get(number) or self._full(self._inodes.read(number))

    def of_stream(self, status: Stat, head: r.Piece, links: int) -> Stat:
        """The status of the stream that begins with `head`, of a file of `status` with so many names."""
        mode = status.mode if status.mode & 0xF000 == 0x8000 else 0x8000 | self._file_mode
        return status._replace(mode=mode, nlink=links, rdev=0, size=head.size, blocks=head.packed >> 9)

    def _usual(
        self, buf: bytes | bytearray, first: int, references: Sequence[int], stats: dict[int, Stat | None]
    ) -> list[int]:
        """Put into `stats` what is referred to and has nothing special; return the numbers of the other records.

        `buf`: the records from number `first` on, fixups applied.
        """
        special: list[int] = []
        record_size = self._record_size
        dir_mode, file_mode, uid, gid = self._dir_mode, 0x8000 | self._file_mode, self._uid, self._gid
        header, standard, kind_of, form, sizes, new = _header, _standard, _kind, _form, _sizes, _new
        for reference in references:
            number = reference & 0xFFFFFFFFFFFF
            base = (number - first) * record_size
            sequence, links, at, flags, used, allocated, extends = header(buf, base)
            if (
                not flags & 1
                or extends
                or (reference >> 48 != sequence and reference >> 48)
                or allocated != record_size
                or used > allocated
                or not 42 <= at <= used - 60
            ):
                special.append(number)
                continue
            end = base + used
            at += base
            kind, length, nonresident, held, value_at, created, changed, record_changed, accessed, attributes = (
                standard(buf, at)
            )
            if (
                kind != 0x10
                or nonresident
                or value_at != 24
                or not 36 <= held <= length - 24
                or at + length > end
                or length & 7
                or attributes & 0x400  # REPARSE
            ):
                special.append(number)
                continue
            size = packed = 0
            directory = flags & 2
            mode = dir_mode if directory else file_mode
            # a system file is special unless it turns out to be a link
            unsure = attributes & 4 and not directory
            at += length
            while at + 24 <= end:
                kind, length = kind_of(buf, at)
                if length < 24 or length & 7 or at + length > end:
                    break
                if kind < 0x80:
                    if kind <= 0x20:
                        break
                elif kind == 0x80:
                    nonresident, named, about = form(buf, at)
                    if not named and not directory:
                        if nonresident:
                            if length < 64 or about & 0x80FF:
                                break
                            lowest, packed, size, initialized = sizes(buf, at)
                            if lowest or not 0 <= initialized <= size <= packed:
                                break
                        else:
                            size, place = r.resident_head(buf, at + 16)
                            if place + size > length:
                                break
                            packed = size + 7 & ~7
                            if unsure:
                                if not 8 < size <= MOST_INTERIX or about & r.ENCRYPTED:
                                    break
                                value = buf[at + place : at + place + size]
                                if value[:8] != INTERIX_LINK:
                                    break
                                size = len(interix_target(value))
                                mode = 0o120777
                                unsure = 0
                elif kind == 0xA0:
                    (place,) = _name_at(buf, at)
                    if directory and buf[at + 9] == 4 and buf[at + place : at + place + 8] == I30:
                        if length < 64 or not buf[at + 8]:
                            break
                        lowest, packed, size, initialized = sizes(buf, at)
                        if lowest or not 0 <= initialized <= size <= packed:
                            break
                elif 0xD0 <= kind <= 0xE0 or kind == 0xFFFFFFFF:
                    break
                at += length
            else:
                if unsure:
                    special.append(number)
                    continue
                stats[reference] = new(
                    Stat,
                    (
                        number,
                        mode,
                        1 if directory else links,
                        uid,
                        gid,
                        0,
                        size,
                        _BLKSIZE,
                        packed >> 9 if directory else packed + 511 >> 9,
                        (accessed - 116_444_736_000_000_000) * 100,  # EPOCH
                        (changed - 116_444_736_000_000_000) * 100,
                        (record_changed - 116_444_736_000_000_000) * 100,
                        (created - 116_444_736_000_000_000) * 100,
                    ),
                )
                if directory:  # it is entered next
                    self._table.keep(number, bytes(buf[base : base + record_size]))
                continue
            special.append(number)
        return special

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
