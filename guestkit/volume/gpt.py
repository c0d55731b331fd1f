"""GUID partition tables: UEFI specification 2.10, chapter 5.3.

Both checksums, of the header and of the entries, are verified before anything is believed; the backup at the
end of the disk is used when the primary is damaged. A disk has a GPT when its MBR says so (type 0xEE), as the
kernel has it; a wiped MBR beside an intact GPT is reported. 512 and 4096-byte sectors are tried.
"""

from __future__ import annotations

from typing import NamedTuple

from guestkit.checksum import crc32
from guestkit.layout import Layout
from guestkit.limits import Limits
from guestkit.probe import guid_text, label_text
from guestkit.source import Source
from guestkit.volume.base import Table, Volume, outside, part_of, read_at

MAX_ENTRIES = 1024
MAX_ENTRY_SIZE = 4096
_SIGNATURE = b"EFI PART"
_PROTECTIVE = 0xEE  # a type of MBR partition
_MAX_BYTE = 1 << 63  # where no disk ends

_HEADER = Layout(
    "gpt_header",
    92,
    "<",
    Signature=(0, "8s"),
    HeaderSize=(12, "I"),
    HeaderCRC32=(16, "I"),
    MyLBA=(24, "Q"),
    AlternateLBA=(32, "Q"),
    FirstUsableLBA=(40, "Q"),
    LastUsableLBA=(48, "Q"),
    DiskGUID=(56, "16s"),
    PartitionEntryLBA=(72, "Q"),
    NumberOfPartitionEntries=(80, "I"),
    SizeOfPartitionEntry=(84, "I"),
    PartitionEntryArrayCRC32=(88, "I"),
)
_ENTRY = Layout(
    "gpt_entry",
    128,
    "<",
    PartitionTypeGUID=(0, "16s"),
    UniquePartitionGUID=(16, "16s"),
    StartingLBA=(32, "Q"),
    EndingLBA=(40, "Q"),
    Attributes=(48, "Q"),
    PartitionName=(56, "72s"),
)


class Header(NamedTuple):
    """What a verified header says; places in sectors."""

    lba: int
    alternate: int
    guid: bytes
    entries: bytes  # verified, MAX_ENTRIES at most
    entry_size: int


def open(source: Source, limits: Limits) -> Table | None:
    """Read the table; None where the disk has none.

    A GPT that the MBR announces and that cannot be believed is a Table without volumes, its problems said.
    Raises: SourceError (EIO) when the host cannot read the disk.
    """
    sector = read_at(source, 0, 512)
    # a hybrid MBR, with partitions beside the protective one, announces a GPT as well
    protective = sector[510:] == b"\x55\xaa" and _PROTECTIVE in sector[450:510:16]
    if not protective and sector.strip(b"\0"):
        return None
    reasons: list[str] = []
    for unit in (source.sector_size, 4096 if source.sector_size == 512 else 512):
        last = source.size // unit - 1
        primary = read_header(source, unit, 1)
        if isinstance(primary, Header):
            return _table(source, unit, primary, _backup_problems(source, unit, primary, protective))
        # a damaged primary may still say where its backup is, on a disk that has grown since
        places = dict.fromkeys((last, _alternate(source, unit)))
        backups = [read_header(source, unit, lba) for lba in places if lba > 1]
        for backup in backups:
            if isinstance(backup, Header) and protective:
                return _table(source, unit, backup, [f"the primary GPT is damaged ({primary}); its backup is used"])
        reasons.append(f"with {unit}-byte sectors: {primary}")
    if not protective:
        return None
    problem = f"the MBR announces a GPT, which cannot be read: {'; '.join(reasons)}"
    return Table("gpt", "", source.sector_size, (), (problem,))


def read_header(source: Source, unit: int, lba: int) -> Header | str:
    """Read and verify the header at sector `lba` and its entries; a reason where they cannot be believed."""
    raw = read_at(source, lba * unit, unit)
    if not raw or raw[:8] != _SIGNATURE:
        return f"no header at sector {lba}"
    (_, size, checksum, here, alternate, first, last, guid, entries_lba, count, entry_size, entries_crc) = (
        _HEADER.unpack_from(raw)
    )
    if not _HEADER.size <= size <= unit:
        return f"a header of {size} bytes at sector {lba}"
    if crc32(raw[:16] + bytes(4) + raw[20:size]) != checksum:
        return f"the checksum of the header at sector {lba} is wrong"
    if here != lba:
        return f"the header at sector {lba} says that it is at {here}"
    if first > last:
        return f"the header at sector {lba} leaves no room for partitions"
    if not 128 <= entry_size <= MAX_ENTRY_SIZE or entry_size & entry_size - 1:
        return f"entries of {entry_size} bytes"
    if count > MAX_ENTRIES:
        return f"{count} entries, more than {MAX_ENTRIES}"
    entries = read_at(source, entries_lba * unit, count * entry_size)
    if len(entries) != count * entry_size:
        return f"the entries at sector {entries_lba} are not on the disk"
    if crc32(entries) != entries_crc:
        return f"the checksum of the entries at sector {entries_lba} is wrong"
    return Header(lba, alternate, guid, entries, entry_size)


def _alternate(source: Source, unit: int) -> int:
    """Where a header at sector 1, perhaps damaged, says that its backup is; 0 where there is none."""
    raw = read_at(source, unit, _HEADER.size)
    return int.from_bytes(raw[32:40], "little") if raw[:8] == _SIGNATURE else 0


def _backup_problems(source: Source, unit: int, primary: Header, protective: bool) -> list[str]:
    problems = [] if protective else ["there is no protective MBR"]
    backup = read_header(source, unit, primary.alternate)
    if not isinstance(backup, Header):
        problems.append(f"the backup GPT is damaged ({backup})")
    elif (backup.guid, backup.entries) != (primary.guid, primary.entries):
        problems.append("the backup GPT differs from the primary, which is used")
    return problems


def _table(source: Source, unit: int, header: Header, problems: list[str]) -> Table:
    volumes = []
    size = header.entry_size
    for number, at in enumerate(range(0, len(header.entries), size), 1):
        type_guid, guid, first, last, attributes, name = _ENTRY.unpack_from(header.entries, at)
        if not any(type_guid):
            continue
        if first > last:
            problems.append(f"partition {number} ends at sector {last}, before its start at {first}: left out")
            continue
        start, length = first * unit, (last - first + 1) * unit
        if start + length > _MAX_BYTE:
            problems.append(f"partition {number} ends at sector {last}, where no disk is: left out")
            continue
        problem = outside(source, start, length)
        if problem:
            problems.append(f"partition {number} {problem}")
        volumes.append(
            Volume(
                name=str(number),
                scheme="gpt",
                number=number,
                start=start,
                size=length,
                opener=part_of(source, start, length, unit),
                type_id=guid_text(type_guid).upper(),
                attributes=attributes,
                label=label_text(name, "utf-16-le"),
                uuid=guid_text(guid),
            )
        )
    return Table("gpt", guid_text(header.guid), unit, tuple(volumes), tuple(problems))
