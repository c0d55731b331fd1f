"""Inodes: read in runs, one inode decoded and verified, and its struct stat.

Spec: XFS Algorithms & Data Structures, "On-disk Inode"; fs/xfs/libxfs/xfs_format.h for large counters and big
timestamps. What is refused is what the kernel's xfs_dinode_verify() refuses, the forks apart, which are checked where
they are used. Names lead to inodes by arithmetic alone, as in the kernel: an inode that is not in use has no mode, and
what never was an inode has no magic number. Left out: project ids, hints, generations.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator
from itertools import compress
from typing import NamedTuple

from guestkit.errors import Corrupt, GuestkitError, NotFound, SourceError
from guestkit.fs.base import Stat
from guestkit.fs.recent import Recent
from guestkit.fs.xfs.blocks import Blocks
from guestkit.fs.xfs.columns import BIGTIME2, METADATA2, NO_FILE, NREXT64_2, form_of, stats_of
from guestkit.layout import Layout

DEV, LOCAL, EXTENTS, BTREE = 0, 1, 2, 3  # di_format
REALTIME = 0x1  # di_flags
_MAGIC = 0x494E
_CORE2, _CORE3 = CORES = 100, 176  # bytes before the data fork
_NS = 1_000_000_000
_BIGTIME = (1 << 31) * _NS  # what a big timestamp counts from lies so long before 1970
_PAGE_LOG = 6
_PAGE = 1 << _PAGE_LOG  # inodes that are read together for one; a chunk of inodes, where chunks are aligned
_RUN_BYTES = 1 << 18  # of records, wanted or not, that one bulk read takes at most
_OFTEN = 8  # inodes of a page that are decoded one by one; then all of it is
_FEW = 8  # fewer inodes are decoded one by one
_COLUMN = 256  # inodes that are decoded together, so that their records stay in the processor's cache
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


class _Page:
    """Inodes that were read together because one of them was wanted."""

    __slots__ = ("asked", "data", "stats")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.stats: list[Stat | None] | None = None  # of all of them that are usual, once several were wanted
        self.asked = 0


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
        self._group_bytes = sup.ag_blocks << sup.block_log
        self._group_inodes = sup.ag_blocks << sup.inodes_per_block_log
        self._last_group = sup.ag_count - 1
        self._last_inodes = sup.ag_length(self._last_group) << sup.inodes_per_block_log
        self._extend = blocks.extend
        self._recent = Recent(sup.inode_size)
        self._form = form_of(sup, self._block_size, blocks.extend)

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
        recent = self._recent.take(ino)
        if recent is not None:
            inode = Inode(*recent, self._sectors)
            self._blocks.cache.put(key, inode, 800 + self._size)
            return inode
        page = self._load(ino >> _PAGE_LOG)
        slot = ino & _PAGE - 1
        raw = page.data[slot * self._size : (slot + 1) * self._size]
        status = page.stats[slot] if page.stats is not None else None
        if status is not None:
            return Inode(raw, status, self._sectors)
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

    def record(self, ino: int) -> tuple[bytes, Stat]:
        """(record, stat) of inode `ino`. Raises: as read()."""
        recent = self._recent.take(ino)
        if recent is not None:
            return recent
        inode = self.read(ino)
        return inode.raw, inode.stat

    def stat_many(self, inos: set[int]) -> Found:
        """Return the stat of each inode, or the error that read() raises for it; neighbours are read together.

        Raises: WouldBlock.
        """
        found = Found({}, {})
        for _ in self.stat_pieces(inos, found):
            pass
        return found

    def stat_pieces(self, inos: set[int], found: Found, column: int = _COLUMN) -> Iterator[None]:
        """As stat_many, into `found`, with a pause after each read, and after about `column` inodes."""
        ordered = sorted(inos)
        begin, end = bisect_left(ordered, 1), bisect_left(ordered, self._limit)
        for ino in (*ordered[:begin], *ordered[end:]):
            found.bad[ino] = NotFound(f"inode {ino} is none of this filesystem")
        size = self._size
        most = min(column, _RUN_BYTES // size)
        members: list[int] = []
        records: list[bytes] = []
        while begin < end:
            low = ordered[begin]
            limit = min(self._group_end(low), (low & -_PAGE) + most)
            upper = min((low & -_PAGE) + _PAGE, limit)
            stop = bisect_left(ordered, upper, begin, end)
            while stop < end and upper < limit and ordered[stop] < upper + _PAGE:  # the next page too
                upper = min(upper + _PAGE, limit)
                stop = bisect_left(ordered, upper, stop, end)
            run = ordered[begin : max(stop, begin + 1)]
            begin += len(run)
            last = run[-1]
            try:
                data = self._read_run(low, last)
            except (Corrupt, SourceError):  # some of them may be there all the same
                self._one_by_one(run, found)
                yield
                continue
            members += run
            if last - low == len(run) - 1:
                records.append(data)
            else:
                records += [data[at : at + size] for at in [(ino - low) * size for ino in run]]
            if len(members) >= column:
                self._decode_many(b"".join(records), members, found)
                members, records = [], []
            yield
        if members:
            self._decode_many(b"".join(records), members, found)

    def _decode_many(self, records: bytes, members: list[int], found: Found) -> None:
        """Decode the records of `members`, which stand one behind the other."""
        if self._form is None or len(members) < _FEW:
            self._decode_each(records, members, found)
            return
        size = self._size
        decoded, left = stats_of(records, members, self._form)
        found.stats.update(zip(members, decoded, strict=True))
        slots = compress(range(len(members)), records[2::size].translate(NO_FILE))
        met = [(records[slot * size : (slot + 1) * size], decoded[slot]) for slot in slots]
        self._recent.keep((raw, stat) for raw, stat in met if stat is not None)  # a directory is entered next
        for slot in left:
            self._decode_each(records[slot * size : (slot + 1) * size], members[slot : slot + 1], found)

    def _decode_each(self, records: bytes, members: list[int], found: Found) -> None:
        """As _decode_many, with a careful look at each."""
        for ino, at in zip(members, range(0, len(records), self._size), strict=True):
            try:
                found.stats[ino] = self._decode(ino, records, at)
            except GuestkitError as error:
                found.stats.pop(ino, None)
                found.bad[ino] = error.within(f"inode {ino}")

    def _one_by_one(self, members: list[int], found: Found) -> None:
        """Read and decode each of `members` by itself."""
        for ino in members:
            try:
                records = self._read_run(ino, ino)
            except (Corrupt, SourceError) as error:
                found.bad[ino] = error.within(f"inode {ino}")
                continue
            self._decode_each(records, [ino], found)

    def _read_run(self, first: int, last: int) -> bytes:
        """The records of the inodes from `first` to `last`, all of one group. Raises: Corrupt, SourceError."""
        if last >= self._group_end(first):
            raise Corrupt("inode", "number", found=last, expected="one inside its allocation group")
        group = first >> self._group_log
        offset = group * self._group_bytes + (first - (group << self._group_log)) * self._size
        return self._blocks.device.read(offset, (last - first + 1) * self._size)

    def _group_end(self, ino: int) -> int:
        """One above the last number that an inode of the group of `ino` can have."""
        group = ino >> self._group_log
        return (group << self._group_log) + (self._group_inodes if group < self._last_group else self._last_inodes)

    def _load(self, number: int) -> _Page:
        key = (self._token, "p", number)
        page: _Page | None = self._cached(key)
        first = number << _PAGE_LOG
        if page is None:
            count = min(_PAGE, self._group_end(first) - first)
            page = _Page(self._read_run(first, first + count - 1) if count > 0 else b"")
            self._blocks.cache.put(key, page, len(page.data) + 200)
        page.asked += 1
        if page.asked == _OFTEN and self._form is not None and len(page.data) == self._size << _PAGE_LOG:
            page.stats = stats_of(page.data, range(first, first + _PAGE), self._form)[0]
            self._blocks.cache.put(key, page, len(page.data) + 600 * _PAGE)
        return page

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
