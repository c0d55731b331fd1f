"""The journal of ext3 and ext4 (jbd2): what its committed transactions would write, as a Source above the device.

Specification: Documentation/filesystems/ext4/journal.rst; which transactions count is what the kernel's recovery
does: scan for the last good commit, collect revocations, then take the blocks that no later revocation names. The
result holds places in the log, not bytes, so extents of replayed blocks stay true. Fast commits, which follow the
last transaction in an area of their own, are read by fastcommit.py. Left out: external journals (the caller
refuses them) and writing.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from guestkit.checksum import crc32_be, crc32c
from guestkit.errors import Corrupt, Unsupported
from guestkit.fs.base import State
from guestkit.layout import Layout
from guestkit.source import BytesSource, Overlay, Patch, Source

MAGIC = 0xC03B3998
_MAGIC_BYTES = MAGIC.to_bytes(4, "big")
_DESCRIPTOR, _COMMIT, _SUPER_V1, _SUPER_V2, _REVOKE = 1, 2, 3, 4, 5

# compatible, then incompatible features of the journal
_COMPAT_CHECKSUM = 0x1
_REVOKES, _64BIT, _ASYNC_COMMIT, _CSUM_V2, _CSUM_V3, _FAST_COMMIT = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20
_KNOWN_INCOMPAT = _REVOKES | _64BIT | _ASYNC_COMMIT | _CSUM_V2 | _CSUM_V3 | _FAST_COMMIT

_ESCAPED, _SAME_UUID, _LAST = 0x1, 0x2, 0x8

_FEWEST_BLOCKS = 1024  # a log shorter than this gives no room to fast commits
_FAST_BLOCKS = 256  # where the superblock does not say how many
_MOST_BLOCKS = 1 << 18  # distinct blocks that a replay may change: 1 GiB of 4 KiB blocks, and about 80 MiB of memory
_MOST_REVOKES = 1 << 19
_MOST_FAST = 1 << 16  # fast-commit blocks looked at; what is read of them is bounded in bytes by their reader
_READ = 1 << 20  # bytes of log read at once to verify logged blocks

_HEADER = struct.Struct(">III")
_COMMIT_BLOCK = Layout(
    "commit_header",
    60,
    ">",
    h_chksum_type=(12, "B"),
    h_chksum_size=(13, "B"),
    h_chksum=(16, "I"),
    h_commit_sec=(48, "Q"),
)
_SUPERBLOCK = Layout(
    "journal_superblock",
    1024,
    ">",
    h_magic=(0, "I"),
    h_blocktype=(4, "I"),
    s_blocksize=(12, "I"),
    s_maxlen=(16, "I"),
    s_first=(20, "I"),
    s_sequence=(24, "I"),
    s_start=(28, "I"),
    s_errno=(32, "i"),
    s_feature_compat=(36, "I"),
    s_feature_incompat=(40, "I"),
    s_feature_ro_compat=(44, "I"),
    s_uuid=(48, "16s"),
    s_checksum_type=(80, "B"),
    s_num_fc_blks=(84, "I"),
    s_checksum=(252, "I"),
)

Run = tuple[int, int, int]  # logical block, physical block, count


@dataclass(frozen=True)
class JournalSuperblock:
    """Block 0 of a journal. `start` is 0 when it was closed cleanly; blocks count from the journal's begin."""

    block_size: int
    length: int  # blocks, fast-commit area included
    first: int
    last: int  # behind the last block of the ring of transactions
    sequence: int  # transaction expected at `start`
    start: int
    errno: int
    compat: int
    incompat: int
    seed: int  # of its checksums

    @property
    def checksums(self) -> bool:
        """Whether each block and each tag carries a crc32c."""
        return bool(self.incompat & (_CSUM_V2 | _CSUM_V3))

    @property
    def fast_blocks(self) -> range:
        """Where fast commits stand; empty when there are none."""
        return range(self.last + 1, self.length) if self.incompat & _FAST_COMMIT else range(0)

    @property
    def tag_size(self) -> int:
        if self.incompat & _CSUM_V3:
            return 16
        return (12 if self.incompat & _64BIT else 8) + (2 if self.incompat & _CSUM_V2 else 0)


