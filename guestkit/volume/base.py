"""Volume: a named part of one or several Sources, opened late, perhaps with a key. Table: the partitions of a disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from guestkit.errors import GuestkitError, SourceError, WouldBlock
from guestkit.source import Slice, Source

# What unlocks volumes: {device name, UUID or "*": secret}. Passed in, never global, never shown.
Keys = Mapping[str, bytes]


@dataclass(frozen=True)
class Volume:
    """One partition, logical volume, array or decrypted container. Sizes are in bytes.

    name     what the scheme calls it: a partition's number ("1"), "VG/LV", an array's "md0"
    scheme   "msdos", "gpt", "lvm", "luks", "md", ...
    problem  why it can't be opened (locked, partial, an unsupported segment type), or ""
    role     "" for a volume that can hold a filesystem; "extended" for an MBR extended partition
    opener   gives the bytes; called by open(), late
    """

    name: str
    scheme: str
    number: int
    start: int
    size: int
    opener: Callable[[Keys], Source] = field(repr=False, compare=False)
    type_id: str = ""  # MBR: two lower-case hex digits; GPT: the upper-case GUID
    attributes: int = 0  # MBR: the status byte; GPT: the 64 attribute bits
    label: str = ""
    uuid: str = ""
    role: str = ""
    parents: Sequence[str] = ()
    problem: str = ""

    def open(self, keys: Keys | None = None) -> Source:
        """Return the volume's bytes. Raises: NeedKey, BadKey, Unsupported, Corrupt, SourceError."""
        return self.opener(keys or {})


@dataclass(frozen=True)
class Table:
    """A partition table: its scheme ("msdos" or "gpt"), identity, and entries in the order of their numbers.

    `problems`: damage that was survived (primary GPT bad, backup used), a sentence each.
    """

    scheme: str
    uuid: str
    sector_size: int
    volumes: Sequence[Volume]
    problems: Sequence[str] = ()


def read_at(source: Source, offset: int, length: int) -> bytes:
    """Return `length` bytes at `offset`, or b"" where the disk ends before or the image is damaged.

    Raises: SourceError (EIO) when the host cannot read what is there.
    """
    if offset < 0 or length < 0 or offset + length > source.size:
        return b""
    try:
        return source.read(offset, length)
    except (SourceError, WouldBlock):
        raise
    except GuestkitError:
        return b""


def part_of(source: Source, start: int, size: int, sector_size: int) -> Callable[[Keys], Source]:
    """The opener of a partition of `size` bytes at `start`."""

    def open(keys: Keys) -> Source:
        return Slice(source, start, size, sector_size=sector_size)

    return open


def outside(source: Source, start: int, size: int) -> str:
    """What is wrong with a partition that reaches beyond the disk, as a predicate; "" where it lies inside."""
    if start >= source.size:
        return f"starts at byte {start}, beyond the end of the disk at {source.size}"
    if start + size > source.size:
        return f"ends at byte {start + size}, beyond the end of the disk at {source.size}"
    return ""
