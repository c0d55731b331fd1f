"""What the records of an XFS log hold: operations, gathered to transactions; committed ones to changes of blocks.

A transaction is a list of items, an item is up to 257 regions, the first of which says what the others are; each
region is an operation, or several where it reaches over a record's end. All of it is in the byte order of the
computer that wrote it: little-endian here. Nothing of the items is kept but where they stand.

Spec: XFS Algorithms & Data Structures, "Log Operations", "Log Items"; fs/xfs/libxfs/xfs_log_format.h. In which order
items count, and which are cancelled, is what the kernel's recovery does.
"""

from __future__ import annotations

import struct
from array import array

from guestkit.fs.xfs.log_changes import CANCELLED, MOST_ITEMS, OTHER, UNLINK, WRITE, Changes, Unreplayable
from guestkit.fs.xfs.log_format import (
    BUFFER,
    BUFFER_FORMAT,
    CANCEL,
    CHUNK,
    DQUOT,
    DQUOT_BUFFER,
    ENDS,
    ICREATE,
    ICREATE_FORMAT,
    INODE,
    INODE_BUFFER,
    INODE_FORMAT,
    INODE_FORMAT_32,
    INTENTS,
    QUOTAOFF,
    VISIBLE,
    buffer_writes,
)
from guestkit.fs.xfs.log_record import COMMIT, CONTINUE, END, OPERATION, START, UNMOUNT, WAS_CONTINUED, Record
from guestkit.fs.xfs.superblock import Superblock

_CLIENTS = (0x69, 0xAA)
_TRAN = 0x5452414E
_HEADER_SIZE = 16
_MOST_REGIONS = 257
_MOST_REGION = 256 << 10  # bytes; the longest that are written hold 64 KiB
_MOST_OPEN = 1 << 14  # transactions begun and not committed
# A log of 2 GiB has room for more, but what the kernel leaves to be replayed is what changed since it last wrote all
# back, which it does twice a minute. Of logged inodes, the most frequent items, this is some 260 MB of log, as much as
# mkfs.xfs gives a disk of 500 GiB, and takes less than three seconds.
_MOST_OPERATIONS = 5 << 20
_RECORD, _TRANSACTION, _ITEM = 16, 4, 3  # what one of them counts for besides its operations
_MOST_INTENTS = 1 << 18  # of transactions that are not committed
_MOST_UNFINISHED = 1 << 16
_MOST_HELD = 1 << 18
_MOST_OWNERS = 1 << 16
_MOST_BUFFER = 128  # blocks of 512 bytes, the largest buffer of metadata

_unpack_buffer = BUFFER_FORMAT.unpack_from
_unpack_inode, _unpack_inode_32 = INODE_FORMAT.unpack_from, INODE_FORMAT_32.unpack_from
_words = struct.Struct("<4Q").unpack


class _Transaction:
    """A transaction that is being gathered."""

    __slots__ = (
        *("bad", "changes", "first", "head", "held", "intents", "lsn", "owners", "regions", "scattered", "total"),
        "where",
    )

    def __init__(self, lsn: int) -> None:
        self.lsn = lsn
        self.head: bytes | None = b""  # of the transaction header, until it is complete
        self.bad = ""  # what makes it fail when it commits
        self.changes = array("Q")  # as Changes.commit() takes them
        self.intents: array[int] | None = None  # kind, id and what follows it in the format, which may be inodes
        self.owners: dict[int, int] | None = None
        # the item that is being gathered
        self.total = 0
        self.regions: list[list[tuple[int, int, int]]] = []  # of each its pieces: (record, offset, length)
        self.first = b""
        self.where = 0
        self.scattered = False
        self.held = 0  # what all that takes, in units of some 256 bytes


