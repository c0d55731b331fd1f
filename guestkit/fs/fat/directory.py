"""Directories of FAT: their entries with long names put together, and what a directory says of itself.

Spec: Microsoft fatgen103, "FAT Directory Structure". Entries end at the first whose name begins with 0; Linux reads on
behind it. A directory is read whole: the format bounds it to 2 MiB.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from guestkit.errors import Corrupt
from guestkit.fs.base import Problems, may_be_shown
from guestkit.fs.fat.boot import ENTRY
from guestkit.fs.fat.names import ShortNames, checksum, fold, long_text, to_bytes
from guestkit.layout import Layout

MOST_BYTES = 2 << 20  # of a directory
READ_ONLY, VOLUME, DIRECTORY, LONG = 0x01, 0x08, 0x10, 0x0F
_LONG_MASK = 0x3F
_DELETED = 0xE5
_LAST = 0x40  # in LDIR_Ord: the first in the directory, and the last of the name
_MOST_SLOTS = 20
_DOT, _DOTDOT = b".".ljust(11), b"..".ljust(11)

_ENTRY = Layout(
    "fat_dir_entry",
    ENTRY,
    "<",
    DIR_Name=(0, "11s"),
    DIR_Attr=(11, "B"),
    DIR_NTRes=(12, "B"),
    DIR_CrtTimeTenth=(13, "B"),
    DIR_CrtTime=(14, "H"),
    DIR_CrtDate=(16, "H"),
    DIR_LstAccDate=(18, "H"),
    DIR_FstClusHI=(20, "H"),
    DIR_WrtTime=(22, "H"),
    DIR_WrtDate=(24, "H"),
    DIR_FstClusLO=(26, "H"),
    DIR_FileSize=(28, "I"),
)
# an entry as a piece of a long name: LDIR_Ord, Name1, Attr, Type, Chksum, Name2, FstClusLO, Name3
_slots = struct.Struct("<B10sBBB12sH4s").iter_unpack
# of a file: attributes, 10 ms of the creation, its time and date, access date, time and date of writing, size
file_fields = struct.Struct("<11xBxBHHH2xHH2xI").unpack_from
_new = tuple.__new__


class Short(NamedTuple):
    """One entry that names a file or a directory, without its name."""

    place: int  # in units of 32 bytes from the start of the volume
    attributes: int
    cluster: int
    size: int
    hundredths: int  # of the creation time
    create_time: int
    create_date: int
    access_date: int
    write_time: int
    write_date: int


class Entry(NamedTuple):
    """`number`: of the entry behind this one in the directory, its cookie. `raw`: the 32 bytes of the short one."""

    name: bytes
    number: int
    place: int  # as in Short
    raw: bytes


class Listing:
    """A directory as it was read. Not changed after it was made but for its index."""

    __slots__ = (
        *("_exact", "_folded", "_names", "_named", "_wide"),
        *("dot", "dotdot", "entries", "flaw", "label", "size", "subdirectories"),
    )

    def __init__(self, size: int, names: ShortNames, wide: bool) -> None:
        """`wide`: the high word of an entry's cluster counts (FAT32)."""
        self.size = size  # bytes that it takes
        self._names = names
        self._wide = wide
        self.entries: list[Entry] = []
        self.subdirectories = 0  # with "." and ".." where they are there
        self.dot: Short | None = None
        self.dotdot: Short | None = None
        self.label: bytes | None = None
        self.flaw: Corrupt | None = None  # what the listing ends with
        self._exact: dict[bytes, int] | None = None
        self._folded: dict[str, int] = {}
        self._named: dict[int, int] | None = None

    def complain(self) -> None:
        """Raises: Corrupt when the directory goes on where it could not be read."""
        if self.flaw is not None:
            raise Corrupt(self.flaw.message, where=self.flaw.where)  # a new one, which callers may add to

    def short(self, entry: Entry) -> Short:
        return parse_short(entry.raw, entry.place, self._wide)

    def cluster(self, entry: Entry) -> int:
        """The first cluster of what an entry names."""
        raw = entry.raw
        low = raw[26] | raw[27] << 8
        return low | raw[20] << 16 | raw[21] << 24 if self._wide else low

    def naming(self, cluster: int) -> Entry | None:
        """The entry of the subdirectory that begins at `cluster`."""
        if self._named is None:
            named: dict[int, int] = {}
            for index, entry in enumerate(self.entries):
                if entry.raw[11] & DIRECTORY:
                    named.setdefault(self.cluster(entry), index)
            self._named = named
        index_of = self._named.get(cluster)
        return None if index_of is None else self.entries[index_of]

    def find(self, name: bytes) -> Entry | None:
        """The entry of a name: as it is written, else without regard to case, else by its short name."""
        if self._exact is None:
            folded: dict[str, int] = {}
            exact: dict[bytes, int] = {}
            for index, entry in enumerate(self.entries):
                exact.setdefault(entry.name, index)
                folded.setdefault(fold(entry.name.decode("utf-8", "surrogatepass")), index)
            for index, entry in enumerate(self.entries):
                folded.setdefault(fold(self._names.text(entry.raw[:11], entry.raw[12])), index)
            self._folded = folded
            self._exact = exact
        index_of = self._exact.get(name)
        if index_of is None:
            try:
                index_of = self._folded.get(fold(name.decode("utf-8", "surrogatepass")))
            except UnicodeDecodeError:  # no name is stored so
                return None
        return None if index_of is None else self.entries[index_of]


