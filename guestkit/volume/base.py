"""Volume: a named part of one or several Sources, opened late, perhaps with a key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from guestkit.source import Source

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
