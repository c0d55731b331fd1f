"""Blocks of an XFS filesystem as they are once its log was replayed: made when they are read.

What is kept is where in the log the changes of each buffer stand. A buffer is read from the device, its changes are
applied in order as long as they are newer than it, and it gets its log sequence number and its checksum as the
kernel gives them when it writes the buffer back.

Behaviour: fs/xfs/xfs_buf_item_recover.c, xfs_inode_item_recover.c, xfs_icreate_item.c.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from guestkit.checksum import crc32c
from guestkit.errors import Corrupt, WouldBlock
from guestkit.fs.base import Problems
from guestkit.fs.xfs.log_changes import Change, Changes, Unreplayable
from guestkit.fs.xfs.log_format import (
    BUFFER,
    BUFFER_FORMAT,
    CHUNK,
    ICREATE,
    ICREATE_FORMAT,
    INODE_BUFFER,
    buffer_writes,
)
from guestkit.fs.xfs.log_inode import DINODE, apply_inode, logged_fault, new_inode, seal_inode
from guestkit.fs.xfs.log_record import OPERATION, BadRecord, Record, Ring
from guestkit.fs.xfs.superblock import Superblock
from guestkit.limits import Limits
from guestkit.source import Extent, Leaf, Source, patience

_MOST_UNIT = 1 << 20  # bytes of buffers that overlap, and are made together
_MOST_MEMBERS = 3 * 2048
_NEXT_UNLINKED = 96

# where blocks carry LSN, UUID and checksum, by their first 32 bits, or by their type in 16 bits at 8
_SHORT, _LONG = (24, 32, 52), (32, 40, 64)
_BLOCKS = {
    **dict.fromkeys((b"AB3B", b"AB3C", b"IAB3", b"FIB3", b"RMB3", b"R3FC"), _SHORT),
    **dict.fromkeys((b"BMA3", b"MAPR", b"RCNT"), _LONG),
    b"XAGF": (208, 64, 216),
    b"XAGI": (320, 296, 312),
    b"XAFL": (24, 8, 32),
    b"XSLM": (48, 16, 12),
    **dict.fromkeys((b"XDB3", b"XDD3", b"XDF3"), (16, 24, 4)),
}
_DA_BLOCKS = dict.fromkeys((b"\x3d\xf1", b"\x3d\xff", b"\x3e\xbe", b"\x3b\xee"), (24, 32, 12))
_REMOTE = b"XARM"
_SUPER = b"XFSB"
_NONE = 0xFFFFFFFFFFFFFFFF

# which of them a buffer of a type may be (blf_flags >> 11): only then the kernel sums it anew
_BTREES = {b"AB3B", b"AB3C", b"IAB3", b"FIB3", b"RMB3", b"R3FC", b"BMA3", b"MAPR", b"RCNT"}
_TYPES: dict[int, set[bytes]] = {
    4: _BTREES,
    5: {b"XAGF"},
    6: {b"XAFL"},
    7: {b"XAGI"},
    9: {b"XSLM"},
    10: {b"XDB3"},
    11: {b"XDD3"},
    12: {b"XDF3"},
    13: {b"\x3d\xf1"},
    14: {b"\x3d\xff"},
    15: {b"\x3e\xbe"},
    16: {b"\x3b\xee"},
    17: {_REMOTE},
    18: {_SUPER},
}
_REALTIME = (19, 20)


class Records:
    """The bodies of the records that hold changes, read again when one is needed."""

    def __init__(self, ring: Ring, limits: Limits) -> None:
        self.ring = ring
        self.blocks = array("I")  # where each begins
        self._cache = limits.cache
        self._token = limits.token()

    def add(self, record: Record) -> int:
        self.blocks.append(record.block)
        return len(self.blocks) - 1

    def keep(self, number: int, data: bytes) -> None:
        self._cache.put((self._token, number), data, len(data) + 100)

    def body(self, number: int) -> bytes:
        """Raises: Corrupt when the log is no longer what it was."""
        data: bytes | None = self._cache.get((self._token, number))
        if data is None:
            try:
                data = self.ring.body(self.ring.header(self.blocks[number]))
            except BadRecord as error:
                raise Corrupt(f"{error}: it changed since the filesystem was opened") from None
            self.keep(number, data)
        return data

    def item(self, position: int, scattered: Sequence[Sequence[tuple[int, int, int]]] | None) -> list[bytes]:
        """The regions of the item at `position`."""
        if scattered is not None:
            return [
                b"".join(self.body(number)[offset : offset + length] for number, offset, length in pieces)
                for pieces in scattered
            ]
        data = self.body(position >> 20)
        at = position & 0xFFFFF
        regions: list[bytes] = []
        total = 1
        while len(regions) < total:
            if at + 12 > len(data):
                raise Corrupt("log record", "operation", found="none", expected="the rest of an item")
            length = OPERATION.unpack_from(data, at)[1]
            at += 12
            region = data[at : at + length]
            if len(region) != length or (not regions and length < 4):
                raise Corrupt("log record", "oh_len", found=length)
            regions.append(region)
            total = region[2] | region[3] << 8 if len(regions) == 1 else total
            at += length
        return regions


class Replayed(Leaf):
    """A device's blocks with the log's changes; only the ranges of `units()` may be read.

    Overlapping buffers are made together, as one unit.
    """

    def __init__(
        self, device: Source, records: Records, changes: Changes, sup: Superblock, limits: Limits, problems: Problems
    ) -> None:
        """Raises: Unreplayable when buffers overlap in a way that no filesystem has."""
        self.device = device
        self.size = self.device.size
        self.sector_size = self.device.sector_size
        self._records = records
        self._changes = changes
        self._superblock = sup
        self._problems = problems
        self._cache = limits.cache
        self._token = limits.token()
        self._starts = array("Q")
        self._lengths = array("I")
        self._last = array("I")  # the last change of a unit's first buffer
        self._members: dict[int, tuple[int, ...]] = {}  # (offset, length, last change) of all, where there are more
        end = -1
        for block, blocks, last in changes.buffers_changed():
            begin, size = block * 512, blocks * 512
            if begin < end:
                unit, start = len(self._starts) - 1, self._starts[-1]
                members = self._members.get(unit) or (0, self._lengths[-1], self._last[-1])
                self._members[unit] = (*members, begin - start, size, last)
                end = max(end, begin + size)
                if end - start > _MOST_UNIT or len(members) > _MOST_MEMBERS:
                    raise Unreplayable("the log changes too many buffers that overlap")
                self._lengths[-1] = end - start
            else:
                self._starts.append(begin)
                self._lengths.append(size)
                self._last.append(last)
                end = begin + size
        changes.forget_keys()

    def __len__(self) -> int:
        return len(self._starts)

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yield (offset, length) of what is changed, neighbours joined, ascending."""
        begin = end = -1
        for start, length in zip(self._starts, self._lengths, strict=True):
            if start != end:
                if end > begin:
                    yield begin, end - begin
                begin = start
            end = start + length
        if end > begin:
            yield begin, end - begin

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        self.check(offset, length)
        if length:
            yield Extent(offset, length, self, offset)

    def read_into(self, offset: int, buf: memoryview) -> None:
        self.check(offset, len(buf))
        at = 0
        index = bisect_right(self._starts, offset) - 1
        while at < len(buf):
            data = self._unit(index)
            skip = offset + at - self._starts[index]
            take = min(len(data) - skip, len(buf) - at)
            buf[at : at + take] = memoryview(data)[skip : skip + take]
            at += take
            index += 1

    def _unit(self, index: int) -> bytes:
        key = (self._token, index)
        data: bytes | None = self._cache.get(key)
        if data is None:
            if not patience.may_block:
                raise WouldBlock
            data = self._make(index)
            self._cache.put(key, data, len(data) + 100)
        return data

    def _make(self, index: int) -> bytes:
        start, length = self._starts[index], self._lengths[index]
        unit = bytearray(self.device.read(start, length))
        members = self._members.get(index) or (0, length, self._last[index])
        buffers = [
            _Buffer(memoryview(unit)[at : at + size], start + at, self._superblock)
            for at, size in zip(members[::3], members[1::3], strict=True)
        ]
        epoch = 0
        for which, change in self._changes.chains(members[2::3]):
            if change.epoch != epoch:
                for buffer in buffers:
                    buffer.write()
                epoch = change.epoch
            regions = self._records.item(change.position, self._changes.scattered.get(change.position))
            fault = buffers[which].apply(change, regions)
            if fault:
                self._problems.add(f"log, buffer at byte {start}", fault)
        for buffer in buffers:
            buffer.write()
        return bytes(unit)


