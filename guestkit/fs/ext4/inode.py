"""Inodes: the inode tables read in pages, one inode decoded and verified, and its struct stat.

Spec: Documentation/filesystems/ext4/inodes.rst; what is refused is what the kernel's ext4_iget() refuses.
Left out: project ids and versions, which no caller shows.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence

from guestkit.checksum import crc32c, crc32c_extend
from guestkit.errors import Corrupt, GuestkitError, NotFound, SourceError
from guestkit.fs.base import Stat
from guestkit.fs.ext4 import features as f
from guestkit.fs.ext4.blocks import Blocks
from guestkit.fs.ext4.columns import USABLE, Form, form_of, stats_of
from guestkit.fs.ext4.groups import Groups
from guestkit.fs.recent import Recent
from guestkit.layout import Layout

ROOT_INO = 2
CASEFOLD_FL, ENCRYPT_FL, INDEX_FL, HUGE_FILE_FL = 0x40000000, 0x800, 0x1000, 0x40000
EXTENTS_FL, EA_INODE_FL, INLINE_DATA_FL = 0x80000, 0x200000, 0x10000000
_HURD = 1
_WATCHED = INDEX_FL | CASEFOLD_FL | INLINE_DATA_FL
_UNUSUAL = _WATCHED | HUGE_FILE_FL

_BASE = {
    "i_mode": (0x0, "H"),
    "i_uid": (0x2, "H"),
    "i_size_lo": (0x4, "I"),
    "i_atime": (0x8, "i"),
    "i_ctime": (0xC, "i"),
    "i_mtime": (0x10, "i"),
    "i_gid": (0x18, "H"),
    "i_links_count": (0x1A, "H"),
    "i_blocks_lo": (0x1C, "I"),
    "i_flags": (0x20, "I"),
    "i_size_high": (0x6C, "I"),
    "i_blocks_hi": (0x74, "H"),
    "i_uid_high": (0x78, "H"),
    "i_gid_high": (0x7A, "H"),
}
_EXTRA = {
    "i_extra_isize": (0x80, "H"),
    "i_ctime_extra": (0x84, "I"),
    "i_mtime_extra": (0x88, "I"),
    "i_atime_extra": (0x8C, "I"),
    "i_crtime": (0x90, "i"),
    "i_crtime_extra": (0x94, "I"),
}
_SMALL = Layout("ext4_inode", 128, "<", **_BASE)
_LARGE = Layout("ext4_inode", 152, "<", **_BASE, **_EXTRA)
_REST = Layout(
    "ext4_inode",
    128,
    "<",
    i_flags=(0x20, "I"),
    i_generation=(0x64, "I"),
    i_file_acl_lo=(0x68, "I"),
    i_file_acl_high=(0x76, "H"),
)
_unpack_small = _SMALL.unpack_from
_unpack_large = _LARGE.unpack_from
_unpack_rest = _REST.unpack_from
_number = struct.Struct("<I").pack
_new = tuple.__new__
_NS = 1_000_000_000
_PAGE = 4096  # bytes of an inode table that one read takes at least
_RUN_BYTES = 1 << 18  # of records that one bulk read takes at most
_LONG_RUN = 1024  # inodes, wanted or not, where they are small enough for that
_SHORT_RUN = 64  # the same where fewer than one in _SPARSE is wanted
_SPARSE = 16
_HELD_BYTES = 1 << 24  # of records that are held for one listing
_FEW = 8  # fewer inodes are decoded one by one
_FORMATS = frozenset((0x1000, 0x2000, 0x4000, 0x6000, 0x8000, 0xA000, 0xC000))


# is told of an inode that has no stat: (inode, what read() raises)
Failed = Callable[[int, GuestkitError], None]


class Inode:
    """One inode, verified. `raw` is its whole record."""

    __slots__ = ("extra", "file_acl", "flags", "generation", "ino", "mode", "raw", "size", "stat")

    def __init__(self, raw: bytes, stat: Stat, acl_high: bool) -> None:
        self.ino = stat.ino
        self.raw = raw
        self.stat = stat
        self.mode = stat.mode
        self.size = stat.size
        self.flags, self.generation, acl, high = _unpack_rest(raw)
        self.file_acl: int = acl | high << 32 if acl_high else acl
        self.extra = raw[0x80] | raw[0x81] << 8 if len(raw) > 128 else 0  # i_extra_isize as stored

    @property
    def i_block(self) -> bytes:
        return self.raw[40:100]


class InodeTable:
    """Reads inodes by number, pages of the tables through the cache."""

    def __init__(self, blocks: Blocks, groups: Groups) -> None:
        sup = blocks.superblock
        self._blocks = blocks
        self._token = blocks.token
        self._cached = blocks.cache.get
        self._groups = groups
        self._super = sup
        self._size = sup.inode_size
        self._block_size = sup.block_size
        self._first_ino = sup.first_ino
        self._page = max(_PAGE, sup.block_size)
        self._per_page = self._page // self._size
        self._per_group = sup.inodes_per_group
        self._table_bytes = groups.itb_per_group * sup.block_size
        self._verify = sup.metadata_csum
        self._seed = sup.checksum_seed
        self._huge = bool(sup.ro_compat & f.HUGE_FILE)
        self._shift = sup.block_size.bit_length() - 10  # of a block count to 512-byte sectors
        self._acl_high = sup.creator_os != _HURD
        self._dir_index = bool(sup.compat & f.DIR_INDEX)
        self._large_dir = bool(sup.incompat & f.LARGEDIR)
        self._casefold = bool(sup.incompat & f.CASEFOLD)
        self._long_run = max(1, min(_LONG_RUN, _RUN_BYTES // sup.inode_size))
        self.most = max(1, _HELD_BYTES // sup.inode_size)  # inodes whose records are held together
        self._blank = bytes(sup.inode_size)
        self._recent = Recent(sup.inode_size)
        self._form: Form | None = None
        if USABLE and sup.inode_size > 128:
            extend = crc32c_extend() if sup.metadata_csum else None
            self._form = form_of(sup.inode_size, sup.block_size, _UNUSUAL, self._huge, sup.checksum_seed, extend)

    def seed(self, inode: Inode) -> int:
        """The checksum seed of what belongs to an inode."""
        return crc32c(inode.ino.to_bytes(4, "little") + inode.generation.to_bytes(4, "little"), self._seed)

    def read(self, ino: int, *, special: bool = False) -> Inode:
        """Return inode `ino`. `special`: reserved ones (journal, quota) too.

        Raises: NotFound (ENOENT) for a number that is none of this filesystem; Corrupt (EUCLEAN).
        """
        key = (self._token, "s" if special else "i", ino)
        inode: Inode | None = self._cached(key)
        if inode is not None:
            return inode
        recent = self._recent.take(ino)
        if recent is not None:
            inode = Inode(*recent, self._acl_high)
            self._blocks.cache.put(key, inode, 700 + self._size)
            return inode
        if not 0 < ino <= self._super.inodes_count or (ino < self._super.first_ino and ino != ROOT_INO and not special):
            raise NotFound(f"inode {ino} is none that can be reached")
        number, offset = self._locate(ino)
        page = self._load(number)
        raw = page[offset : offset + self._size]
        try:
            inode = Inode(raw, self._decode(ino, raw, 0), self._acl_high)
        except GuestkitError as error:
            error.within(f"inode {ino}")
            raise
        self._blocks.cache.put(key, inode, 700 + self._size)
        return inode

    def record(self, ino: int) -> tuple[bytes, Stat]:
        """(record, stat) of inode `ino`. Raises: as read()."""
        recent = self._recent.take(ino)
        if recent is not None:
            return recent
        inode = self.read(ino)
        return inode.raw, inode.stat

    def stat_pieces(self, inos: Sequence[int], column: int, failed: Failed) -> Iterator[list[Stat | None]]:
        """Yield the stat of each of `inos` in their order, `column` at a time; None where `failed` is told why.

        Neighbours in the tables are read together. All reading is done before the first stat, and all records are
        held, so `inos` are no more than `most`. An empty list is a pause.
        Raises: WouldBlock.
        """
        # decoded in the order of the tables, the inodes of a huge directory would have left the processor's cache when
        # the listing comes to them, and be so many objects for the garbage collector to go through
        records = [self._blank] * len(inos)
        for _ in self._gather(inos, records, failed):
            yield []
        for at in range(0, len(inos), column):
            yield self._decode_many(inos[at : at + column], records[at : at + column], failed)

    def _gather(self, inos: Sequence[int], records: list[bytes], failed: Failed) -> Iterator[None]:
        """Read the record of each of `inos` to its place in `records`; leave blank what `failed` is told."""
        places = sorted(range(len(inos)), key=inos.__getitem__)
        ordered = [inos[place] for place in places]
        size, per_group = self._size, self._per_group
        begin, end = bisect_left(ordered, self._first_ino), bisect_right(ordered, self._super.inodes_count)
        for place in (*places[:begin], *places[end:]):
            if inos[place] == ROOT_INO:
                self._read_one(place, ROOT_INO, records, failed)
            else:
                failed(inos[place], NotFound(f"inode {inos[place]} is none that can be reached"))
        while begin < end:
            low = ordered[begin]
            limit = (low - 1) // per_group * per_group + per_group + 1  # the next group's table stands elsewhere
            stop = bisect_left(ordered, min(limit, low + self._long_run), begin, end)
            if (ordered[stop - 1] - low) > (stop - begin) * _SPARSE:
                stop = bisect_left(ordered, min(limit, low + min(_SHORT_RUN, self._long_run)), begin, stop)
            try:
                data = self._read_run(low, ordered[stop - 1])
            except (Corrupt, SourceError):  # some of them may be there all the same
                for index in range(begin, stop):
                    self._read_one(places[index], ordered[index], records, failed)
            else:
                for place, ino in zip(places[begin:stop], ordered[begin:stop], strict=True):
                    at = (ino - low) * size
                    records[place] = data[at : at + size]
            begin = stop
            yield

    def _read_one(self, place: int, ino: int, records: list[bytes], failed: Failed) -> None:
        try:
            records[place] = self._read_run(ino, ino)
        except (Corrupt, SourceError) as error:
            failed(ino, error.within(f"inode {ino}"))

    def _read_run(self, first: int, last: int) -> bytes:
        """The records of the inodes from `first` to `last`, all of one group. Raises: Corrupt, SourceError."""
        group, index = divmod(first - 1, self._per_group)
        start = self._groups.inode_table(group) * self._block_size + index * self._size
        return self._blocks.device.read(start, (last - first + 1) * self._size)

    def _decode_many(self, inos: Sequence[int], records: Sequence[bytes], failed: Failed) -> list[Stat | None]:
        """The stat of each of `inos`, whose records are `records`; those that are usual, together."""
        if self._form is None or len(inos) < _FEW:
            return [self._decode_one(ino, raw, failed) for ino, raw in zip(inos, records, strict=True)]
        stats, left, special = stats_of(records, inos, self._form)
        for slot in left:
            stats[slot] = self._decode_one(inos[slot], records[slot], failed)
        met = [(records[slot], stats[slot]) for slot in special]  # a directory is entered next, a link is read
        self._recent.keep((raw, stat) for raw, stat in met if stat is not None)
        return stats

    def _decode_one(self, ino: int, raw: bytes, failed: Failed) -> Stat | None:
        if raw is self._blank:  # it could not be read
            return None
        try:
            return self._decode(ino, raw, 0)
        except GuestkitError as error:
            failed(ino, error.within(f"inode {ino}"))
            return None

    def _locate(self, ino: int) -> tuple[int, int]:
        group, index = divmod(ino - 1, self._per_group)
        page, slot = divmod(index, self._per_page)
        return group << 32 | page, slot * self._size

    def _load(self, where: int) -> bytes:
        key = (self._blocks.token, "p", where)
        data: bytes | None = self._blocks.cache.get(key)
        if data is None:
            at = (where & 0xFFFFFFFF) * self._page
            start = self._groups.inode_table(where >> 32) * self._super.block_size + at
            data = self._blocks.device.read(start, min(self._page, self._table_bytes - at))
            self._blocks.cache.put(key, data, len(data) + 150)
        return data

    def _decode(self, ino: int, page: bytes, at: int) -> Stat:
        """The stat of the inode whose record begins at `at`."""
        btime_ns: int | None = None
        if self._size > 128:
            (
                mode, uid, size, atime, ctime, mtime, gid, links, blocks, flags,
                size_high, blocks_hi, uid_high, gid_high,
                extra, ctime_x, mtime_x, atime_x, crtime, crtime_x,
            ) = _unpack_large(page, at)  # fmt: skip
            if extra > self._size - 128 or extra & 3:
                raise Corrupt("inode", "i_extra_isize", found=extra)
            if self._verify:
                self._check(ino, page[at : at + self._size], extra)
            room = extra or 32  # the kernel uses the space where an inode says that none is in use
            if room >= 24:
                if (atime_x | mtime_x | ctime_x | crtime_x) & 3:  # beyond 2038
                    atime += (atime_x & 3) << 32
                    mtime += (mtime_x & 3) << 32
                    ctime += (ctime_x & 3) << 32
                    crtime += (crtime_x & 3) << 32
                atime_ns = atime * _NS + (atime_x >> 2)
                mtime_ns = mtime * _NS + (mtime_x >> 2)
                ctime_ns = ctime * _NS + (ctime_x >> 2)
                btime_ns = crtime * _NS + (crtime_x >> 2)
            else:
                ctime_ns = ctime * _NS if room < 8 else (ctime + ((ctime_x & 3) << 32)) * _NS + (ctime_x >> 2)
                mtime_ns = mtime * _NS if room < 12 else (mtime + ((mtime_x & 3) << 32)) * _NS + (mtime_x >> 2)
                atime_ns = atime * _NS if room < 16 else (atime + ((atime_x & 3) << 32)) * _NS + (atime_x >> 2)
                if room >= 20:
                    btime_ns = crtime * _NS
        else:
            (
                mode, uid, size, atime, ctime, mtime, gid, links, blocks, flags,
                size_high, blocks_hi, uid_high, gid_high,
            ) = _unpack_small(page, at)  # fmt: skip
            atime_ns, mtime_ns, ctime_ns = atime * _NS, mtime * _NS, ctime * _NS
            if self._verify:
                self._check(ino, page[at : at + self._size], 0)
        kind = mode & 0xF000
        rdev = 0
        if kind == 0x8000:
            if size_high:
                size |= size_high << 32
                if size >> 63:
                    raise Corrupt("inode", "i_size", found=size)
        elif kind == 0x4000:
            if size_high and self._large_dir:
                size |= size_high << 32
                if size >> 63:
                    raise Corrupt("inode", "i_size", found=size)
        elif kind == 0x2000 or kind == 0x6000:
            rdev = _device(page[at + 40 : at + 48])
        if (links == 0 or kind not in _FORMATS) and ino >= self._first_ino:
            if links == 0:
                raise Corrupt("inode", "i_links_count", found=0, expected="a name refers to a deleted inode")
            raise Corrupt("inode", "i_mode", found=mode)
        if self._huge:
            if blocks_hi:
                blocks |= blocks_hi << 32
            if flags & HUGE_FILE_FL:
                blocks <<= self._shift
        if flags & _WATCHED:
            if flags & INDEX_FL and kind == 0x4000 and not self._dir_index:
                raise Corrupt("inode", "i_flags", found=flags, expected="no htree without the feature dir_index")
            if flags & CASEFOLD_FL and not self._casefold:
                raise Corrupt("inode", "i_flags", found=flags, expected="no casefold flag without the feature")
            if flags & INLINE_DATA_FL and kind == 0x8000:
                blocks += (size + 511) >> 9  # so that nobody takes such a file for a hole
        return _new(
            Stat,
            (
                ino, mode, links, uid | uid_high << 16, gid | gid_high << 16, rdev, size, self._block_size,
                blocks, atime_ns, mtime_ns, ctime_ns, btime_ns,
            ),
        )  # fmt: skip

    def _check(self, ino: int, raw: bytes, extra: int) -> None:
        """Raises: Corrupt when an inode's record has a wrong checksum."""
        stored = raw[0x7C] | raw[0x7D] << 8
        head = _number(ino) + raw[0x64:0x68] + raw[:0x7C] + b"\0\0"
        if extra >= 4:
            stored |= raw[0x82] << 16 | raw[0x83] << 24
            found = crc32c(head + raw[0x7E:0x82] + b"\0\0" + raw[0x84:], self._seed)
        else:
            found = crc32c(head + raw[0x7E:], self._seed) & 0xFFFF
        if found == stored:
            return
        if any(raw):
            raise Corrupt("inode", "i_checksum", found=stored, expected=found)
        raise Corrupt("inode", "i_mode", found=0, expected="a name refers to an inode that was never used")


def _device(raw: bytes) -> int:
    """Device number: the first word of `raw`, i_block's begin, in the old encoding, or the second in the new one."""
    old, new = int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:], "little")
    if old:
        return os.makedev(old >> 8 & 0xFF, old & 0xFF)
    return os.makedev(new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00)
