"""Entries of FAT, many at once: found in the bytes of directories with their long names, and decoded column by column.

Spec: Microsoft fatgen103, "FAT Directory Structure", "FAT Long Directory Entries". Entries end at the first whose name
begins with 0; Linux reads on behind it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cache
from operator import itemgetter
from typing import Any

from guestkit.checksum import rotating_sums
from guestkit.fs.base import DT_DIR, DT_REG, may_be_shown, shown_together
from guestkit.fs.fat.boot import ENTRY
from guestkit.fs.fat.entries import DELETED, DIRECTORY, LONG, LONG_MASK, VOLUME, cluster_of
from guestkit.fs.fat.names import ShortNames, long_text, to_bytes
from guestkit.fs.plain import Decoded

Rows = Callable[[bytes], Iterator[tuple[Any, ...]]]
# number of the entry behind it, place of the one that is not part of a long name, the long name's entries and that one
Set = tuple[int, int, bytes]
FILES = 1 << 32  # keys from here are places of entries
_LAST = 0x40  # in LDIR_Ord: the first in the directory, and the last of the name
_MOST_SLOTS = 20
_DOT, _DOTDOT = b".".ljust(11), b"..".ljust(11)
_PIECE = 64  # entries decoded between two pauses


def _kind(attributes: int) -> bytes:
    if attributes & LONG_MASK == LONG:
        return b"L"
    return b"V" if attributes & VOLUME else b"D" if attributes & DIRECTORY else b"F"


_KINDS = b"".join(map(_kind, range(256)))
_NAMED = b"DF"
_sets = re.compile(rb"L*[DF]").finditer
_volumes = re.compile(rb"V").finditer
# the numbers of a long name's entries as they nearly always are
_ORDERS = {bytes([_LAST | count, *range(count - 1, 0, -1)]) for count in range(1, _MOST_SLOTS + 1)}


class Found:
    """What the entries of one directory say, without decoding those of files and directories."""

    __slots__ = ("_data", "_heads", "_kinds", "_places", "dot", "dotdot", "label", "subdirectories")

    def __init__(self, data: bytes, places: Sequence[tuple[int, int]]) -> None:
        """`places`: (number of an entry, its place), of the first one and of those behind a gap."""
        self._data = data
        self._places = places
        heads = data[::ENTRY]
        end = heads.find(0)
        self._heads = heads = heads if end < 0 else heads[:end]
        kinds = data[11::ENTRY][: len(heads)].translate(_KINDS)
        if DELETED in heads:
            kinds = bytes([0 if head == DELETED else kind for head, kind in zip(heads, kinds, strict=True)])
        self.subdirectories = kinds.count(b"D")  # with "." and ".." where they are there
        self.label: bytes | None = None
        self.dot: bytes | None = None
        self.dotdot: bytes | None = None
        for mark in _volumes(kinds):
            raw = self._raw(mark.start())
            if not raw[11] & DIRECTORY and not any((raw[20], raw[21], raw[26], raw[27])):
                self.label = raw[:11]
                break
        others = bytearray(kinds)
        at = heads.find(b".")
        while at >= 0:
            raw = self._raw(at)
            if kinds[at] in _NAMED and raw.startswith((_DOT, _DOTDOT)):
                others[at] = 0
                if raw.startswith(_DOT):
                    self.dot = self.dot or raw
                else:
                    self.dotdot = self.dotdot or raw
            at = heads.find(b".", at + 1)
        self._kinds = bytes(others)

    def _raw(self, at: int) -> bytes:
        return self._data[at * ENTRY : (at + 1) * ENTRY]

    def sets(self) -> list[Set]:
        """The entries of files and of directories below, each with its long name."""
        found: list[Set] = []
        data, heads = self._data, self._heads
        pending = iter([*self._places, (len(heads), 0)])
        until, place = next(pending)
        shift = 0
        for mark in _sets(self._kinds):
            begin, stop = mark.span()
            at = stop - 1
            while at >= until:
                shift = place - until
                until, place = next(pending)
            if begin < at and heads[begin:at] not in _ORDERS:
                begin = at - _slots(data[begin * ENTRY : at * ENTRY])
            found.append((stop, at + shift, data[begin * ENTRY : stop * ENTRY]))
        return found


def _slots(data: bytes) -> int:
    """How many of the last of these entries of long names are one whole name."""
    count = expected = sum_of = 0
    for at in range(0, len(data), ENTRY):
        head, sum_in = data[at], data[at + 13]
        if head & _LAST and 0 < head & 0x3F <= _MOST_SLOTS:
            expected = head & 0x3F
            sum_of = sum_in
            count = 0
        elif not count or head != expected or sum_in != sum_of:
            count = 0  # an orphan
            continue
        count += 1
        expected -= 1
    return 0 if expected else count


class DecodedSets(Decoded[bytes]):
    """What sets say; `late` holds the 32 bytes of directories. `notes`: what is wrong with names."""

    __slots__ = ("notes",)

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.notes: dict[int, list[str]] = {}


class Decoder:
    """Decodes the entries of one volume."""

    def __init__(self, names: ShortNames, wide: bool, leads: Callable[[int], bool]) -> None:
        """`wide`: the high word of an entry's cluster counts; `leads`: whether a directory may begin at a cluster."""
        self._names = names
        self._wide = wide
        self._leads = leads

    def decode(self, sets: Sequence[Set]) -> Generator[None, None, DecodedSets]:
        """Pauses now and then."""
        found = DecodedSets(len(sets))
        alike: dict[int, list[int]] = {}
        for at, (_, _, data) in enumerate(sets):
            alike.setdefault(len(data), []).append(at)
        yield
        for size, members in alike.items():
            joined = b"".join([sets[at][2] for at in members])
            names = yield from self._long(joined, size, len(members))
            yield from self._alike(sets, members, names, found)
        return found

    def _long(self, joined: bytes, size: int, count: int) -> Generator[None, None, list[bytes]]:
        """The long names of sets of one size, in UTF-16; b"" where there is none."""
        slots = size // ENTRY - 1
        if not slots:
            return [b""] * count
        at = slots * ENTRY
        sums = bytes((yield from rotating_sums(joined, size, range(at, at + 11), 8)))
        pieces, order = _names_of(slots)
        raws = list(map(b"".join, map(order, pieces(joined))))
        for column in range(13, at, ENTRY):
            told = joined[column::size]
            if told != sums:
                raws = [raw if a == b else b"" for raw, a, b in zip(raws, told, sums, strict=True)]
        return raws

    def _alike(
        self, sets: Sequence[Set], members: list[int], raws: list[bytes], found: DecodedSets
    ) -> Generator[None, None, None]:
        """Decode those `members` of `sets`, whose long names are `raws`."""
        entries = found.entries
        names = (shown_together(raws, True) if all(raws) else None) or [b""] * len(members)
        wide, leads = self._wide, self._leads
        left = _PIECE
        for at, name, raw in zip(members, names, raws, strict=True):
            number, place, data = sets[at]
            if not name:
                name = self._name(data[-ENTRY:], raw, at, found)
            if not name:
                found.hidden.add(at)
            elif data[11 - ENTRY] & DIRECTORY:
                found.late[at] = short = data[-ENTRY:]
                cluster = cluster_of(short, wide)
                key = cluster if leads(cluster) else FILES + place
                entries[at] = name, key, DT_DIR, number
            else:
                entries[at] = name, FILES + place, DT_REG, number
            left -= 1
            if not left:
                left = _PIECE
                yield

    def _name(self, short: bytes, raw: bytes, at: int, found: DecodedSets) -> bytes:
        """The name of one entry, b"" where it may not be shown; `raw`: its long name in UTF-16."""
        if raw:
            name = to_bytes(long_text(raw))
            if may_be_shown(name):
                return name
            found.notes[at] = [f"the long name {name!r} cannot be shown; its short name is"]
        name = to_bytes(self._names.text(short[:11], short[12]))
        if may_be_shown(name):
            return name
        found.notes.setdefault(at, []).append(f"the name {name!r} cannot be shown")
        return b""


@cache
def _names_of(slots: int) -> tuple[Rows, Callable[[tuple[bytes, ...]], tuple[bytes, ...]]]:
    """The pieces of the long names of many sets of `slots` + 1 entries, and what puts those of one name in order."""
    # LDIR_Name1, LDIR_Name2 and LDIR_Name3 of each entry; the last one begins the name
    pieces = struct.Struct("<" + "x10s3x12s2x4s" * slots + f"{ENTRY}x").iter_unpack
    order = [3 * slot + piece for slot in reversed(range(slots)) for piece in range(3)]
    return pieces, itemgetter(*order)
