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
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from guestkit.errors import Corrupt
from guestkit.fs.xfs.log_record import COMMIT, CONTINUE, END, OPERATION, START, UNMOUNT, WAS_CONTINUED, Record
from guestkit.fs.xfs.superblock import Superblock
from guestkit.layout import Layout

EFI, EFD, INODE, BUFFER, DQUOT, QUOTAOFF, ICREATE = 0x1236, 0x1237, 0x123B, 0x123C, 0x123D, 0x123E, 0x123F
# intents: kind -> (kind of what ends it, what was to be done)
INTENTS = {
    EFI: (EFD, "free of an extent"),
    0x1240: (0x1241, "reverse mapping"),
    0x1242: (0x1243, "reference count"),
    0x1244: (0x1245, "extent map"),
    0x1246: (0x1247, "extended attribute"),
    0x1248: (0x1249, "exchange of extents"),
    0x124A: (0x124B, "free of a realtime extent"),
    0x124C: (0x124D, "realtime reverse mapping"),
    0x124E: (0x124F, "realtime reference count"),
}
_ENDS = {done: kind for kind, (done, _) in INTENTS.items()}
# those whose effect is seen in files; the others keep account of free space
VISIBLE = frozenset((0x1244, 0x1246, 0x1248))

_CLIENTS = (0x69, 0xAA)
_TRAN = 0x5452414E
_HEADER_SIZE = 16
_MOST_REGIONS = 257
_MOST_REGION = 256 << 10  # bytes; the longest that are written hold 64 KiB
_MOST_OPEN = 1 << 14  # transactions begun and not committed
_MOST_ITEMS = 2 << 20
_MOST_OPERATIONS = 16 << 20
_MOST_CHANGES = 1 << 15  # of one buffer, without those that are repeated
_MOST_INTENTS = 1 << 16
_MOST_PIECES = 1 << 19
_MOST_KEYS = 1 << 18  # buffers that change: 1 GiB of 4 KiB blocks, and about 100 MiB of memory
_LONG_CHAIN = 256  # changes of one buffer, above which it pays to look for those that are repeated
MOST_BUFFER = 128  # blocks of 512 bytes, the largest buffer of metadata

BUFFER_FORMAT = Layout(
    "xfs_buf_log_format",
    20,
    "<",
    blf_type=(0, "H"),
    blf_size=(2, "H"),
    blf_flags=(4, "H"),
    blf_len=(6, "H"),
    blf_blkno=(8, "q"),
    blf_map_size=(16, "I"),
)
CHUNK = 128  # bytes that a bit of the map stands for
INODE_BUFFER, CANCEL = 1, 2
DQUOT_BUFFER = 4 | 8 | 16
INODE_FORMAT = Layout(
    "xfs_inode_log_format",
    56,
    "<",
    ilf_type=(0, "H"),
    ilf_size=(2, "H"),
    ilf_fields=(4, "I"),
    ilf_asize=(8, "H"),
    ilf_dsize=(10, "H"),
    ilf_ino=(16, "Q"),
    ilfu_rdev=(24, "I"),
    ilf_blkno=(40, "q"),
    ilf_len=(48, "i"),
    ilf_boffset=(52, "i"),
)
INODE_FORMAT_32 = Layout(  # of 32-bit computers, without padding
    "xfs_inode_log_format_32",
    52,
    "<",
    ilf_type=(0, "H"),
    ilf_size=(2, "H"),
    ilf_fields=(4, "I"),
    ilf_asize=(8, "H"),
    ilf_dsize=(10, "H"),
    ilf_ino=(12, "Q"),
    ilfu_rdev=(20, "I"),
    ilf_blkno=(36, "q"),
    ilf_len=(44, "i"),
    ilf_boffset=(48, "i"),
)
ICREATE_FORMAT = struct.Struct(">4xIIIIII")  # icl_ag, icl_agbno, icl_count, icl_isize, icl_length, icl_gen

# what a change is; in this order they count within a transaction
_CHANGES = WRITE, OTHER, UNLINK, CANCELLED = range(4)


