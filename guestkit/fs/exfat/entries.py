"""Directory entries of exFAT: sets of a file entry, its stream extension and its name, each set with a checksum.

Spec: Microsoft's exFAT specification, sections 6 and 7. A benign entry that is not known is passed over, a critical
one that is not known makes its set unreadable. Times: 7.4.8 to 7.4.10; what is not in UTC is local time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from guestkit.errors import Corrupt, Unsupported
from guestkit.layout import Layout

ENTRY = 32
END = 0x00
BITMAP, UPCASE, LABEL, FILE, STREAM, NAME = 0x81, 0x82, 0x83, 0x85, 0xC0, 0xC1
IN_USE, SECONDARY, BENIGN = 0x80, 0x40, 0x20
READ_ONLY, DIRECTORY = 0x01, 0x10
ALLOCATION_POSSIBLE, _NO_FAT_CHAIN = 0x01, 0x02
PER_NAME = 15  # UTF-16 code units an entry
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
TENTH = 10_000_000  # nanoseconds of an increment
_MOST_TIMES = 1 << 14
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
    times: tuple[tuple[int, int, int], ...]  # access, change, creation: timestamp, units of 10 ms, UTC offset


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


def parse_set(data: bytes, place: int, summed: int | None = None) -> File:
    """Return the file of an entry set, all of `data`. `summed`: its checksum. Raises: Corrupt, Unsupported."""
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
    if summed is None:
        summed = set_checksum(data)
    if summed != checksum:
        raise Corrupt("entry set", "SetChecksum", found=checksum, expected=summed)
    if data[ENTRY] != STREAM:
        raise Corrupt("entry set", "second entry's type", found=data[ENTRY], expected=STREAM)
    _, flags, length, hash, valid, cluster, size = _STREAM.unpack_from(data, ENTRY)
    names = -(-length // PER_NAME)
    if not names or names + 1 > count:
        raise Corrupt("entry set", "NameLength", found=length, expected=f"1 to {(count - 1) * PER_NAME}")
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
    if not flags & ALLOCATION_POSSIBLE:
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
            (
                (accessed, 0, accessed_utc),
                (modified, modified_10ms, modified_utc),
                (created, created_10ms, created_utc),
            ),
        ),
    )


def name_hash_of(data: bytes) -> int:
    """NameHash in the stream extension of an entry set."""
    return data[ENTRY + 4] | data[ENTRY + 5] << 8


class Times(dict[tuple[int, int], int]):
    """(timestamp, UTC offset) -> nanoseconds since 1970 in UTC, remembering what was asked lately."""

    def __init__(self, utc: Callable[[int], int]) -> None:
        """`utc`: of local seconds."""
        super().__init__()
        self._utc = utc

    def __missing__(self, key: tuple[int, int]) -> int:
        if len(self) > _MOST_TIMES:
            self.clear()
        packed, offset = key
        date, time = packed >> 16, packed & 0xFFFF
        seconds = _seconds(1980 + (date >> 9), date >> 5 & 15, date & 31)
        seconds += (time >> 11) * 3600 + (time >> 5 & 63) * 60 + (time & 31) * 2
        if offset & 0x80:  # quarters of an hour, seven bits with a sign
            quarters = offset & 0x7F
            seconds -= (quarters - 0x80 if quarters & 0x40 else quarters) * 900
        else:
            seconds = self._utc(seconds)
        self[key] = found = seconds * 1_000_000_000
        return found


def _seconds(year: int, month: int, day: int) -> int:
    """Seconds from 1970 to a date; months 0 and 13 to 15 are what Linux's mktime64() makes of them."""
    month -= 2
    if month <= 0:
        month += 12
        year -= 1
    days = year // 4 - year // 100 + year // 400 + 367 * month // 12 + day + year * 365 - 719_499
    return days * 86_400
