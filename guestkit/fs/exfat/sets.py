"""Entry sets, many at once: found in the bytes of directories, and decoded column by column with their checksums.

Spec: Microsoft's exFAT specification, sections 6 and 7. What is not like most sets is parsed by itself, by parse_set().
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cache
from typing import Any

from guestkit.checksum import rotating_sums
from guestkit.errors import Corrupt, GuestkitError, Unsupported
from guestkit.fs.base import DT_DIR, DT_REG, Stat, may_be_shown, shown_together
from guestkit.fs.exfat.entries import (
    ALLOCATION_POSSIBLE,
    DIRECTORY,
    END,
    ENTRY,
    FILE,
    LEAST_SECONDARIES,
    MOST_SECONDARIES,
    PER_NAME,
    READ_ONLY,
    TENTH,
    File,
    Times,
    parse_set,
    set_checksum,
)
from guestkit.fs.plain import Decoded
from guestkit.ownership import Ownership

Rows = Callable[[bytes], Iterator[tuple[Any, ...]]]
Set = tuple[int, int, bytes]  # number of the entry behind it, place of its first one, its bytes
MOST_FLAWS = 1 << 14  # of a directory that are remembered
_FEW = 10  # sets whose checksums cost less one by one
_PIECE = 32  # sets decoded between two pauses

_new = tuple.__new__
# types of the entries of a set, and critical primary ones that are not known
_marks = re.compile(rb"\x85[\xc0-\xff]*|[\x80\x84\x86-\x9f]").finditer


class Finder:
    """Finds the entry sets in the bytes of a directory, which are fed in order; sets may span what is fed.

    `flaws` holds (number of the entry, error) of what could not be read, of the first MOST_FLAWS.
    """

    __slots__ = ("_held", "_number", "_place", "ended", "flaws")

    def __init__(self, number: int = 0) -> None:
        """`number`: of the first entry that is fed."""
        self.flaws: list[tuple[int, GuestkitError]] = []
        self.ended = False
        self._number = number
        self._held = b""  # the begin of a set
        self._place = 0  # of what is held

    def feed(self, data: bytes, first: int) -> list[Set]:
        """`first`: the place of the first entry in `data`."""
        found: list[Set] = []
        if self._held:
            taken = self._go_on(data, found)
            data = data[taken:]
            first += taken // ENTRY
        base = self._number
        kinds = data[::ENTRY]
        end = kinds.find(END)
        if end >= 0:
            self.ended = True
            kinds = kinds[:end]
        counts = data[1::ENTRY]
        for mark in _marks(kinds):
            begin, stop = mark.span()
            if kinds[begin] != FILE:
                unknown = Unsupported("an exFAT directory entry that is critical and unknown", bit=kinds[begin])
                self._wrong(base + begin, unknown)
                continue
            count = counts[begin]
            behind = begin + 1 + count
            if not LEAST_SECONDARIES <= count <= MOST_SECONDARIES:
                error = Corrupt("entry set", "SecondaryCount", found=count, expected="2 to 18")
                self._wrong(base + begin, error)
            elif behind <= stop:
                found.append((base + behind, first + begin, data[begin * ENTRY : behind * ENTRY]))
            elif stop == len(kinds) and end < 0:
                self._held = data[begin * ENTRY : stop * ENTRY]
                self._place = first + begin
            else:
                self._cut_off(stop - begin, count + 1, base + begin)
        self._number = base + len(data) // ENTRY
        return found

    def _go_on(self, data: bytes, found: list[Set]) -> int:
        """Take from `data` what belongs to the set that is held; how many bytes it is."""
        held = self._held
        want = (held[1] + 1) * ENTRY
        part = data[: want - len(held)]
        # what begins another set, or ends the directory, does not belong to this one
        taken = next((at for at in range(0, len(part), ENTRY) if part[at] & 0xC0 != 0xC0), len(part))
        held += part[:taken]
        self._number += taken // ENTRY
        if len(held) == want:
            found.append((self._number, self._place, held))
            held = b""
        elif taken < len(part):
            self._cut_off(len(held) // ENTRY, want // ENTRY, self._number - len(held) // ENTRY)
            held = b""
        self._held = held
        return taken

    def _cut_off(self, length: int, wanted: int, number: int) -> None:
        self._wrong(number, Corrupt("entry set", "length", found=length, expected=wanted))

    def _wrong(self, number: int, error: GuestkitError) -> None:
        if len(self.flaws) < MOST_FLAWS:
            self.flaws.append((number, error))

    def finish(self) -> None:
        """The directory ends here: a set that is not complete is damage."""
        if self._held:
            length = len(self._held) // ENTRY
            self._cut_off(length, self._held[1] + 1, self._number - length)
            self._held = b""


class DecodedSets(Decoded[File]):
    """What sets say; of those that are hidden, what was wrong, or the file whose name may not be shown.

    `late` holds directories and whatever else is not usual; the Stat of the others is in `stats`.
    """

    __slots__ = ("errors", "stats", "unnamed")

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.stats: list[Stat | None] = [None] * count
        self.errors: dict[int, GuestkitError] = {}
        self.unnamed: dict[int, File] = {}


class Decoder:
    """Decodes the entry sets of one volume."""

    def __init__(self, owner: Ownership, times: Times, cluster: int, most: int) -> None:
        """`cluster`: its size; `most`: bytes that a file can have."""
        self._owner = owner
        self._times = times
        self._cluster = cluster
        self._most = most

    def decode(self, sets: Sequence[Set]) -> Generator[None, None, DecodedSets]:
        """Pauses now and then."""
        found = DecodedSets(len(sets))
        alike: dict[bytes, list[int]] = {}
        for at, (_, _, data) in enumerate(sets):
            alike.setdefault(data[::ENTRY], []).append(at)
        yield
        for kinds, members in alike.items():
            size = len(kinds) * ENTRY
            joined = b"".join([sets[at][2] for at in members])
            if len(members) < _FEW:
                sums = [set_checksum(sets[at][2]) for at in members]
            else:
                sums = yield from rotating_sums(joined, size, (0, 1, *range(4, size)), 16)
            if kinds != _usual(len(kinds)):
                for at, total in zip(members, sums, strict=True):
                    self._one(sets[at], at, total, found)
                continue
            yield from self._alike(sets, members, joined, size, sums, found)
        return found

    def _alike(
        self, sets: Sequence[Set], members: list[int], joined: bytes, size: int, sums: list[int], found: DecodedSets
    ) -> Generator[None, None, None]:
        """Decode sets of one length that consist of a file, a stream and names alone."""
        owner, times, cluster, most, new = self._owner, self._times, self._cluster, self._most, _new
        usual_mode = 0o100000 | owner.file_mode
        locked_mode = usual_mode & ~0o222
        uid, gid = owner.uid, owner.gid
        round_up = cluster - 1
        longest = (size // ENTRY - 2) * PER_NAME
        shortest = longest - PER_NAME
        rows, names_of = _forms(size // ENTRY)
        plain: list[int] = []
        raws: list[bytes] = []
        left = _PIECE
        for at, total, row, pieces in zip(members, sums, rows(joined), names_of(joined), strict=True):
            (
                told,
                attributes,
                created,
                modified,
                accessed,
                created_10ms,
                modified_10ms,
                created_utc,
                modified_utc,
                accessed_utc,
                flags,
                length,
                valid,
                bytes_,
            ) = row
            if (
                told != total
                or attributes & DIRECTORY
                or not flags & ALLOCATION_POSSIBLE
                or not shortest < length <= longest
                or not valid <= bytes_ <= most
            ):
                self._one(sets[at], at, total, found)
                continue
            plain.append(at)
            raws.append(b"".join(pieces)[: 2 * length])
            mtime = times[modified, modified_utc] + modified_10ms * TENTH
            found.stats[at] = new(
                Stat,
                (
                    sets[at][1],
                    locked_mode if attributes & READ_ONLY else usual_mode,
                    1,
                    uid,
                    gid,
                    0,
                    bytes_,
                    cluster,
                    (bytes_ + round_up & ~round_up) >> 9,
                    times[accessed, accessed_utc],
                    mtime,
                    mtime,
                    times[created, created_utc] + created_10ms * TENTH,
                ),
            )
            left -= 1
            if not left:
                left = _PIECE
                yield
        names = shown_together(raws)
        entries = found.entries
        if names is None:
            for at in plain:
                found.stats[at] = None
                self._one(sets[at], at, None, found)
            return
        for at, name in zip(plain, names, strict=True):
            number, place, _ = sets[at]
            entries[at] = name, place, DT_REG, number

    def _one(self, each: Set, at: int, total: int | None, found: DecodedSets) -> None:
        """Parse a set by itself; `total`: its checksum."""
        number, place, data = each
        try:
            file = parse_set(data, place, total)
        except (Corrupt, Unsupported) as error:
            found.errors[at] = error
            found.hidden.add(at)
            return
        if may_be_shown(file.name):
            found.entries[at] = file.name, place, DT_DIR if file.attributes & DIRECTORY else DT_REG, number
            found.late[at] = file
        else:
            found.unnamed[at] = file
            found.hidden.add(at)


@cache
def _usual(count: int) -> bytes:
    """The types of a set of `count` entries as most have them."""
    return b"\x85\xc0".ljust(count, b"\xc1")


@cache
def _forms(count: int) -> tuple[Rows, Rows]:
    """The fields of a set of `count` entries, its names, for many sets behind each other."""
    rest = (count - 2) * ENTRY
    fields = struct.Struct(f"<2xHH2xIIIBBBBB7xxBxB4xQ8xQ{rest}x")
    names = struct.Struct("<64x" + "2x30s" * (count - 2))
    return fields.iter_unpack, names.iter_unpack