class _Buffer:
    """A buffer of metadata that is being brought up to date."""

    def __init__(self, data: memoryview, offset: int, sup: Superblock) -> None:
        self.data = data
        self.offset = offset  # on the device, in bytes
        self.sup = sup
        self._written: tuple[int, int] | None = None  # (type, LSN) of changes that were not written back

    def apply(self, change: Change, regions: Sequence[bytes]) -> str:
        """Apply one item; return what could not be applied, "" for nothing."""
        kind = int.from_bytes(regions[0][:2], "little")
        if kind == BUFFER:
            return self._apply_buffer(change, regions)
        if kind == ICREATE:
            self._create(regions[0])
            return ""
        place = self.data[change.boffset : change.boffset + self.sup.inode_size]
        fault = logged_fault(regions[1], self.sup) if len(regions) > 1 else "a logged inode has no core"
        fault = fault or apply_inode(place, regions, change.lsn, self.sup)
        if fault:  # neither what it was nor what it should be: whoever reads it is to be told
            place[:2] = bytes(2)
        return fault

    def _create(self, first: bytes) -> None:
        group, block, _, _, _, generation = ICREATE_FORMAT.unpack_from(first)
        sup = self.sup
        # the numbers count from the chunk's first block; this buffer is one cluster of it
        number = (group << sup.ag_block_log | block) << sup.inodes_per_block_log
        number += (self.offset - (group * sup.ag_blocks + block) * sup.block_size) >> sup.inode_log
        size = sup.inode_size
        for index in range(len(self.data) // size):
            self.data[index * size : (index + 1) * size] = new_inode(sup, number + index, generation)

    def _apply_buffer(self, change: Change, regions: Sequence[bytes]) -> str:
        _, _, flags, *_ = BUFFER_FORMAT.unpack_from(regions[0])
        kind = flags >> 11
        found = _lsn_of(self.data, self.sup, kind)
        if found and found != _NONE and found >= change.lsn:
            return ""
        writes = list(buffer_writes(regions[0], [len(region) for region in regions[1:]]))
        if flags & INODE_BUFFER:
            return self._unlink(regions, writes)
        for begin, count, index in writes:
            self.data[begin * CHUNK : (begin + count) * CHUNK] = regions[1 + index][: count * CHUNK]
        self._written = (kind, change.lsn)
        return ""

    def _unlink(self, regions: Sequence[bytes], writes: list[tuple[int, int, int]]) -> str:
        """Take from a logged buffer of inodes what alone is logged that way: the list of those unlinked."""
        size = self.sup.inode_size
        for begin, count, index in writes:
            start, end = begin * CHUNK, (begin + count) * CHUNK
            first = max(0, -(-(start - _NEXT_UNLINKED) // size))
            for at in range(first * size + _NEXT_UNLINKED, end, size):
                value = regions[1 + index][at - start : at - start + 4]
                if value == bytes(4):
                    return "a logged list of unlinked inodes holds inode 0"
                self.data[at : at + 4] = value
                inode = self.data[at - _NEXT_UNLINKED : at - _NEXT_UNLINKED + size]
                if bytes(inode[:2]) == DINODE and inode[4] >= 3:
                    seal_inode(inode)
        return ""

    def write(self) -> None:
        """What happens when the buffer is written back: its LSN and its checksum."""
        if self._written is None or self.sup.version != 5:
            return
        kind, lsn = self._written
        self._written = None
        data = self.data
        four, two = bytes(data[:4]), bytes(data[8:10])
        expected = _TYPES.get(kind, set())
        if four in expected:
            if four == _REMOTE:
                size = self.sup.block_size
                for at in range(0, len(data), size):
                    if bytes(data[at : at + 4]) == _REMOTE:
                        _seal(data[at : at + size], 12)
                return
            place, _, crc = (240, 32, 224) if four == _SUPER else _BLOCKS[four]
        elif two in expected:
            place, _, crc = _DA_BLOCKS[two]
        else:
            return
        struct.pack_into(">Q", data, place, lsn)
        _seal(data, crc)


def _seal(data: memoryview, crc: int) -> None:
    data[crc : crc + 4] = bytes(4)
    data[crc : crc + 4] = (crc32c(data) ^ 0xFFFFFFFF).to_bytes(4, "little")


def _lsn_of(data: memoryview, sup: Superblock, kind: int) -> int:
    """The LSN of what a buffer holds; all ones when it has none, so that it is older than any change."""
    if sup.version != 5 or kind in _REALTIME:
        return _NONE
    four = bytes(data[:4])
    places = _BLOCKS.get(four)
    if places is None and four == _SUPER:
        places = (240, 248 if sup.uuid != sup.meta_uuid else 32, 224)
    if places is None:
        places = _DA_BLOCKS.get(bytes(data[8:10]))
    if places is None:
        return _NONE
    lsn, uuid, _ = places
    if bytes(data[uuid : uuid + 16]) != sup.meta_uuid:
        return _NONE
    return int.from_bytes(data[lsn : lsn + 8], "big")
