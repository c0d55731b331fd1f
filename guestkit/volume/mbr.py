"""MBR partition tables ("msdos"), with the chain of logical partitions inside an extended one.

Numbers are the kernel's: 1 to 4 by slot, logical ones from 5 in the order of the chain (block/partitions/msdos.c).
Links of the chain count from the start of the extended partition, a logical partition from its own EBR.
Left out: tables inside a partition (BSD, Solaris, Minix), which are shown as the partition that holds them.
"""

from __future__ import annotations

from guestkit.layout import Layout
from guestkit.limits import Limits
from guestkit.source import Source
from guestkit.volume.base import Table, Volume, outside, part_of, read_at

MAX_LOGICAL = 256
_MAX_EMPTY = 100  # EBRs without a partition in a row, the kernel's bound
_EXTENDED = (0x05, 0x0F, 0x85)

_ENTRY = Layout("mbr_partition", 16, "<", status=(0, "B"), type=(4, "B"), start=(8, "I"), sectors=(12, "I"))

# (status, type, first sector, number of sectors)
Entry = tuple[int, int, int, int]


def entries_of(sector: bytes) -> list[Entry] | None:
    """The four entries of an MBR or EBR; None unless the sector is signed as one."""
    if len(sector) < 512 or sector[510:512] != b"\x55\xaa":
        return None
    return list(_ENTRY.iter_unpack(sector[446:510]))


def open(source: Source, limits: Limits, sector_size: int | None = None) -> Table | None:
    """Read the table; None where sector 0 is not one. `sector_size`: 512 or 4096, default: the source's.

    Raises: SourceError (EIO) when the host cannot read the disk.
    """
    unit = sector_size or source.sector_size
    sector = read_at(source, 0, 512)
    entries = entries_of(sector)
    if entries is None or any(status & 0x7F for status, _, _, _ in entries):
        return None
    reader = _Reader(source, unit, int.from_bytes(sector[440:444], "little"))
    for number, entry in enumerate(entries, 1):
        _, type, start, size = entry
        if not size:  # the type may be 0: the first partition of a hybrid ISO image
            continue
        extended = type in _EXTENDED
        reader.add(number, entry, start, "extended" if extended else "")
    for _, type, start, size in entries:
        if size and type in _EXTENDED:
            reader.follow(start, size)
    reader.volumes.sort(key=lambda volume: volume.number)
    uuid = f"{reader.signature:08x}" if reader.signature else ""
    return Table("msdos", uuid, unit, tuple(reader.volumes), tuple(reader.problems))


class _Reader:
    """Collects the volumes of one table."""

    def __init__(self, source: Source, unit: int, signature: int) -> None:
        self.source = source
        self.unit = unit
        self.signature = signature
        self.volumes: list[Volume] = []
        self.problems: list[str] = []
        self.next = 5
        self.seen: set[int] = set()  # EBRs, over all extended partitions

    def add(self, number: int, entry: Entry, lba: int, role: str = "") -> None:
        status, type, _, size = entry
        start, length = lba * self.unit, size * self.unit
        problem = outside(self.source, start, length)
        if problem:
            self.problems.append(f"partition {number} {problem}")
        self.volumes.append(
            Volume(
                name=str(number),
                scheme="msdos",
                number=number,
                start=start,
                size=length,
                opener=part_of(self.source, start, length, self.unit),
                type_id=f"{type:02x}",
                attributes=status,
                uuid=f"{self.signature:08x}-{number:02x}" if self.signature else "",
                role=role,
            )
        )

    def follow(self, first: int, first_size: int) -> None:
        """Add the logical partitions of the extended partition of `first_size` sectors at sector `first`."""
        here, here_size = first, first_size
        empty = 0
        while True:
            if here in self.seen:
                self.problems.append(f"the chain of logical partitions leads back to sector {here}")
                return
            self.seen.add(here)
            entries = entries_of(read_at(self.source, here * self.unit, 512))
            if entries is None:
                self.problems.append(f"the chain of logical partitions is broken at sector {here}")
                return
            for slot, entry in enumerate(entries):
                _, type, offset, size = entry
                if not size or type in _EXTENDED:
                    continue
                start = here + offset
                # the third and fourth entries are used by few systems and hold garbage elsewhere
                if slot >= 2 and (offset + size > here_size or start < first or start + size > first + first_size):
                    continue
                if self.next - 5 == MAX_LOGICAL:
                    self.problems.append(f"more than {MAX_LOGICAL} logical partitions: the rest is left out")
                    return
                self.add(self.next, entry, start)
                self.next += 1
                empty = 0
            link = next((entry for entry in entries if entry[3] and entry[1] in _EXTENDED), None)
            if link is None:
                return
            empty += 1
            if empty > _MAX_EMPTY:
                self.problems.append(f"more than {_MAX_EMPTY} empty links in the chain of logical partitions")
                return
            here, here_size = first + link[2], link[3]