def parse_short(raw: bytes, place: int, wide: bool) -> Short:
    """`raw`: the 32 bytes of an entry. `wide`: the high word of the cluster counts (FAT32)."""
    _, attributes, _, tenth, *times, high, write_time, write_date, low, size = _ENTRY.unpack_from(raw)
    create_time, create_date, access_date = times
    cluster = high << 16 | low if wide else low
    return _new(
        Short,
        (place, attributes, cluster, size, tenth, create_time, create_date, access_date, write_time, write_date),
    )


def is_named(raw: bytes) -> bool:
    """Whether an entry's 32 bytes are those of a file or a directory in use."""
    return raw[0] not in (0, _DELETED) and not raw[11] & VOLUME


def parse(
    parts: Iterable[tuple[bytes, int]], listing: Listing, names: ShortNames, damage: Problems, where: str
) -> None:
    """Put the entries of a directory into `listing`. `parts`: (bytes, place of the first entry), in order."""
    number = 0
    # a long name being put together: its pieces from the end, the checksum and the number that the next must hold
    pieces: list[bytes] = []
    sum_of = -1
    expected = 0
    entries = listing.entries
    for data, first in parts:
        place = first - 1
        for head, begin, attributes, _, sum_in, middle, _, end in _slots(data[: len(data) & -ENTRY]):
            number += 1
            place += 1
            if head == 0:
                return
            if head == _DELETED:
                pieces = []
                continue
            if attributes & _LONG_MASK == LONG:
                if head & _LAST and 0 < head & 0x3F <= _MOST_SLOTS:
                    expected = head & 0x3F
                    sum_of = sum_in
                    pieces = []
                elif not pieces or head != expected or sum_in != sum_of:
                    pieces = []  # an orphan
                    continue
                pieces.append(begin + middle + end)
                expected -= 1
                continue
            at = (place - first) * ENTRY
            slots, pieces = pieces, []
            raw = data[at : at + ENTRY]
            if attributes & VOLUME:
                clusterless = not any((raw[20], raw[21], raw[26], raw[27]))
                if listing.label is None and not attributes & DIRECTORY and clusterless:
                    listing.label = raw[:11]
                continue
            if attributes & DIRECTORY:
                listing.subdirectories += 1
            if head == 0x2E and raw.startswith(_DOT):
                listing.dot = listing.dot or listing.short(Entry(b".", number, place, raw))
                continue
            if head == 0x2E and raw.startswith(_DOTDOT):
                listing.dotdot = listing.dotdot or listing.short(Entry(b"..", number, place, raw))
                continue
            name = b""
            if slots and expected == 0 and checksum(raw[:11]) == sum_of:
                slots.reverse()
                name = to_bytes(long_text(b"".join(slots)))
                if not may_be_shown(name):
                    damage.add(where, f"the long name {name!r} cannot be shown; its short name is")
                    name = b""
            if not name:
                name = to_bytes(names.text(raw[:11], raw[12]))
                if not may_be_shown(name):
                    damage.add(where, f"the name {name!r} cannot be shown")
                    continue
            entries.append(_new(Entry, (name, number, place, raw)))
