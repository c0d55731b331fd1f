"""Directory entries of exFAT: sets of a file entry, its stream extension and its name, each set with a checksum.

Spec: Microsoft's exFAT specification, sections 6 and 7. A benign entry that is not known is passed over, a critical
one that is not known makes its set unreadable. Times: 7.4.8 to 7.4.10; what is not in UTC is local time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import NamedTuple

from guestkit.errors import Corrupt, GuestkitError, Unsupported
from guestkit.layout import Layout

ENTRY = 32
END = 0x00
BITMAP, UPCASE, LABEL, FILE, STREAM, NAME = 0x81, 0x82, 0x83, 0x85, 0xC0, 0xC1
IN_USE, SECONDARY, BENIGN = 0x80, 0x40, 0x20
READ_ONLY, DIRECTORY = 0x01, 0x10
_ALLOCATION_POSSIBLE, _NO_FAT_CHAIN = 0x01, 0x02
_PER_NAME = 15  # UTF-16 code units an entry
LEAST_SECONDARIES, MOST_SECONDARIES = 2, 18
MOST_SET = (1 + MOST_SECONDARIES) * ENTRY

_FILE = Layout(
    "exfat_file_entry",
    ENTRY,
    "<",
    EntryType=(0, "B"),
    SecondaryCount=(1, "B"),
    SetChecksum=(2, "H"),
    FileAttributes=(4, "H"),
    CreateTimestamp=(8, "I"),
    LastModifiedTimestamp=(12, "I"),
    LastAccessedTimestamp=(16, "I"),
    Create10msIncrement=(20, "B"),
    LastModified10msIncrement=(21, "B"),
    CreateUtcOffset=(22, "B"),
    LastModifiedUtcOffset=(23, "B"),
    LastAccessedUtcOffset=(24, "B"),
)
_STREAM = Layout(
    "exfat_stream_extension",
    ENTRY,
    "<",
    EntryType=(0, "B"),
    GeneralSecondaryFlags=(1, "B"),
    NameLength=(3, "B"),
    NameHash=(4, "H"),
    ValidDataLength=(8, "Q"),
    FirstCluster=(20, "I"),
    DataLength=(24, "Q"),
)
_new = tuple.__new__


class File(NamedTuple):
    """What an entry set says. `place`: of its first entry, in units of 32 bytes from the start of the volume."""

    name: bytes
    place: int
    attributes: int
    cluster: int  # 0: none
    size: int
    valid: int  # bytes that were written; behind them are zeros
    contiguous: bool  # the FAT does not tell its clusters, they follow each other
    hash: int
    create: tuple[int, int, int]  # timestamp, units of 10 ms, UTC offset
    modify: tuple[int, int, int]
    access: tuple[int, int, int]


class Record(NamedTuple):
    """A file in a directory. `number`: of the entry behind its set, its cookie."""

    number: int
    file: File


@cache
def _rotated() -> list[int]:
    """Each 16-bit number rotated right by one bit, for sums that have not been cut to 16 bits as well."""
    low = [(value >> 1) | (value & 1) << 15 for value in range(1 << 16)]
    return low + low[:256]


def set_checksum(data: bytes) -> int:
    """SetChecksum over an entry set."""
    turn = _rotated()
    total = turn[data[0]] + data[1]
    for byte in data[4:]:
        total = turn[total] + byte
    return total & 0xFFFF


def parse_set(data: bytes, place: int) -> File:
    """Return the file of an entry set, all of `data`. Raises: Corrupt, Unsupported."""
    (
        _,
        count,
        checksum,
        attributes,
        created,
        modified,
        accessed,
        created_10ms,
        modified_10ms,
        created_utc,
        modified_utc,
        accessed_utc,
    ) = _FILE.unpack_from(data)
    if len(data) != (count + 1) * ENTRY:
        raise Corrupt("entry set", "SecondaryCount", found=count)
    if set_checksum(data) != checksum:
        raise Corrupt("entry set", "SetChecksum", found=checksum, expected=set_checksum(data))
    if data[ENTRY] != STREAM:
        raise Corrupt("entry set", "second entry's type", found=data[ENTRY], expected=STREAM)
    _, flags, length, hash, valid, cluster, size = _STREAM.unpack_from(data, ENTRY)
    names = -(-length // _PER_NAME)
    if not names or names + 1 > count:
        raise Corrupt("entry set", "NameLength", found=length, expected=f"1 to {(count - 1) * _PER_NAME}")
    pieces: list[bytes] = []
    for at in range(2 * ENTRY, len(data), ENTRY):
        kind = data[at]
        if len(pieces) < names:
            if kind != NAME:
                raise Corrupt("entry set", "file name entry's type", found=kind, expected=NAME)
            pieces.append(data[at + 2 : at + ENTRY])
        elif kind & (IN_USE | SECONDARY) != IN_USE | SECONDARY:
            raise Corrupt("entry set", "secondary entry's type", found=kind)
        elif not kind & BENIGN:
            raise Unsupported("an exFAT directory entry that is critical and unknown", bit=kind)
    if not flags & _ALLOCATION_POSSIBLE:
        cluster = size = valid = 0
    if valid > size:
        raise Corrupt("entry set", "ValidDataLength", found=valid, expected=f"at most {size}")
    text = b"".join(pieces)[: 2 * length].decode("utf-16-le", "surrogatepass")
    return _new(
        File,
        (
            text.encode("utf-8", "surrogatepass"),
            place,
            attributes,
            cluster,
            size,
            valid,
            bool(flags & _NO_FAT_CHAIN),
            hash,
            (created, created_10ms, created_utc),
            (modified, modified_10ms, modified_utc),
            (accessed, 0, accessed_utc),
        ),
    )


class Sets:
    """Finds the entry sets in the bytes of a directory, which are fed in order; sets may span what is fed.

    `flaws` holds (number of the entry, error) of what could not be read.
    """

    __slots__ = ("_held", "_number", "_place", "_want", "ended", "flaws")

    def __init__(self, number: int = 0) -> None:
        """`number`: of the first entry that is fed."""
        self.flaws: list[tuple[int, GuestkitError]] = []
        self.ended = False
        self._number = number
        self._held = b""  # the begin of a set
        self._place = 0  # of what is held
        self._want = 0  # bytes that the set has

    def feed(self, data: bytes, first: int) -> list[Record]:
        """`first`: the place of the first entry in `data`."""
        found: list[Record] = []
        at = 0
        size = len(data)
        base = self._number
        while at < size:
            if self._held:
                take = min(self._want - len(self._held), size - at)
                # what begins another set, or ends the directory, does not belong to this one
                part = data[at : at + take]
                stray = next((i for i in range(0, take, ENTRY) if part[i] & 0xC0 != 0xC0), take)
                self._held += part[:stray]
                at += stray
                if stray < take or len(self._held) == self._want:
                    self._finish(base + at // ENTRY, found)
                continue
            kind = data[at]
            if kind == END:
                self.ended = True
                break
            if kind == FILE:
                count = data[at + 1]
                end = at + (count + 1) * ENTRY
                # nearly always all of a set is here, and nothing else stands in it
                if LEAST_SECONDARIES <= count <= MOST_SECONDARIES and end <= size:
                    for other in data[at + ENTRY : end : ENTRY]:
                        if other & 0xC0 != 0xC0:
                            break
                    else:
                        self._add(data[at:end], base + end // ENTRY, first + at // ENTRY, found)
                        at = end
                        continue
                self._held = data[at : at + ENTRY]
                self._place = first + at // ENTRY
                self._want = (data[at + 1] + 1) * ENTRY
                if not LEAST_SECONDARIES <= data[at + 1] <= MOST_SECONDARIES:
                    error = Corrupt("entry set", "SecondaryCount", found=data[at + 1], expected="2 to 18")
                    self.flaws.append((base + at // ENTRY, error))
                    self._held = b""
            elif kind & (IN_USE | SECONDARY | BENIGN) == IN_USE and kind not in (BITMAP, UPCASE, LABEL):
                unknown = Unsupported("an exFAT directory entry that is critical and unknown", bit=kind)
                self.flaws.append((base + at // ENTRY, unknown))
            at += ENTRY
        self._number = base + size // ENTRY
        return found

    def finish(self) -> None:
        """The directory ends here: a set that is not complete is damage."""
        if self._held:
            self._finish(self._number, [])

    def _finish(self, number: int, found: list[Record]) -> None:
        held, self._held = self._held, b""
        if len(held) == self._want:
            self._add(held, number, self._place, found)
        else:
            error = Corrupt("entry set", "length", found=len(held) // ENTRY, expected=self._want // ENTRY)
            self.flaws.append((number - len(held) // ENTRY, error))

    def _add(self, data: bytes, number: int, place: int, found: list[Record]) -> None:
        """Parse a whole set; `number`: of the entry behind it."""
        try:
            found.append(_new(Record, (number, parse_set(data, place))))
        except (Corrupt, Unsupported) as error:
            self.flaws.append((number - len(data) // ENTRY, error))


def converter(utc: Callable[[int], int]) -> Callable[[tuple[int, int, int]], int]:
    """Return (timestamp, units of 10 ms, UTC offset) -> nanoseconds since 1970 in UTC. `utc`: of local seconds."""

    @lru_cache(1 << 14)
    def convert(stamp: tuple[int, int, int]) -> int:
        packed, increment, offset = stamp
        date, time = packed >> 16, packed & 0xFFFF
        seconds = _seconds(1980 + (date >> 9), date >> 5 & 15, date & 31)
        seconds += (time >> 11) * 3600 + (time >> 5 & 63) * 60 + (time & 31) * 2
        if offset & 0x80:  # quarters of an hour, seven bits with a sign
            quarters = offset & 0x7F
            seconds -= (quarters - 0x80 if quarters & 0x40 else quarters) * 900
        else:
            seconds = utc(seconds)
        return seconds * 1_000_000_000 + increment * 10_000_000

    return convert


def _seconds(year: int, month: int, day: int) -> int:
    """Seconds from 1970 to a date; months 0 and 13 to 15 are what Linux's mktime64() makes of them."""
    month -= 2
    if month <= 0:
        month += 12
        year -= 1
    days = year // 4 - year // 100 + year // 400 + 367 * month // 12 + day + year * 365 - 719_499
    return days * 86_400