class Unreplayable(Exception):
    """The log cannot be replayed; the text says why."""


class Change(NamedTuple):
    """A change of one buffer: the item that describes it, the transaction's LSN, and when it was written back."""

    position: int
    lsn: int
    epoch: int  # buffers are written back, and get their LSN, when it grows
    boffset: int  # of an inode item: its place in the buffer
    fields: int  # of an inode item: what was logged; else 0


class Changes:
    """The changes of all committed transactions, by buffer, without those that are cancelled. Places, not bytes."""

    def __init__(self, superblock: Superblock, device_size: int) -> None:
        self.superblock = superblock
        self.device_blocks = device_size // 512
        self.transactions = 0
        self.inodes = self.buffers = self.creations = self.quota = 0  # items met
        self.intents: dict[int, int] = {}  # unfinished: id -> kind
        self.scattered: dict[int, tuple[tuple[tuple[int, int, int], ...], ...]] = {}
        self._pieces = 0
        self.cancelled = 0
        # one entry for each change, the first of each unused: where its item stands, ...
        self._positions = array("Q", [0])
        self._transaction = array("I", [0])
        self._before = array("I", [0])  # the change of the same buffer before it, 0 for none
        self._info = array("I", [0])
        self._lsns = array("Q")  # of transactions that change something
        self._epochs = array("I")
        self._epoch = 0
        self._last_lsn = -1
        self._last: dict[int, int] = {}  # buffer -> its last change
        self._cover: dict[int, int] = {}  # buffer -> the chunks that this change writes
        self.owners: dict[int, int] = {}  # inode -> forks whose blocks must name it as their owner

    def add(self, blkno: int, length: int, transaction: int, position: int, info: int, cover: int) -> None:
        key = blkno << 16 | length
        before = self._last.get(key, 0)
        old = self._cover.get(key, 0) if cover else 0
        if old and not old & ~cover and self._lsns[self._transaction[before]] <= self._lsns[transaction]:
            # all that the earlier change wrote is written again, unless the block is newer than both
            before = self._before[before]
        if cover:
            self._cover[key] = cover
        else:
            self._cover.pop(key, None)
        self._positions.append(position)
        self._transaction.append(transaction)
        self._before.append(before)
        self._info.append(info)
        self._last[key] = len(self._positions) - 1
        if len(self._positions) > _MOST_ITEMS:
            raise Unreplayable(f"the log makes more than {_MOST_ITEMS} changes")
        if len(self._last) > _MOST_KEYS:
            raise Unreplayable(f"the log changes more than {_MOST_KEYS} blocks")

    def drop(self, blkno: int, length: int) -> None:
        """Forget all changes so far of the buffer: it was freed."""
        key = blkno << 16 | length
        if self._last.pop(key, None) is not None:
            self.cancelled += 1
        self._cover.pop(key, None)

    def new_transaction(self, lsn: int) -> int:
        """Begin to commit; return the transaction's number."""
        if lsn != self._last_lsn:
            self._epoch += 1
            self._last_lsn = lsn
        if self._lsns and self._lsns[-1] == lsn and self._epochs[-1] == self._epoch:
            return len(self._lsns) - 1
        self._lsns.append(lsn)
        self._epochs.append(self._epoch)
        return len(self._lsns) - 1

    def buffers_changed(self) -> list[tuple[int, int, int]]:
        """(first block, blocks, last change) of every buffer that changes, ascending."""
        self._cover = {}
        return sorted((key >> 16, key & 0xFFFF, last) for key, last in self._last.items())

    def forget_keys(self) -> None:
        self._last = {}

    def chains(self, lasts: Sequence[int]) -> Iterator[tuple[int, Change]]:
        """Yield (index in `lasts`, change) of what is to be done, in order; `lasts`: last changes of buffers.

        Raises: Corrupt when there are too many.
        """
        found: list[tuple[int, int]] = []
        for which, last in enumerate(lasts):
            at = last
            while at:
                found.append((at, which))
                at = self._before[at]
        if len(found) > _LONG_CHAIN:
            found = self._without_repeated(found)
            if len(found) > _MOST_CHANGES:
                raise Corrupt("log", "changes of one buffer", found=len(found), expected=f"at most {_MOST_CHANGES}")
        found.sort()
        for at, which in found:
            transaction, info = self._transaction[at], self._info[at]
            boffset = (info >> 16) << self.superblock.inode_log
            lsn, epoch = self._lsns[transaction], self._epochs[transaction]
            yield which, Change(self._positions[at], lsn, epoch, boffset, info & 0xFFFF)

    def _without_repeated(self, found: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Leave out the inode items whose every part a later one brings too."""
        kept = []
        covered: dict[tuple[int, int], tuple[int, int]] = {}  # inode -> LSN and fields of a later item
        for at, which in sorted(found, reverse=True):
            info = self._info[at]
            if info:
                lsn, inode = self._lsns[self._transaction[at]], (which, info >> 16)
                later = covered.get(inode)
                if later is not None and later[0] >= lsn and not info & 0xFFFF & ~later[1]:
                    continue
                covered[inode] = (lsn, info & 0xFFFF)
            kept.append((at, which))
        return kept

    def remember_pieces(self, position: int, regions: list[list[tuple[int, int, int]]]) -> None:
        self._pieces += sum(map(len, regions))
        if self._pieces > _MOST_PIECES:
            raise Unreplayable("the log's items are torn into too many pieces")
        self.scattered[position] = tuple(tuple(pieces) for pieces in regions)


class _Transaction:
    """A transaction that is being gathered."""

    __slots__ = (
        *("bad", "blocks", "covers", "first", "head", "infos", "intents"),
        *("lsn", "owners", "positions", "regions", "scattered", "total", "where"),
    )

    def __init__(self, lsn: int) -> None:
        self.lsn = lsn
        self.head: bytes | None = b""  # of the transaction header, until it is complete
        self.bad = ""  # what makes it fail when it commits
        self.positions = array("Q")
        self.blocks = array("Q")
        self.infos = array("Q")  # length << 48 | what << 32 | info
        self.covers: list[int] = []  # of the buffers among them
        self.intents: list[tuple[int, int]] = []  # (kind, id)
        self.owners: dict[int, int] = {}
        # the item that is being gathered
        self.total = 0
        self.regions: list[list[tuple[int, int, int]]] = []  # of each its pieces: (record, offset, length)
        self.first = b""
        self.where = 0
        self.scattered = False


class Gatherer:
    """Takes the records in order, and fills `changes`."""

    def __init__(self, changes: Changes, alignment: int, sparse_alignment: int) -> None:
        """The alignments are those of chunks of inodes, in blocks; 0 for none."""
        self.changes = changes
        self.superblock = changes.superblock
        self._open: dict[int, _Transaction] = {}
        self._pending = 0  # items of open transactions
        self._operations = 0
        self._sparse_alignment = sparse_alignment
        self._cluster_blocks = max(1, _cluster_size(self.superblock, alignment) >> self.superblock.block_log)

    def take(self, number: int, record: Record, data: bytes) -> None:
        """Go through the operations of record `number`, whose body is `data`. Raises: Unreplayable."""
        at, end = 0, len(data)
        unpack = OPERATION.unpack_from
        self._operations += min(record.operations, end // 12)
        if self._operations > _MOST_OPERATIONS:
            raise Unreplayable(f"the log has more than {_MOST_OPERATIONS} operations")
        for _ in range(record.operations):
            if at >= end:
                break
            if at + 12 > end:
                raise Unreplayable(f"an operation of the log record at block {record.block} is cut off")
            tid, length, client, flags = unpack(data, at)
            if client not in _CLIENTS:
                raise Unreplayable(f"oh_clientid is {client} in the log record at block {record.block}")
            begin = at + 12
            at = begin + length
            if at > end:
                raise Unreplayable(f"oh_len is {length} in the log record at block {record.block}")
            transaction = self._open.get(tid)
            if transaction is None:
                # without a beginning it is what is left of one whose changes were written back
                if flags & START:
                    if len(self._open) >= _MOST_OPEN:
                        raise Unreplayable(f"the log begins more than {_MOST_OPEN} transactions at once")
                    self._open[tid] = _Transaction(record.lsn)
                continue
            flags &= ~END
            if flags & WAS_CONTINUED:
                flags &= ~CONTINUE
            if flags in (0, CONTINUE):
                if length:
                    self._region(transaction, number, begin, data, length)
            elif flags == WAS_CONTINUED:
                self._continued(transaction, number, begin, data, length)
            elif flags == COMMIT:
                del self._open[tid]
                self._commit(transaction)
            elif flags == UNMOUNT:
                self._pending -= len(transaction.positions)
                del self._open[tid]
            else:
                raise Unreplayable(f"oh_flags is 0x{flags:x} in the log record at block {record.block}")

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
            return
        record, offset, size = transaction.regions[-1][-1]
        if record != number or offset + size + 12 != begin:
            transaction.scattered = True
        transaction.regions.append([(number, begin, length)])

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

    def _finish_item(self, transaction: _Transaction) -> None:
        """All regions of an item are there: remember what it changes."""
        first = transaction.first
        kind = int.from_bytes(first[:2], "little")
        changes = self.changes
        before = len(transaction.positions)
        if kind == BUFFER:
            self._buffer(transaction, first)
        elif kind == INODE:
            self._inode(transaction, first)
        elif kind == ICREATE:
            self._icreate(transaction, first)
        elif kind in INTENTS or kind in _ENDS:
            if len(first) < 16:
                transaction.bad = transaction.bad or f"an intent of the log has {len(first)} bytes"
            else:
                transaction.intents.append((kind, int.from_bytes(first[8:16], "little")))
                if len(transaction.intents) > _MOST_INTENTS:
                    raise Unreplayable(f"the log has more than {_MOST_INTENTS} intents")
        elif kind in (DQUOT, QUOTAOFF):
            changes.quota += 1
        else:
            transaction.bad = transaction.bad or f"the log holds an item of an unknown kind, 0x{kind:x}"
        if len(transaction.positions) > before:
            self._pending += len(transaction.positions) - before
            if self._pending > _MOST_ITEMS:
                raise Unreplayable(f"the log makes more than {_MOST_ITEMS} changes")
            if transaction.scattered:
                changes.remember_pieces(transaction.where, transaction.regions)
        transaction.total, transaction.regions = 0, []

    def _buffer(self, transaction: _Transaction, first: bytes) -> None:
        size = len(first)
        words = int.from_bytes(first[16:20], "little") if size >= 20 else 0
        if size < 20 or words > 17 or size < 20 + 4 * words:
            transaction.bad = transaction.bad or f"a buffer item of the log has {size} bytes"
            return
        _, _, flags, length, blkno, _ = BUFFER_FORMAT.unpack_from(first)
        if flags & CANCEL:
            what, cover = CANCELLED, 0
        else:
            cover = int.from_bytes(first[20 : 20 + 4 * words], "little")
            what = UNLINK if flags & INODE_BUFFER else WRITE
            if not self._inside(transaction, blkno, length):
                return
            if cover >> length * 512 // CHUNK:
                transaction.bad = transaction.bad or f"the log writes beyond the end of the buffer at {blkno}"
                return
            if flags & DQUOT_BUFFER:  # nothing that a reader sees; the kernel wants quota to be on for them
                self.changes.quota += 1
                return
        if what == UNLINK:  # writes but a word in each inode
            cover = 0
        self.changes.buffers += 1
        transaction.positions.append(transaction.where)
        transaction.blocks.append(blkno & 0xFFFFFFFFFFFFFFFF)
        transaction.infos.append(length << 48 | what << 32)
        transaction.covers.append(cover)

    def _inside(self, transaction: _Transaction, blkno: int, length: int) -> bool:
        if blkno >= 0 and 0 < length <= MOST_BUFFER and blkno + length <= self.changes.device_blocks:
            return True
        transaction.bad = transaction.bad or f"the log changes {length} blocks at {blkno}, which are not there"
        return False

    def _inode(self, transaction: _Transaction, first: bytes) -> None:
        layout = {56: INODE_FORMAT, 52: INODE_FORMAT_32}.get(len(first))
        if layout is None:
            transaction.bad = transaction.bad or f"an inode item of the log has {len(first)} bytes"
            return
        _, _, fields, _, _, ino, _, blkno, length, boffset = layout.unpack_from(first)
        if not self._inside(transaction, blkno, length):
            return
        inode_size = self.superblock.inode_size
        if boffset < 0 or boffset % inode_size or boffset + inode_size > length * 512:
            transaction.bad = transaction.bad or f"the log has inode {ino} at byte {boffset} of {length * 512}"
            return
        self.changes.inodes += 1
        transaction.positions.append(transaction.where)
        transaction.blocks.append(blkno)
        # CORE is always there; without it the info of an inode at 0 could be that of a buffer
        info = boffset // inode_size << 16 | fields & 0x7FF | 1
        transaction.infos.append(length << 48 | OTHER << 32 | info)
        transaction.covers.append(0)
        if fields & 0x600:
            transaction.owners[ino] = fields & 0x600

    def _icreate(self, transaction: _Transaction, first: bytes) -> None:
        if len(first) < 28:
            transaction.bad = transaction.bad or f"an inode creation of the log has {len(first)} bytes"
            return
        group, block, count, size, length, _ = ICREATE_FORMAT.unpack_from(first)
        sup = self.superblock
        whole = max(64, sup.inodes_per_block) >> sup.inodes_per_block_log
        good = group < sup.ag_count and block > 0 and length in (whole, self._sparse_alignment or whole)
        if not good or size != sup.inode_size or count >> sup.inodes_per_block_log != length:
            transaction.bad = transaction.bad or f"the log creates {count} inodes in {length} blocks"
            return
        per = self._cluster_blocks
        ratio = sup.block_size // 512
        blkno = (group * sup.ag_blocks + block) * ratio
        if (per * ratio) > MOST_BUFFER or blkno + length * ratio > self.changes.device_blocks:
            transaction.bad = transaction.bad or f"the log creates inodes at {blkno}, which is not there"
            return
        self.changes.creations += 1
        for index in range(length // per):
            transaction.positions.append(transaction.where)
            transaction.blocks.append(blkno + index * per * ratio)
            transaction.infos.append(per * ratio << 48 | OTHER << 32)
            transaction.covers.append(0)

    def _commit(self, transaction: _Transaction) -> None:
        if transaction.total:
            if len(transaction.regions) != transaction.total:
                raise Unreplayable("a committed transaction of the log ends within an item")
            self._finish_item(transaction)
        if transaction.bad:
            raise Unreplayable(transaction.bad)
        changes = self.changes
        changes.transactions += 1
        self._pending -= len(transaction.positions)
        number = changes.new_transaction(transaction.lsn)
        positions, blocks, infos = transaction.positions, transaction.blocks, transaction.infos
        by_order: tuple[list[int], ...] = ([], [], [], [])
        for index, info in enumerate(infos):
            by_order[info >> 32 & 3].append(index)
        for what in _CHANGES:
            for index in by_order[what]:
                length = infos[index] >> 48
                if what == CANCELLED:
                    changes.drop(blocks[index], length)
                else:
                    info = infos[index] & 0xFFFFFFFF
                    changes.add(blocks[index], length, number, positions[index], info, transaction.covers[index])
        for kind, name in transaction.intents:
            if kind in INTENTS:
                changes.intents[name] = kind
                if len(changes.intents) > _MOST_INTENTS:
                    raise Unreplayable(f"the log leaves more than {_MOST_INTENTS} intents unfinished")
            elif changes.intents.get(name) == _ENDS[kind]:
                del changes.intents[name]
        changes.owners.update(transaction.owners)


def _cluster_size(sup: Superblock, alignment: int) -> int:
    """Bytes of inodes that are read and written at once."""
    size = 8192
    if sup.version == 5:
        larger = size * (sup.inode_size // 256)
        if alignment >= larger >> sup.block_log:
            size = larger
    return size
