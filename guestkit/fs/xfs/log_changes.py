"""What a log changes, by buffer: where in the log each change stands, and which of them count.

Nothing is kept of the changes themselves, so that a log of gigabytes takes little memory. Which changes are cancelled,
and which are older than what stands on disk, is decided as the kernel's recovery does.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from guestkit.errors import Corrupt
from guestkit.fs.xfs.superblock import Superblock

MOST_ITEMS = 2 << 20
_MOST_CHANGES = 1 << 15  # of one buffer, without those that are repeated
_MOST_PIECES = 1 << 18
_MOST_KEYS = 1 << 18  # buffers that change: 1 GiB of 4 KiB blocks, and about 100 MiB of memory
_LONG_CHAIN = 256  # changes of one buffer, above which it pays to look for those that are repeated


# what a change is; in this order they count within a transaction
WRITE, OTHER, UNLINK, CANCELLED = range(4)


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
        self.intents: dict[int, tuple[int, ...]] = {}  # unfinished: id -> kind, and the inodes whose files it changes
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

    def commit(self, lsn: int, changes: array[int]) -> None:
        """Take the changes of a transaction, in what order they count.

        `changes`: of each the position, first block << 16 | length of the buffer, what << 32 | info, and the chunks
        that it writes, 0 where they may not be taken for all that it does.
        Raises: Unreplayable when the log makes too many.
        """
        self.transactions += 1
        number = self._new_transaction(lsn)
        by_order: tuple[list[int], ...] = ([], [], [], [])
        for at, info in enumerate(changes[2::4]):
            by_order[info >> 32].append(4 * at)
        last, covers, befores = self._last, self._cover, self._before
        put, put_number = self._positions.append, self._transaction.append
        put_before, put_info = befores.append, self._info.append
        count = len(self._positions)
        for at in (*by_order[WRITE], *by_order[OTHER], *by_order[UNLINK]):
            key = changes[at + 1]
            cover = changes[at + 3]
            before = last.get(key, 0)
            if before:
                old = covers.get(key, 0)
                if cover and old and not old & ~cover and self._lsns[self._transaction[before]] <= lsn:
                    # all that the earlier change wrote is written again, unless the block is newer than both
                    before = befores[before]
                if old and not cover:
                    del covers[key]
            if cover:
                covers[key] = cover
            last[key] = count
            count += 1
            put(changes[at])
            put_number(number)
            put_before(before)
            put_info(changes[at + 2] & 0xFFFFFFFF)
            if count > MOST_ITEMS:
                raise Unreplayable(f"the log makes more than {MOST_ITEMS} changes")
            if len(last) > _MOST_KEYS:
                raise Unreplayable(f"the log changes more than {_MOST_KEYS} blocks")
        for at in by_order[CANCELLED]:  # the buffer was freed: all changes so far are forgotten
            key = changes[at + 1]
            if last.pop(key, None) is not None:
                self.cancelled += 1
                covers.pop(key, None)

    def _new_transaction(self, lsn: int) -> int:
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