class Gatherer:
    """Takes the records in order, and fills `changes`."""

    def __init__(self, changes: Changes, alignment: int, sparse_alignment: int) -> None:
        """The alignments are those of chunks of inodes, in blocks; 0 for none."""
        self.changes = changes
        self.superblock = changes.superblock
        self._inode_size = self.superblock.inode_size
        self._device_blocks = min(changes.device_blocks, 1 << 47)  # what goes into a key beside a length
        self._open: dict[int, _Transaction] = {}
        self._pending = 0  # items of open transactions
        self._operations = 0
        self._intents = 0  # of open transactions
        self._held = 0  # by their items that are being gathered
        self._owners = 0
        self._sparse_alignment = sparse_alignment
        self._cluster_blocks = max(1, _cluster_size(self.superblock, alignment) >> self.superblock.block_log)

    def take(self, number: int, record: Record, data: bytes) -> None:
        """Go through the operations of record `number`, whose body is `data`. Raises: Unreplayable."""
        at, end = 0, len(data)
        unpack = OPERATION.unpack_from
        self._work(_RECORD + min(record.operations, end // 12))
        opened, base = self._open, number << 20
        left = record.operations
        while left and at < end:
            left -= 1
            if at + 12 > end:
                raise Unreplayable(f"an operation of the log record at block {record.block} is cut off")
            tid, length, client, flags = unpack(data, at)
            if client not in _CLIENTS:
                raise Unreplayable(f"oh_clientid is {client} in the log record at block {record.block}")
            begin = at + 12
            at = begin + length
            if at > end:
                raise Unreplayable(f"oh_len is {length} in the log record at block {record.block}")
            transaction = opened.get(tid)
            if transaction is None:
                # without a beginning it is what is left of one whose changes were written back
                if flags & START:
                    if len(opened) >= _MOST_OPEN:
                        raise Unreplayable(f"the log begins more than {_MOST_OPEN} transactions at once")
                    self._work(_TRANSACTION)
                    opened[tid] = _Transaction(record.lsn)
                continue
            if not flags and length >= 4 and len(transaction.regions) == transaction.total and transaction.head is None:
                if transaction.total:
                    self._finish_item(transaction)
                # most items stand in a record as a whole
                total = data[begin + 2] | data[begin + 3] << 8
                sizes: list[int] = []
                place = at
                while len(sizes) < total - 1 and place + 12 <= end:
                    other, size, client, flags = unpack(data, place)
                    place += 12 + size
                    if other != tid or flags or not size or client not in _CLIENTS or place > end:
                        break
                    sizes.append(size)
                if len(sizes) == total - 1 <= left and total <= _MOST_REGIONS and length <= _MOST_REGION:
                    self._item(transaction, data[begin:at], base | begin - 12, sizes)
                    at = place
                    left -= total - 1
                    continue
                flags = 0
            flags &= ~END
            if flags & WAS_CONTINUED:
                flags &= ~CONTINUE
            if flags in (0, CONTINUE):
                if length:
                    self._region(transaction, number, begin, data, length)
            elif flags == WAS_CONTINUED:
                self._continued(transaction, number, begin, data, length)
            elif flags == COMMIT:
                del opened[tid]
                self._commit(transaction)
            elif flags == UNMOUNT:
                self._pending -= len(transaction.changes) // 4
                self._intents -= len(transaction.intents or ()) // 4
                self._hold(transaction, -transaction.held)
                del opened[tid]
            else:
                raise Unreplayable(f"oh_flags is 0x{flags:x} in the log record at block {record.block}")

    def _work(self, operations: int) -> None:
        self._operations += operations
        if self._operations > _MOST_OPERATIONS:
            raise Unreplayable(f"the log has more than {_MOST_OPERATIONS} operations")

    def _hold(self, transaction: _Transaction, units: int) -> None:
        transaction.held += units
        self._held += units
        if self._held > _MOST_HELD:
            raise Unreplayable("the log begins too many items at once")

    def _region(self, transaction: _Transaction, number: int, begin: int, data: bytes, length: int) -> None:
        """A region begins."""
        if transaction.head is not None:
            part = transaction.head + data[begin : begin + length]
            if transaction.head or length > _HEADER_SIZE or part[:4] != _TRAN.to_bytes(4, "little"):
                raise Unreplayable("a transaction of the log begins without its header")
            transaction.head = None if length == _HEADER_SIZE else part
            return
        if len(transaction.regions) == transaction.total:
            if transaction.total:
                self._finish_item(transaction)
            if length < 4:
                raise Unreplayable("an item of the log has no size")
            transaction.total = data[begin + 2] | data[begin + 3] << 8
            if not 0 < transaction.total <= _MOST_REGIONS:
                raise Unreplayable(f"an item of the log has {transaction.total} regions")
            if length > _MOST_REGION:
                raise Unreplayable(f"a region of the log has {length} bytes")
            transaction.first = data[begin : begin + length]
            transaction.where = number << 20 | begin - 12
            transaction.regions = [[(number, begin, length)]]
            transaction.scattered = False
            self._hold(transaction, 1 + (length >> 8))
            return
        record, offset, size = transaction.regions[-1][-1]
        if record != number or offset + size + 12 != begin:
            transaction.scattered = True
        transaction.regions.append([(number, begin, length)])
        self._hold(transaction, 1)

    def _continued(self, transaction: _Transaction, number: int, begin: int, data: bytes, length: int) -> None:
        """The last region goes on."""
        if transaction.head is not None:
            head = transaction.head + data[begin : begin + length]
            if len(head) != _HEADER_SIZE or head[:4] != _TRAN.to_bytes(4, "little"):
                raise Unreplayable("the header of a transaction of the log has the wrong size")
            transaction.head = None
            return
        if not transaction.regions:
            raise Unreplayable("a region of the log goes on that did not begin")
        pieces = transaction.regions[-1]
        if sum(piece[2] for piece in pieces) + length > _MOST_REGION or len(pieces) >= _MOST_REGIONS:
            raise Unreplayable("a region of the log goes on without end")
        pieces.append((number, begin, length))
        transaction.scattered = True
        if len(transaction.regions) == 1:
            transaction.first += data[begin : begin + length]
            self._hold(transaction, length >> 8)
        self._hold(transaction, 1)

    def _finish_item(self, transaction: _Transaction) -> None:
        """All regions of an item are there."""
        before = len(transaction.changes)
        sizes = [sum(piece[2] for piece in pieces) for pieces in transaction.regions[1:]]
        self._item(transaction, transaction.first, transaction.where, sizes)
        if transaction.scattered and len(transaction.changes) > before:
            self.changes.remember_pieces(transaction.where, transaction.regions)
        transaction.total, transaction.regions, transaction.first = 0, [], b""
        self._hold(transaction, -transaction.held)

    def _item(self, transaction: _Transaction, first: bytes, where: int, sizes: list[int]) -> None:
        """Remember what an item changes. `first`: its first region; `sizes`: bytes of the others."""
        self._operations += _ITEM
        kind = first[0] | first[1] << 8
        changes = transaction.changes
        before = len(changes)
        if kind == BUFFER:
            self._buffer(transaction, first, where, sizes)
        elif kind == INODE:
            self._inode(transaction, first, where)
        elif kind == ICREATE:
            self._icreate(transaction, first, where)
        elif kind in INTENTS or kind in ENDS:
            if len(first) < 16:
                transaction.bad = transaction.bad or f"an intent of the log has {len(first)} bytes"
            else:
                if transaction.intents is None:
                    transaction.intents = array("Q")
                words = _words(first[:32] if len(first) >= 32 else first[:32].ljust(32, b"\0"))
                transaction.intents.extend((kind, *words[1:]))
                self._intents += 1
                if self._intents > _MOST_INTENTS:
                    raise Unreplayable(f"the log has more than {_MOST_INTENTS} intents at once")
        elif kind in (DQUOT, QUOTAOFF):
            self.changes.quota += 1
        else:
            transaction.bad = transaction.bad or f"the log holds an item of an unknown kind, 0x{kind:x}"
        if len(changes) > before:
            self._pending += (len(changes) - before) // 4
            if self._pending > MOST_ITEMS:
                raise Unreplayable(f"the log makes more than {MOST_ITEMS} changes")

    def _buffer(self, transaction: _Transaction, first: bytes, where: int, sizes: list[int]) -> None:
        size = len(first)
        if size < 20:
            transaction.bad = transaction.bad or f"a buffer item of the log has {size} bytes"
            return
        _, _, flags, length, blkno, words = _unpack_buffer(first)
        if words > 17 or size < 20 + 4 * words:
            transaction.bad = transaction.bad or f"a buffer item of the log has {size} bytes"
            return
        if flags & CANCEL:
            if blkno >> 47:  # nothing that is there
                return
            what, cover = CANCELLED, 0
        else:
            cover = int.from_bytes(first[20 : 20 + 4 * words], "little")
            what = UNLINK if flags & INODE_BUFFER else WRITE
            if not self._inside(transaction, blkno, length):
                return
            if cover >> length * 512 // CHUNK:
                transaction.bad = transaction.bad or f"the log writes beyond the end of the buffer at {blkno}"
                return
            if not _covered(cover, first, sizes):
                transaction.bad = transaction.bad or f"the log has less of the buffer at {blkno} than it says"
                return
            if flags & DQUOT_BUFFER:  # nothing that a reader sees; the kernel wants quota to be on for them
                self.changes.quota += 1
                return
            if what == UNLINK or cover >> 64:  # writes but a word in each inode
                cover = 0
        self.changes.buffers += 1
        transaction.changes.extend((where, blkno << 16 | length, what << 32, cover))

    def _inside(self, transaction: _Transaction, blkno: int, length: int) -> bool:
        if blkno >= 0 and 0 < length <= _MOST_BUFFER and blkno + length <= self._device_blocks:
            return True
        transaction.bad = transaction.bad or f"the log changes {length} blocks at {blkno}, which are not there"
        return False

    def _inode(self, transaction: _Transaction, first: bytes, where: int) -> None:
        size = len(first)
        if size not in (56, 52):
            transaction.bad = transaction.bad or f"an inode item of the log has {size} bytes"
            return
        unpack = _unpack_inode if size == 56 else _unpack_inode_32
        _, _, fields, _, _, ino, _, blkno, length, boffset = unpack(first)
        if not self._inside(transaction, blkno, length):
            return
        inode_size = self._inode_size
        if boffset < 0 or boffset % inode_size or boffset + inode_size > length * 512:
            transaction.bad = transaction.bad or f"the log has inode {ino} at byte {boffset} of {length * 512}"
            return
        self.changes.inodes += 1
        # CORE is always there; without it the info of an inode at 0 could be that of a buffer
        info = boffset // inode_size << 16 | fields & 0x7FF | 1
        transaction.changes.extend((where, blkno << 16 | length, OTHER << 32 | info, 0))
        if fields & 0x600:
            if transaction.owners is None:
                transaction.owners = {}
            transaction.owners[ino] = fields & 0x600
            self._owners += 1
            if self._owners > _MOST_OWNERS:
                raise Unreplayable(f"the log exchanges the extents of more than {_MOST_OWNERS} inodes")

    def _icreate(self, transaction: _Transaction, first: bytes, where: int) -> None:
        if len(first) < 28:
            transaction.bad = transaction.bad or f"an inode creation of the log has {len(first)} bytes"
            return
        group, block, count, size, length, _ = ICREATE_FORMAT.unpack_from(first)
        sup = self.superblock
        whole = max(64, sup.inodes_per_block) >> sup.inodes_per_block_log
        # that the group is there is for the device to say: the superblock may be older than a growth in the log
        good = 0 < block < sup.ag_blocks and length in (whole, self._sparse_alignment or whole)
        if not good or size != sup.inode_size or count >> sup.inodes_per_block_log != length:
            transaction.bad = transaction.bad or f"the log creates {count} inodes in {length} blocks"
            return
        per = self._cluster_blocks
        ratio = sup.block_size // 512
        blkno = (group * sup.ag_blocks + block) * ratio
        if (per * ratio) > _MOST_BUFFER or blkno + length * ratio > self._device_blocks:
            transaction.bad = transaction.bad or f"the log creates inodes at {blkno}, which is not there"
            return
        self.changes.creations += 1
        for index in range(length // per):
            place = blkno + index * per * ratio
            transaction.changes.extend((where, place << 16 | per * ratio, OTHER << 32, 0))

    def _commit(self, transaction: _Transaction) -> None:
        if transaction.total:
            if len(transaction.regions) != transaction.total:
                raise Unreplayable("a committed transaction of the log ends within an item")
            self._finish_item(transaction)
        if transaction.bad:
            raise Unreplayable(transaction.bad)
        changes = self.changes
        self._pending -= len(transaction.changes) // 4
        changes.commit(transaction.lsn, transaction.changes)
        if transaction.owners is not None:
            changes.owners.update(transaction.owners)
        intents = transaction.intents
        if intents is None:
            return
        self._intents -= len(intents) // 4
        for kind, name, first, second in zip(intents[::4], intents[1::4], intents[2::4], intents[3::4], strict=True):
            if kind in INTENTS:
                changes.intents[name] = (kind, *(first, second)[: VISIBLE.get(kind, 0)])
                if len(changes.intents) > _MOST_UNFINISHED:
                    raise Unreplayable(f"the log leaves more than {_MOST_UNFINISHED} intents unfinished")
            elif changes.intents.get(name, (0,))[0] == ENDS[kind]:
                del changes.intents[name]


def _covered(cover: int, first: bytes, sizes: list[int]) -> bool:
    """Whether a buffer item has all that it writes: `cover`, the chunks; `sizes`, the bytes of its regions."""
    if not cover:
        return True
    if len(sizes) == 1 and not cover & cover + (cover & -cover):  # one run
        return sizes[0] // CHUNK >= cover.bit_count()
    runs = list(map(len, filter(None, f"{cover:b}"[::-1].split("0"))))
    if [size // CHUNK for size in sizes] == runs:  # a region for each run, as it is written
        return True
    return sum(count for _, count, _ in buffer_writes(first, sizes)) == cover.bit_count()


def _cluster_size(sup: Superblock, alignment: int) -> int:
    """Bytes of inodes that are read and written at once."""
    size = 8192
    if sup.version == 5:
        larger = size * (sup.inode_size // 256)
        if alignment >= larger >> sup.block_log:
            size = larger
    return size