@dataclass(frozen=True)
class Recovery:
    """What a replay gives: the device with its log applied, and how far that went."""

    source: Source
    state: State
    problems: tuple[str, ...] = ()
    transactions: int = 0
    blocks: int = 0  # replayed, each counted once
    revoked: int = 0  # logged, but not to be replayed
    next_sequence: int = 0  # the transaction that fast commits belong to
    complete: bool = True  # nothing of the log was left out for damage, so that fast commits may follow
    fast: tuple[int, ...] = field(default=(), repr=False)  # device offsets of the fast-commit blocks, in order
    taken: tuple[int, int] = (0, 0)  # clusters and inodes that fast commits took and no group counts


def parse_journal_superblock(buf: bytes, block_size: int, blocks: int) -> JournalSuperblock:
    """Decode block 0 of a journal of `blocks` mapped blocks on a filesystem with blocks of `block_size` bytes.

    Raises: Corrupt; Unsupported for features of the journal that are not known.
    """
    found = _SUPERBLOCK.parse(buf)
    name = "journal superblock"
    if found["h_magic"] != MAGIC:
        raise Corrupt(name, "h_magic", found=found["h_magic"], expected=MAGIC)
    if found["h_blocktype"] not in (_SUPER_V1, _SUPER_V2):
        raise Corrupt(name, "h_blocktype", found=found["h_blocktype"], expected="3 or 4")
    compat = incompat = 0
    seed = 0xFFFFFFFF
    if found["h_blocktype"] == _SUPER_V2:
        compat, incompat = found["s_feature_compat"], found["s_feature_incompat"]
        unknown = incompat & ~_KNOWN_INCOMPAT or found["s_feature_ro_compat"]
        if unknown:
            raise Unsupported("journal feature", bit=unknown & -unknown)
        kinds = bool(incompat & _CSUM_V2) + bool(incompat & _CSUM_V3) + bool(compat & _COMPAT_CHECKSUM)
        if kinds > 1:
            raise Corrupt(name, "features", found=incompat, expected="one kind of checksum")
        if incompat & (_CSUM_V2 | _CSUM_V3):
            if found["s_checksum_type"] != 4:
                raise Unsupported("journal checksum type", bit=found["s_checksum_type"])
            actual = crc32c(buf[:252] + bytes(4) + buf[256:1024])
            if actual != found["s_checksum"]:
                raise Corrupt(name, "s_checksum", found=found["s_checksum"], expected=actual)
            seed = crc32c(found["s_uuid"])
    if found["s_blocksize"] != block_size:
        raise Corrupt(name, "s_blocksize", found=found["s_blocksize"], expected=block_size)
    length = found["s_maxlen"]
    if not 1 < length <= blocks:
        raise Corrupt(name, "s_maxlen", found=length, expected=f"2 to {blocks}")
    last = length
    if incompat & _FAST_COMMIT:
        fast = found["s_num_fc_blks"] or _FAST_BLOCKS
        if length - fast >= _FEWEST_BLOCKS:
            last = length - fast
    first, start = found["s_first"], found["s_start"]
    if not 0 < first < last:
        raise Corrupt(name, "s_first", found=first, expected=f"1 to {last - 1}")
    if start and not first <= start < last:
        raise Corrupt(name, "s_start", found=start, expected=f"0 or {first} to {last - 1}")
    return JournalSuperblock(
        block_size, length, first, last, found["s_sequence"], start, found["s_errno"], compat, incompat, seed
    )


def recover(device: Source, block_size: int, block_count: int, needs_recovery: bool, runs: Sequence[Run]) -> Recovery:
    """Return `device` as the kernel's journal recovery would leave it.

    `runs` maps the journal inode: (logical, physical, count) in blocks, ascending; `block_count` is the
    filesystem's. Where the kernel would refuse to mount for damage in the log, all transactions before the damage
    are applied and the state says what is missing.
    Raises: Corrupt or Unsupported when the journal's superblock cannot be used; SourceError.
    """
    log = _Log(device, block_size, block_count, runs)
    problems = []
    if log.header.errno:
        problems.append(f"the journal records error {log.header.errno} of an earlier mount")
    if not needs_recovery or not log.header.start:
        return Recovery(device, State(), tuple(problems))
    plan = _Plan(log)
    plan.scan()
    plan.replay(block_count)
    problems += plan.problems
    patches = list(_patches(plan.blocks, log))
    complete = not plan.problems
    return Recovery(
        Overlay(device, patches) if patches else device,
        State("replayed") if complete else State("dirty-not-replayed", plan.problems[0]),
        tuple(problems),
        plan.end - log.header.sequence & 0xFFFFFFFF,
        len(plan.blocks),
        plan.revoked,
        plan.end,
        complete,
        tuple(_fast_places(log)),
    )


