"""The log of an XFS filesystem: what its committed transactions would write, as a Source above the device.

The result is an Overlay below the reader: it shows the filesystem as it would be after a mount. The superblock may be
among what changes, so a reader parses it again from there. log_head.py finds where the log ends, log_record.py reads
records, log_items.py gathers what they change, log_apply.py makes the changed blocks when they are read.

Left out: what the kernel does after the replay, to finish transactions that had been committed in part (their intents
are counted, and named in the state) and to free inodes that were unlinked while open, which no reader sees.
"""

from __future__ import annotations

from collections import Counter

from guestkit.errors import Corrupt, Unsupported
from guestkit.fs.base import Problems, State
from guestkit.fs.xfs.log_apply import Records, Replayed
from guestkit.fs.xfs.log_changes import Changes, Unreplayable
from guestkit.fs.xfs.log_counters import current_superblock
from guestkit.fs.xfs.log_format import INTENTS, VISIBLE
from guestkit.fs.xfs.log_head import Span, find_span, later_tail
from guestkit.fs.xfs.log_items import Gatherer
from guestkit.fs.xfs.log_owner import owner_patches
from guestkit.fs.xfs.log_record import BLOCK, BadRecord, Ring
from guestkit.fs.xfs.superblock import MAGIC, Superblock, parse_superblock
from guestkit.limits import Limits
from guestkit.source import BytesSource, Overlay, Patch, Source

_MOST_RECORDS = 1 << 18
# of the superblock, only needed here
_ALIGNMENT, _SPARSE_ALIGNMENT = slice(180, 184), slice(228, 232)
_NOT_REPLAYED = "dirty-not-replayed"


def recover(
    device: Source, superblock: Superblock, limits: Limits, problems: Problems, log_device: Source | None = None
) -> tuple[Source, State]:
    """Return the device as its log makes it, and how far that went; `log_device`: where an external log stands.

    A log that the kernel would not replay is not replayed at all: the device is returned as it is, the state says
    why, and so does an entry of `problems`.
    Raises: SourceError when the log cannot be read.
    """
    if superblock.external_log and log_device is None:
        return device, State(_NOT_REPLAYED, "the log is on another device, and may hold changes")
    try:
        return _recover(device, superblock, limits, problems, log_device)
    except (Corrupt, Unreplayable, BadRecord) as error:
        problems.add("log", str(error))
        return device, State(_NOT_REPLAYED, str(error))


def _recover(
    device: Source, sup: Superblock, limits: Limits, problems: Problems, log_device: Source | None
) -> tuple[Source, State]:
    source = device if log_device is None else log_device
    start = sup.fsblock_offset(sup.log_start) if log_device is None else 0
    blocks = sup.log_blocks * sup.block_size // BLOCK
    if start + blocks * BLOCK > source.size:
        raise Corrupt("the log lies beyond the end of the image")
    ring = Ring(source, start, blocks, sup.log_version, sup.log_sunit, sup.uuid)
    span = find_span(ring)
    if span.clean:
        return device, State()
    changes, records = _gather(ring, span, sup, device, limits)
    replayed = Replayed(device, records, changes, sup, limits, problems)
    patches = [Patch(begin, length, replayed, begin) for begin, length in replayed.runs()]
    result: Source = Overlay(device, patches)
    sup = _latest(result, sup)
    head = current_superblock(result, sup, problems)
    if head is not None:
        patches = _over(patches, head)
        result = Overlay(device, patches)
    if changes.owners and (owned := owner_patches(result, sup, changes.owners, problems)):
        result = Overlay(result, owned)
    reason = f"{changes.transactions} transactions of the log"
    if span.torn:
        reason += f"; {span.torn}"
    unfinished = Counter(kind for kind, *_ in changes.intents.values())
    if unfinished:
        names = ", ".join(f"{INTENTS[kind][1]} ({count})" for kind, count in sorted(unfinished.items()))
        reason += f"; begun and not finished here: {names}"
        for kind, *inodes in changes.intents.values():
            if kind in VISIBLE:
                where = ", ".join(f"inode {ino}" for ino in inodes)
                problems.add(where, f"{INTENTS[kind][1]}: a change that the log begins is not finished")
    return result, State("replayed", reason)


def _gather(ring: Ring, span: Span, sup: Superblock, device: Source, limits: Limits) -> tuple[Changes, Records]:
    """Read all records, from the first whose changes may not have been written back.

    Raises: BadRecord, Unreplayable.
    """
    sector = device.read(0, 512)
    alignment = int.from_bytes(sector[_ALIGNMENT], "big")
    sparse = int.from_bytes(sector[_SPARSE_ALIGNMENT], "big") if sup.sparse_inodes else 0
    tail = span.tail
    while True:
        changes, records = Changes(sup, device.size), Records(ring, limits)
        gatherer = Gatherer(changes, alignment, sparse)
        record_size = 0
        try:
            for record in ring.iter_records(tail, span.head):
                record_size = record_size or record.size
                data = ring.body(record)
                if not record.crc and sup.version == 5:
                    raise Unreplayable(f"the log record at block {record.block} has no checksum")
                if foreign := ring.foreign(record):
                    raise Unreplayable(foreign)
                gatherer.take(records.add(record), record, data)
                if len(records.blocks) > _MOST_RECORDS:
                    raise Unreplayable(f"the log has more than {_MOST_RECORDS} records")
            return changes, records
        except BadRecord as error:
            later = later_tail(ring, span, error.block, record_size or 32 << 10)
            if later is None or later == tail:
                raise
            tail = later


def _latest(source: Source, sup: Superblock) -> Superblock:
    """The superblock as the log leaves it. Raises: Unreplayable when it leaves none."""
    if source.read(0, 4) != MAGIC:  # a copy elsewhere was used
        return sup
    try:
        return parse_superblock(source.read(0, sup.sector_size))
    except Unsupported:  # which is for the reader to say
        return sup
    except Corrupt as error:
        raise Unreplayable(f"the log leaves a {error}") from None


def _over(patches: list[Patch], head: bytes) -> list[Patch]:
    """`patches` with the bytes `head` at the device's begin over them."""
    rest = []
    for patch in patches:
        cut = min(max(0, len(head) - patch.offset), patch.length)
        if cut < patch.length:
            rest.append(Patch(patch.offset + cut, patch.length - cut, patch.source, patch.source_offset + cut))
    return [Patch(0, len(head), BytesSource(head), 0), *rest]
