"""Where the log of an XFS filesystem ends, where replay must begin, and whether there is anything to replay.

The log's end is where the cycle numbers fall by one. Several writes may have been under way when the machine
stopped, so what is just before is looked at block by block, and the last records must have good checksums.
Behaviour: that of the kernel (fs/xfs/xfs_log_recover.c), so that the same records count.
"""

from __future__ import annotations

from typing import NamedTuple

from guestkit.errors import Corrupt
from guestkit.fs.xfs.log_record import BLOCK, MAGIC, OPERATION, UNMOUNT, BadRecord, Record, Ring

_WRITES = 8  # records that may have been under way at once


class Span(NamedTuple):
    """Records from block `tail` to `head` are to be replayed; none when they are equal."""

    tail: int
    head: int
    clean: bool  # the filesystem was unmounted
    torn: str = ""  # what was cut off the end


def find_span(ring: Ring) -> Span:
    """Find what of the log must be replayed, with few reads.

    Raises: Corrupt when the log has no end, is another filesystem's, or is damaged where no write was under way.
    """
    try:
        return _find_span(ring)
    except BadRecord as error:
        raise Corrupt(str(error)) from None


def _find_span(ring: Ring) -> Span:
    head = _find_head(ring)
    if head is None:
        return Span(0, 0, True)
    last = _headers_before(ring, head, 1)
    if not last:
        raise Corrupt("log", "last record", found="none")
    record = ring.header(last[0])
    if _unmounts(ring, record, head):
        return Span(head, head, True)
    tail = record.tail_lsn & 0xFFFFFFFF
    return Span(head, head, True) if tail == head else _verified(ring, tail, head)


def _find_head(ring: Ring) -> int | None:
    """The block behind the last record that was written whole; None in a log that was never written."""
    blocks = ring.blocks
    window = min(blocks, _WRITES * ring.record_blocks)
    first, last = ring.cycles(0, 1)[0], ring.cycles(blocks - 1, 1)[0]
    if not first:
        return None
    if not last:  # the log was not yet filled once
        head = _first_of(ring, 0)
        head = _earliest(ring, max(0, head - window), head, 0, head)
        found = _before(ring, max(0, head - window), head)
        if found is None:
            raise Corrupt("log", "first record", found="none")
        return found
    if first == last:
        head, cycle = blocks, last - 1
    else:
        head, cycle = _first_of(ring, last), last
    if head >= window:
        head = _earliest(ring, head - window, head, cycle, head)
    else:
        # blocks at the log's end that an older cycle left: there the newer one never went on
        behind = _earliest(ring, blocks - (window - head), blocks, cycle - 1, -1)
        head = behind if behind >= 0 else _earliest(ring, 0, head, cycle, head)
    found = _before(ring, head - ring.record_blocks, head)
    if found is None:
        raise Corrupt("log", "last record", found="none")
    return found % blocks


def _first_of(ring: Ring, cycle: int) -> int:
    """Bisect for the first block of `cycle`, which the last block has and the first has not."""
    low, high = 0, ring.blocks - 1
    while high - low > 1:
        middle = (low + high) // 2
        if ring.cycles(middle, 1)[0] == cycle:
            high = middle
        else:
            low = middle
    return high


def _earliest(ring: Ring, start: int, end: int, cycle: int, otherwise: int) -> int:
    """The first block of [start, end) that has `cycle`, or `otherwise`."""
    cycles = ring.cycles(start, end - start) if end > start else []
    try:
        return start + cycles.index(cycle)
    except (ValueError, OverflowError):
        return otherwise


def _before(ring: Ring, start: int, head: int) -> int | None:
    """`head` when a whole record ends there, else where the record begins that it lies in.

    `start` may be negative: the search then goes on at the log's end. None: no record begins there.
    """
    words = ring.words(start, head - start)
    for index in range(len(words) - 1, -1, -1):
        if words[index] == MAGIC:
            break
    else:
        return None
    at = start + index
    record = _lenient(ring, at)
    if record.uuid != ring.uuid and record.uuid != bytes(16):
        raise Corrupt("the log is that of another filesystem")
    return head if head - at == record.blocks else at % ring.blocks


def _lenient(ring: Ring, block: int) -> Record:
    """The header at `block`, also of the empty records that recovery leaves in front of the head."""
    try:
        return ring.header(block)
    except BadRecord:
        data = ring.read(block, 1)
        return Record(block % ring.blocks, 1, 0, 0, 0, 0, 0, data[304:320], 0, 0)


def _headers_before(ring: Ring, head: int, count: int, most: int | None = None) -> list[int]:
    """Where the last `count` records before `head` begin, ascending; fewer when there are no more in `most` blocks."""
    limit = min(ring.blocks, 2 * _WRITES * ring.record_blocks)
    if most is not None:
        limit = min(limit, most)
    reach = 64
    while True:
        reach = min(reach, limit)
        words = ring.words(head - reach, reach)
        found = [(head - reach + index) % ring.blocks for index, word in enumerate(words) if word == MAGIC]
        if len(found) >= count or reach == limit:
            return found[-count:]
        reach *= 8


def _unmounts(ring: Ring, record: Record, head: int) -> bool:
    """Whether `record` is the last one and says that the filesystem was unmounted."""
    if record.operations != 1 or (record.block + record.blocks) % ring.blocks != head:
        return False
    data = ring.read(record.block + record.header_blocks, 1)
    return bool(OPERATION.unpack_from(data)[3] & UNMOUNT)


def _verified(ring: Ring, tail: int, head: int) -> Span:
    """Cut damaged records off the end, as far as they may have been under way."""
    if tail >= ring.blocks:
        raise Corrupt("log record", "h_tail_lsn", found=tail, expected=f"a block below {ring.blocks}")
    torn = ""
    distance = (head - tail) % ring.blocks or ring.blocks
    starts = _headers_before(ring, head, _WRITES, distance)
    if not starts:
        raise Corrupt("log", "last record", found="none")
    try:
        for record in ring.iter_records(starts[0], head):
            ring.body(record)
    except BadRecord as error:
        torn = f"{error}; what follows was not written whole"
        head = error.block
        last = _headers_before(ring, head, 1, (head - tail) % ring.blocks)
        if not last:
            raise Corrupt(str(error)) from None
        record = ring.header(last[0])
        if _unmounts(ring, record, head):
            return Span(head, head, True, torn)
        tail = record.tail_lsn & 0xFFFFFFFF
        if tail >= ring.blocks:
            raise Corrupt("log record", "h_tail_lsn", found=tail, expected=f"a block below {ring.blocks}") from None
        if tail == head:
            raise Corrupt(f"{error}; nothing before it is left to be replayed") from None
    return Span(tail, head, False, torn)


def later_tail(ring: Ring, span: Span, bad: int, record_size: int) -> int | None:
    """Where to begin instead when the record at `bad` is damaged: the newest writes may have overwritten the tail.

    None when it is too far from the head for that.
    """
    if (bad - span.head) % ring.blocks * BLOCK > _WRITES * record_size:
        return None
    reach = min((span.head - bad) % ring.blocks, 2 * ring.record_blocks)
    words = ring.words(bad, reach)
    starts = [index for index, word in enumerate(words) if word == MAGIC and index]
    return (bad + starts[0]) % ring.blocks if starts else None
