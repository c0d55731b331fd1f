"""Inodes: read in pages of 64, one inode decoded and verified, and its struct stat.

Spec: XFS Algorithms & Data Structures, "On-disk Inode"; fs/xfs/libxfs/xfs_format.h for large counters and big
timestamps. What is refused is what the kernel's xfs_dinode_verify() refuses, the forks apart, which are checked where
they are used. Names lead to inodes by arithmetic alone, as in the kernel: an inode that is not in use has no mode, and
what never was an inode has no magic number. Left out: project ids, hints, generations.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import NamedTuple

from guestkit.errors import Corrupt, GuestkitError, NotFound, SourceError
from guestkit.fs.base import Stat
from guestkit.fs.xfs.blocks import Blocks
from guestkit.layout import Layout

DEV, LOCAL, EXTENTS, BTREE = 0, 1, 2, 3  # di_format
REALTIME = 0x1  # di_flags
REFLINK2, BIGTIME2, NREXT64_2, METADATA2 = 0x2, 0x8, 0x10, 0x20  # di_flags2
_MAGIC = 0x494E
_CORE2, _CORE3 = 100, 176  # bytes before the data fork
_NS = 1_000_000_000
_BIGTIME = (1 << 31) * _NS  # what a big timestamp counts from lies so long before 1970
_PAGE_LOG = 6
_PAGE = 1 << _PAGE_LOG  # inodes that are read together; a chunk of inodes, where chunks are aligned
_RUN_PAGES = 32  # pages that one bulk read takes at most
_MOST_KEPT = 128  # pages of one bulk read that are put into the cache: the listing of a huge directory comes once
_GAP_PAGES = 1  # pages not asked for that are read along rather than starting another read
_FEW = 2  # inodes of a page that are summed one by one
_PAGE_SIZE = 4096  # of the machine whose stat is shown: st_blksize is never less

_BASE = {
    "di_magic": (0, "H"),
    "di_mode": (2, "H"),
    "di_version": (4, "B"),
    "di_format": (5, "B"),
    "di_onlink": (6, "H"),
    "di_uid": (8, "I"),
    "di_gid": (12, "I"),
    "di_nlink": (16, "I"),
    "di_atime": (32, "Q"),
    "di_mtime": (40, "Q"),
    "di_ctime": (48, "Q"),
    "di_size": (56, "Q"),
    "di_nblocks": (64, "Q"),
}
_V2 = Layout("xfs_dinode", _CORE2, ">", **_BASE)
_V3 = Layout(
    *("xfs_dinode", _CORE3, ">"),
    **_BASE,
    di_flags2=(120, "Q"),
    di_crtime=(144, "Q"),
    di_ino=(152, "Q"),
    di_uuid=(160, "16s"),
)
_REST = Layout(
    "xfs_dinode", 100, ">", di_big_nextents=(24, "Q"), di_nextents=(76, "I"), di_anextents=(80, "H"),
    di_forkoff=(82, "B"), di_aformat=(83, "B"), di_flags=(90, "H"),
)  # fmt: skip
_unpack2 = _V2.unpack_from
_unpack3 = _V3.unpack_from
_unpack_rest = _REST.unpack_from
_crcs = struct.Struct(f"<{_PAGE}I").unpack
_new = tuple.__new__
_KINDS = frozenset((0x1000, 0x2000, 0x4000, 0x6000, 0x8000, 0xA000, 0xC000))
# (file type, di_format) of inodes that have no device number
_PLAIN = frozenset(
    kind | form for kind, forms in ((0x4000, (1, 2, 3)), (0x8000, (2, 3)), (0xA000, (1, 2, 3))) for form in forms
)


class Found(NamedTuple):
    """What stat_many() gives: one of the two for each inode."""

    stats: dict[int, Stat | None]
    bad: dict[int, GuestkitError]


class Inode:
    """One inode, verified. `raw` is its whole record."""

    __slots__ = (
        "attr_count", "attr_format", "attr_start", "blocks", "core", "data_count", "flags", "format", "ino", "mode",
        "raw", "size", "stat",
    )  # fmt: skip

    def __init__(self, raw: bytes, stat: Stat, block_sectors: int) -> None:
        self.ino = stat.ino
        self.raw = raw
        self.stat = stat
        self.mode = stat.mode
        self.size = stat.size
        self.blocks = stat.blocks >> block_sectors
        big, self.data_count, self.attr_count, forkoff, self.attr_format, self.flags = _unpack_rest(raw)
        self.format = raw[5]
        self.core = _CORE2
        if raw[4] == 3:
            self.core = _CORE3
            if raw[127] & NREXT64_2:
                self.attr_count = self.data_count
                self.data_count = big
        self.attr_start = self.core + 8 * forkoff if forkoff else 0

    @property
    def data_fork(self) -> bytes:
        """Raises: Corrupt (EUCLEAN) when the attribute fork would begin beyond the inode."""
        end = self.attr_start or len(self.raw)
        if end > len(self.raw):
            raise Corrupt("inode", "di_forkoff", found=self.raw[82], expected=f"within {len(self.raw)} bytes")
        return self.raw[self.core : end]

    @property
    def attr_fork(self) -> bytes:
        """Empty when there is none. Raises: as data_fork."""
        if not self.attr_start:
            return b""
        if self.attr_start >= len(self.raw):
            raise Corrupt("inode", "di_forkoff", found=self.raw[82], expected=f"within {len(self.raw)} bytes")
        return self.raw[self.attr_start :]


class InodeTable:
    """Reads inodes by number, pages of them through the cache."""

    def __init__(self, blocks: Blocks) -> None:
        sup = blocks.superblock
        self._blocks = blocks
        self._token = blocks.token
        self._cached = blocks.cache.get
        self._super = sup
        self._size = sup.inode_size
        self._block_size = max(_PAGE_SIZE, sup.block_size)
        self._sectors = sup.block_log - 9  # of a block, as a logarithm
        self._uuid = sup.meta_uuid
        self._group_log = sup.ag_inode_log
        self._limit = sup.ag_count << sup.ag_inode_log
        self._page_log = sup.inode_log + _PAGE_LOG
        self._extend = blocks.extend

    def read(self, ino: int, *, special: bool = False) -> Inode:
        """Return inode `ino`. `special`: those of metadata too.

        Raises: NotFound (ENOENT) for a number that is none of this filesystem or is not in use; Corrupt (EUCLEAN).
        """
        key = (self._token, "i", ino)
        inode: Inode | None = self._cached(key)
        if inode is not None:
            return inode
        if not 0 < ino < self._limit:
            raise NotFound(f"inode {ino} is none of this filesystem")
        page = self._load(ino >> _PAGE_LOG)
        at = (ino & _PAGE - 1) * self._size
        raw = page[at : at + self._size]
        try:
            if len(raw) < self._size:
                raise Corrupt("inode", "number", found=ino, expected="one inside its allocation group")
            inode = Inode(raw, self._decode(ino, raw, 0, special), self._sectors)
        except GuestkitError as error:
            error.within(f"inode {ino}")
            raise
        if not special:
            self._blocks.cache.put(key, inode, 800 + self._size)
        return inode

    def stat_many(self, inos: Iterable[int]) -> Found:
        """Return the stat of each inode, or the error that read() raises for it; neighbours are read together.

        Raises: WouldBlock.
        """
        stats: dict[int, Stat | None] = {}
        bad: dict[int, GuestkitError] = {}
        wanted: dict[int, list[int]] = {}
        limit = self._limit
        current = -1  # the page that the last one stood in: neighbours come together
        members: list[int] = []
        for ino in inos:
            page = ino >> _PAGE_LOG
            if page != current:
                if not 0 < ino < limit:
                    bad[ino] = NotFound(f"inode {ino} is none of this filesystem")
                    continue
                current = page
                members = wanted.setdefault(page, [])
            members.append(ino)
        pages = self._load_many(sorted(wanted))
        bulk = self._decode_page if self._super.has_crc else self._decode_each
        whole = _PAGE * self._size
        for page, members in wanted.items():
            data = pages[page]
            if not isinstance(data, bytes):
                for ino in members:
                    bad[ino] = data
            elif len(data) == whole:
                bulk(data, members, stats, bad)
            else:
                self._decode_each(data, members, stats, bad)
        return Found(stats, bad)

    def _decode_each(
        self, data: bytes, members: list[int], stats: dict[int, Stat | None], bad: dict[int, GuestkitError]
    ) -> None:
        """Decode `members` of the page `data`."""
        size, most = self._size, len(data) - self._size
        for ino in members:
            at = (ino & _PAGE - 1) * size
            try:
                if at > most:
                    raise Corrupt("inode", "number", found=ino, expected="one inside its allocation group")
                stats[ino] = self._decode(ino, data, at)
            except GuestkitError as error:
                bad[ino] = error.within(f"inode {ino}")

    def _decode_page(
        self, data: bytes, members: list[int], stats: dict[int, Stat | None], bad: dict[int, GuestkitError]
    ) -> None:
        """As _decode_each, for a whole page of version 5: what is usual is decoded here, and the rest by _decode."""
        if len(members) <= _FEW:
            self._decode_each(data, members, stats, bad)
            return
        size, block_size, shift, uuid = self._size, self._block_size, self._sectors, self._uuid
        # the checksum fields, which count as zeros, are taken out of all inodes at once
        blank = bytes(_PAGE)
        page = bytearray(data)
        stored = bytearray(4 * _PAGE)
        for column in range(4):
            stored[column::4] = data[100 + column :: size]
            page[100 + column :: size] = blank
        clean = bytes(page)
        sums = _crcs(stored)
        extend, unpack, new, plain = self._extend, _unpack3, _new, _PLAIN
        keep, token = self._blocks.cache.put, self._token
        for ino in members:
            slot = ino & 63
            at = slot * size
            end = at + size
            (
                magic, mode, version, form, _, uid, gid, links, atime, mtime, ctime, length, blocks,
                flags2, btime, own, id,
            ) = unpack(data, at)  # fmt: skip
            kind = mode & 0xF000
            if (
                extend(0, clean[at:end]) != sums[slot]
                or own != ino
                or id != uuid
                or magic != 0x494E
                or version != 3
                or kind | form not in plain
                or flags2 & 0x28 != 8
                or length >> 63
                or not links
            ):
                try:
                    stats[ino] = self._decode(ino, data, at)
                except GuestkitError as error:
                    bad[ino] = error.within(f"inode {ino}")
                continue
            stats[ino] = stat = new(
                Stat,
                (
                    ino, mode, links, uid, gid, 0, length, block_size, blocks << shift,
                    atime - 2147483648000000000, mtime - 2147483648000000000,
                    ctime - 2147483648000000000, btime - 2147483648000000000,
                ),
            )  # fmt: skip
            if kind != 0x8000:  # a directory is entered next, a link is read
                keep((token, "i", ino), Inode(data[at:end], stat, shift), 800 + size)

    def _place(self, page: int) -> tuple[int, int]:
        """(byte offset on the device, bytes before the end of the allocation group) of a page."""
        sup = self._super
        ino = page << _PAGE_LOG
        group = ino >> self._group_log
        within = (ino & ((1 << self._group_log) - 1)) << sup.inode_log
        return (group * sup.ag_blocks << sup.block_log) + within, (sup.ag_length(group) << sup.block_log) - within

    def _load(self, page: int) -> bytes:
        key = (self._token, "p", page)
        data: bytes | None = self._cached(key)
        if data is None:
            start, left = self._place(page)
            data = self._blocks.device.read(start, min(1 << self._page_log, left)) if left > 0 else b""
            self._blocks.cache.put(key, data, len(data) + 150)
        return data

    def _load_many(self, wanted: list[int]) -> dict[int, bytes | GuestkitError]:
        """`wanted`: numbers of pages, ascending."""
        pages: dict[int, bytes | GuestkitError] = {}
        cache, token = self._blocks.cache, self._token
        missing = []
        for page in wanted:
            data = cache.get((token, "p", page))
            if data is None:
                missing.append(page)
            else:
                pages[page] = data
        keep = len(missing) <= _MOST_KEPT
        group_pages = self._group_log - _PAGE_LOG  # never negative: a group has 64 blocks
        log = self._page_log
        at = 0
        while at < len(missing):
            first = last = missing[at]
            group = first >> group_pages
            stop = at + 1
            while stop < len(missing):
                page = missing[stop]
                if page - last > 1 + _GAP_PAGES or page - first >= _RUN_PAGES:
                    break
                if page >> group_pages != group:
                    break
                last = page
                stop += 1
            try:
                start, left = self._place(first)
                run = self._blocks.device.read(start, min((last + 1 - first) << log, left)) if left > 0 else b""
            except (Corrupt, SourceError):  # some of them may be there all the same
                for page in missing[at:stop]:
                    try:
                        pages[page] = self._load(page)
                    except (Corrupt, SourceError) as error:
                        pages[page] = error
            else:
                for page in missing[at:stop]:
                    offset = (page - first) << log
                    pages[page] = data = run[offset : offset + (1 << log)]
                    if keep:
                        cache.put((token, "p", page), data, len(data) + 150)
            at = stop
        return pages

    def _decode(self, ino: int, page: bytes, at: int, special: bool = False) -> Stat:
        """The stat of the inode whose record begins at `at`."""
        sup = self._super
        btime_ns: int | None = None
        flags2 = 0
        if sup.has_crc:
            (
                magic, mode, version, form, links1, uid, gid, links, atime, mtime, ctime, size, blocks,
                flags2, btime, own, uuid,
            ) = _unpack3(page, at)  # fmt: skip
            if magic == _MAGIC and version == 3:
                self._check(ino, page[at : at + self._size], own, uuid)
            btime_ns = _time(btime, flags2)
        else:
            (magic, mode, version, form, links1, uid, gid, links, atime, mtime, ctime, size, blocks) = _unpack2(
                page, at
            )
        if magic != _MAGIC:
            raise Corrupt("inode", "di_magic", found=magic, expected=_MAGIC)
        if (version != 3) if sup.has_crc else (version != 1 and version != 2):
            raise Corrupt("inode", "di_version", found=version, expected=3 if sup.has_crc else "1 or 2")
        if not mode:
            raise NotFound("a name refers to an inode that is not in use")
        kind = mode & 0xF000
        if kind not in _KINDS:
            raise Corrupt("inode", "di_mode", found=mode)
        if size >> 63:
            raise Corrupt("inode", "di_size", found=size)
        if blocks > self._blocks.count and not (page[at + 91] & REALTIME and sup.realtime):
            raise Corrupt("inode", "di_nblocks", found=blocks, expected=f"at most {self._blocks.count}")
        if flags2 & BIGTIME2 and not sup.bigtime:
            raise Corrupt("inode", "di_flags2", found=flags2, expected="no big timestamps without the feature")
        if flags2 & NREXT64_2 and not sup.nrext64:
            raise Corrupt("inode", "di_flags2", found=flags2, expected="no large counters without the feature")
        if flags2 & METADATA2 and sup.metadir and not special:
            raise Corrupt("inode", "di_flags2", found=flags2, expected="no inode of metadata under a name")
        if version == 1:
            links = links1
        rdev = 0
        if kind | form not in _PLAIN:
            if form != DEV or kind in (0x4000, 0x8000, 0xA000):
                raise Corrupt("inode", "di_format", found=form)
            if kind == 0x2000 or kind == 0x6000:
                core = at + (_CORE3 if version == 3 else _CORE2)
                device = int.from_bytes(page[core : core + 4], "big")
                rdev = os.makedev(device >> 18 & 0x3FFF, device & 0x3FFFF)
        elif links and not size and kind != 0x8000:
            raise Corrupt("inode", "di_size", found=0, expected="more for a directory or a link")
        device_node = kind == 0x2000 or kind == 0x6000
        return _new(
            Stat,
            (
                ino, mode, links, uid, gid, rdev, size, _PAGE_SIZE if device_node else self._block_size,
                blocks << self._sectors, _time(atime, flags2), _time(mtime, flags2), _time(ctime, flags2), btime_ns,
            ),
        )  # fmt: skip

    def _check(self, ino: int, raw: bytes, own: int, uuid: bytes) -> None:
        """Raises: Corrupt when an inode's record is not what was written for this inode of this filesystem."""
        stored = int.from_bytes(raw[100:104], "little")
        found = self._extend(0, raw[:100] + b"\0\0\0\0" + raw[104:])
        if found != stored:
            raise Corrupt("inode", "di_crc", found=stored, expected=found)
        if own != ino:
            raise Corrupt("inode", "di_ino", found=own, expected=ino)
        if uuid != self._uuid:
            raise Corrupt("inode", "di_uuid", found=uuid.hex(), expected=self._uuid.hex())


def _time(stored: int, flags2: int) -> int:
    """Nanoseconds since 1970 of a timestamp."""
    if flags2 & BIGTIME2:
        return stored - _BIGTIME
    seconds = stored >> 32
    return (seconds - (1 << 32) if seconds >> 31 else seconds) * _NS + (stored & 0xFFFFFFFF)