class _Log:
    """The blocks of a journal, by their number in it."""

    def __init__(self, device: Source, block_size: int, block_count: int, runs: Sequence[Run]) -> None:
        self.device = device
        self.block_size = block_size
        self._runs = sorted(runs)
        self._starts = [run[0] for run in self._runs]
        reach = 0
        total = 0
        for logical, physical, count in self._runs:
            if logical < reach or count <= 0 or physical <= 0 or physical + count > block_count:
                raise Corrupt("journal inode", f"maps block {logical} to {physical}")
            reach = logical + count
            total += count
        if total > block_count:
            raise Corrupt("journal inode", "blocks", found=total, expected=f"at most {block_count}")
        self.header = parse_journal_superblock(self.read(0), block_size, reach)

    def place(self, block: int) -> int:
        """Return the device offset of `block`. Raises: Corrupt where the journal has a hole."""
        return self.contiguous(block, 1)[0]

    def contiguous(self, block: int, most: int) -> tuple[int, int]:
        """Return (device offset, how many of `most` blocks stand there in a row)."""
        index = bisect_right(self._starts, block) - 1
        if index >= 0:
            logical, physical, count = self._runs[index]
            if block < logical + count:
                return (physical + block - logical) * self.block_size, min(most, logical + count - block)
        raise Corrupt(f"journal block {block} is not mapped")

    def read(self, block: int) -> bytes:
        return self.device.read(self.place(block), self.block_size)

    def wrap(self, block: int) -> int:
        first, last = self.header.first, self.header.last
        return block if block < last else first + (block - first) % (last - first)

    def iter_blocks(self, numbers: Sequence[int]) -> Iterator[bytes]:
        """Yield the bytes of each of `numbers`, reading neighbours at once."""
        size = self.block_size
        most = max(1, _READ // size)
        at = 0
        while at < len(numbers):
            first = numbers[at]
            count = 1
            while count < most and at + count < len(numbers) and numbers[at + count] == first + count:
                count += 1
            place, count = self.contiguous(first, count)
            data = memoryview(self.device.read(place, count * size))
            for index in range(count):
                yield bytes(data[index * size : (index + 1) * size])
            at += count


class _Stop(Exception):
    """The log is damaged in the transaction that is being read; the text says how."""


class _Plan:
    """The passes over a log. `blocks` maps each block to be written to (log block, escaped)."""

    def __init__(self, log: _Log) -> None:
        self.log = log
        self.header = log.header
        self.end = self.header.sequence  # the first transaction that is not replayed
        self.blocks: dict[int, tuple[int, bool]] = {}
        self.revokes: dict[int, int] = {}  # block -> the last transaction that revokes it
        self.revoked = 0
        self.problems: list[str] = []
        # (transaction, log block of the descriptor), in order: what the later passes need of the first
        self._descriptors: list[tuple[int, int]] = []
        self._revoke_blocks: list[tuple[int, int]] = []

    def _blocks(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield (log block, type, transaction, bytes) of control blocks; `self._next` is where the log goes on."""
        self._next = self.header.start
        self._visited = 0
        while True:
            self._advance_check()
            block = self._next
            try:
                data = self.log.read(block)
            except Corrupt as error:
                raise _Stop(str(error)) from None
            magic, kind, sequence = _HEADER.unpack_from(data)
            if magic != MAGIC:
                return
            self._skip(1)
            yield block, kind, sequence, data

    def _skip(self, count: int) -> None:
        self._visited += count
        self._next = self.log.wrap(self._next + count)

    def _advance_check(self) -> None:
        if self._visited > self.header.last - self.header.first:
            raise _Stop("the journal's transactions go round it more than once")

    def scan(self) -> None:
        """Find the first transaction that is not complete and good, and what those before it consist of."""
        try:
            self._scan()
        except _Stop as stop:
            self.problems.append(f"journal transaction {self.end}: {stop}")
        self._descriptors = [item for item in self._descriptors if self._before_end(item[0])]
        self._revoke_blocks = [item for item in self._revoke_blocks if self._before_end(item[0])]

    def _before_end(self, sequence: int) -> bool:
        return sequence - self.header.sequence & 0xFFFFFFFF < self.end - self.header.sequence & 0xFFFFFFFF

    def _scan(self) -> None:
        header = self.header
        suspect = ""  # what was wrong in the running transaction: damage, or left behind by an older log
        running = 0xFFFFFFFF  # compat checksum of the running transaction
        failed = ""  # an asynchronous commit with a bad checksum: damage if another transaction follows
        last_time = 0
        sequence_now = header.sequence
        for block, kind, sequence, data in self._blocks():
            if sequence != sequence_now:
                break
            if kind == _DESCRIPTOR:
                if not self._tail_good(data):
                    suspect = suspect or f"descriptor block {block} has a bad checksum"
                numbers = self._logged(len(self._tags(data)))
                if header.compat & _COMPAT_CHECKSUM and not suspect and not failed:
                    running = crc32_be(data, running)
                    try:
                        for logged in self.log.iter_blocks(numbers):
                            running = crc32_be(logged, running)
                    except Corrupt as error:
                        raise _Stop(str(error)) from None
                self._descriptors.append((sequence, block))
                self._skip(len(numbers))
            elif kind == _REVOKE:
                if not self._tail_good(data):
                    suspect = suspect or f"revoke block {block} has a bad checksum"
                self._revoke_blocks.append((sequence, block))
            elif kind == _COMMIT:
                kind_, size, checksum, seconds = _COMMIT_BLOCK.unpack_from(data)
                if suspect:
                    if seconds >= last_time:
                        raise _Stop(suspect)
                    break
                if failed:
                    raise _Stop(failed)
                bad = False
                if header.compat & _COMPAT_CHECKSUM:
                    bad = not ((kind_, size, checksum) == (1, 4, running) or (kind_, size, checksum) == (0, 0, 0))
                    running = 0xFFFFFFFF
                if bad or not self._commit_good(data):
                    if seconds < last_time:
                        break
                    text = f"commit block {block} has a bad checksum"
                    if not header.incompat & _ASYNC_COMMIT:
                        raise _Stop(text)
                    failed = text
                else:
                    self.end = sequence + 1 & 0xFFFFFFFF
                last_time = seconds
                sequence_now = sequence + 1 & 0xFFFFFFFF
            else:
                break

    def replay(self, block_count: int) -> None:
        """Collect what the good transactions write. `block_count` is the filesystem's."""
        known = list(self.problems)
        for _ in range(4):
            before = self.end
            if self._collect(block_count):
                return
            # revocations of what is now cut off must not count: once more, up to the cut
            cut = self.problems[-1]
            self.problems = [*known, cut]
            self.blocks, self.revokes, self.revoked = {}, {}, 0
            if self.end == before:
                break
        self.end = self.header.sequence
        self.problems.append("the journal is not replayed at all")

    def _collect(self, block_count: int) -> bool:
        """Do the passes that follow the scan; False when they moved `end`."""
        for sequence, block in self._revoke_blocks:
            if self._before_end(sequence) and not self._collect_revokes(sequence, block):
                return False
        current = None
        changes: dict[int, tuple[int, bool]] = {}
        for sequence, block in self._descriptors:
            if not self._before_end(sequence):
                break
            if sequence != current:
                self.blocks.update(changes)
                changes = {}
                current = sequence
            data = self.log.read(block)
            tags = self._tags(data)
            self._next = self.log.wrap(block + 1)
            numbers = self._logged(len(tags))
            wanted = []
            for (target, flags, checksum), number in zip(tags, numbers, strict=True):
                if target >= block_count:
                    self._cut(sequence, f"block {target} lies beyond the filesystem")
                    return False
                revoked_by = self.revokes.get(target)
                if revoked_by is not None and not self._after(sequence, revoked_by):
                    self.revoked += 1
                else:
                    wanted.append((target, flags, checksum, number))
            good = self._verified(sequence, [item[3] for item in wanted], [item[2] for item in wanted])
            for (target, flags, _, number), right in zip(wanted, good, strict=True):
                if right:
                    changes[target] = (number, bool(flags & _ESCAPED))
                else:
                    self.problems.append(f"journal transaction {sequence}: logged block {target} has a bad checksum")
            if len(self.blocks) + len(changes) > _MOST_BLOCKS:
                self._cut(sequence, f"the journal changes more than {_MOST_BLOCKS} blocks")
                return False
        self.blocks.update(changes)
        return True

    def _cut(self, sequence: int, text: str) -> None:
        self.end = sequence
        self.problems.append(f"journal transaction {sequence}: {text}")

    def _after(self, one: int, other: int) -> bool:
        base = self.header.sequence
        return one - base & 0xFFFFFFFF > other - base & 0xFFFFFFFF

    def _verified(self, sequence: int, numbers: Sequence[int], checksums: Sequence[int]) -> list[bool]:
        """Say of each of the log blocks `numbers` whether it is there and has its tag's checksum."""
        header = self.header
        good = []
        try:
            if not header.checksums:
                return [self.log.place(number) >= 0 for number in numbers]
            seed = crc32c(sequence.to_bytes(4, "big"), header.seed)
            mask = 0xFFFFFFFF if header.incompat & _CSUM_V3 else 0xFFFF
            for data, expected in zip(self.log.iter_blocks(numbers), checksums, strict=True):
                good.append(crc32c(data, seed) & mask == expected)
        except Corrupt:  # not mapped: this block and, being in no known place, those behind it
            good = good + [False] * (len(numbers) - len(good))
        return good

    def _collect_revokes(self, sequence: int, block: int) -> bool:
        data = self.log.read(block)
        used = int.from_bytes(data[12:16], "big")
        if used > len(data) - (4 if self.header.checksums else 0):
            self._cut(sequence, f"revoke block {block} says that it holds {used} bytes")
            return False
        width = 8 if self.header.incompat & _64BIT else 4
        count = max(0, used - 16) // width
        # transactions ascend, so that the last one that revokes a block stays
        self.revokes.update(
            dict.fromkeys(struct.unpack_from(f">{count}{'Q' if width == 8 else 'I'}", data, 16), sequence)
        )
        if len(self.revokes) > _MOST_REVOKES:
            self._cut(sequence, f"the journal revokes more than {_MOST_REVOKES} blocks")
            return False
        return True

    def _tags(self, data: bytes) -> list[tuple[int, int, int]]:
        """Return (filesystem block, flags, checksum) of each tag of a descriptor block."""
        header = self.header
        size = header.tag_size
        end = len(data) - (4 if header.checksums else 0)
        high = 0
        tags = []
        at = 12
        while at + size <= end:
            if header.incompat & _CSUM_V3:
                low, flags, high, checksum = struct.unpack_from(">IIII", data, at)
            else:
                low, checksum, flags = struct.unpack_from(">IHH", data, at)
                if header.incompat & _64BIT:
                    high = int.from_bytes(data[at + 8 : at + 12], "big")
            target = low | high << 32 if header.incompat & _64BIT else low
            tags.append((target, flags & 0xFFFF, checksum))
            at += size if flags & _SAME_UUID else size + 16
            if flags & _LAST:
                break
        return tags

    def _logged(self, count: int) -> list[int]:
        """Return the log blocks that the next `count` logged blocks take."""
        first, last = self.header.first, self.header.last
        ring = last - first
        return [first + (self._next - first + index) % ring for index in range(count)]

    def _tail_good(self, data: bytes) -> bool:
        if not self.header.checksums:
            return True
        return crc32c(data[:-4] + bytes(4), self.header.seed) == int.from_bytes(data[-4:], "big")

    def _commit_good(self, data: bytes) -> bool:
        if not self.header.checksums:
            return True
        stored = int.from_bytes(data[16:20], "big")
        whole = data[:16] + bytes(4) + data[20:]
        if crc32c(whole, self.header.seed) == stored:
            return True
        # a commit block of which only the first sector was written: the rest counts as zeros
        return crc32c(whole[:60].ljust(len(data), b"\0"), self.header.seed) == stored


def _fast_places(log: _Log) -> Iterator[int]:
    """Yield where the fast-commit blocks stand, up to a hole in the journal."""
    for block in log.header.fast_blocks[:_MOST_FAST]:
        try:
            yield log.place(block)
        except Corrupt:
            return


def _patches(blocks: dict[int, tuple[int, bool]], log: _Log) -> Iterator[Patch]:
    """Yield the patches of `blocks`, neighbours that are neighbours in the log too joined."""
    size = log.block_size
    magic = BytesSource(_MAGIC_BYTES)
    pending: Patch | None = None
    for target in sorted(blocks):
        number, escaped = blocks[target]
        offset, place = target * size, log.place(number)
        if escaped:
            if pending is not None:
                yield pending
            pending = None
            yield Patch(offset, 4, magic, 0)
            yield Patch(offset + 4, size - 4, log.device, place + 4)
        elif (
            pending is not None
            and pending.offset + pending.length == offset
            and pending.source_offset + pending.length == place
        ):
            pending = pending._replace(length=pending.length + size)
        else:
            if pending is not None:
                yield pending
            pending = Patch(offset, size, log.device, place)
    if pending is not None:
        yield pending
