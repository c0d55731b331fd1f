"""Inodes of whole runs of them, decoded column by column: what is usual, at a small part of the price of one by one.

Spec: XFS Algorithms & Data Structures, "On-disk Inode", version 3. A column is one field of all records, taken by a
strided slice, so that most of the work is done by loops of the interpreter itself. What a column shows to be unusual,
damaged or free is left to InodeTable, which looks at that one inode with care.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Sequence
from itertools import chain, compress, repeat
from typing import NamedTuple

from guestkit.fs.base import Stat
from guestkit.fs.xfs.superblock import Superblock

# numbers that are compared with those of the machine are taken for little-endian ones
_USABLE = sys.byteorder == "little"

BIGTIME2, NREXT64_2, METADATA2 = 0x8, 0x10, 0x20  # di_flags2
_EPOCH = (1 << 31) * 1_000_000_000  # what a big timestamp counts from lies so long before 1970
_EARLY = bytes(byte <= _EPOCH >> 56 for byte in range(256))  # of the highest byte of one that may lie before 1970
_NEGATIVE = bytes(byte >> 7 for byte in range(256))
# of the upper byte of a mode
_KIND = bytes(byte & 0xF0 for byte in range(256))
NO_FILE = bytes(byte >> 4 != 8 for byte in range(256))
_DIRECTORY, _FILE, _LINK = 0x40, 0x80, 0xA0
# (kind, di_format) of inodes that have no device number
_PLAIN = frozenset([(_FILE, 2), (_FILE, 3)] + [(kind, form) for kind in (_DIRECTORY, _LINK) for form in (1, 2, 3)])
_AT_ONCE = 16  # records that are cut apart in one step
_new = tuple.__new__


class Form(NamedTuple):
    """What the filesystem says of all its inodes, which are of version 3."""

    size: int  # bytes of a record
    block_size: int  # as stat shows it
    shift: int  # of a count of blocks to one of sectors
    most_blocks: int
    uuid: bytes
    bigtime: bool
    watched: bytes  # by the lowest byte of di_flags2, what is not 0 where it needs a careful look
    extend: Callable[[int, bytes], int]  # crc32c


def form_of(superblock: Superblock, block_size: int, extend: Callable[[int, bytes], int]) -> Form | None:
    """What `superblock` says of all inodes; None where they are not looked at by columns. `block_size`: as in Form."""
    sup = superblock
    if not _USABLE or not sup.has_crc:
        return None
    wanted = BIGTIME2 if sup.bigtime else 0
    mask = BIGTIME2 | METADATA2 | (0 if sup.nrext64 else NREXT64_2)
    watched = bytes(byte & mask ^ wanted for byte in range(256))
    return Form(
        *(sup.inode_size, block_size, sup.block_log - 9, sup.data_blocks, sup.meta_uuid, sup.bigtime),
        *(watched, extend),
    )


def stats_of(data: bytes, inos: Sequence[int], form: Form) -> tuple[list[Stat | None], set[int]]:
    """The stat of each record in `data`, those of `inos`, and where in it there are none: they take a careful look."""
    size, block_size, shift, most_blocks, uuid, bigtime, watched, extend = form
    count = len(inos)
    view = memoryview(data)
    halves, words, quads = view.cast("H"), view.cast("I"), view.cast("Q")
    half, word, quad = size >> 1, size >> 2, size >> 3
    left: set[int] = set()

    def same(found: bytes, expected: bytes, width: int = 1) -> None:
        if found != expected:
            places = range(0, len(expected), width)
            left.update([at // width for at in places if found[at : at + width] != expected[at : at + width]])

    for place, value in ((0, b"I"), (1, b"N"), (4, b"\3")):  # di_magic, di_version
        same(data[place::size], value * count)
    same(quads[20::quad].tobytes(), uuid[:8] * count, 8)
    same(quads[21::quad].tobytes(), uuid[8:] * count, 8)
    same(quads[19::quad].tobytes(), _swapped("Q", array("Q", inos)).tobytes(), 8)
    same(words[25::word].tobytes(), _sums(data, size, count, extend), 4)
    same(data[127::size].translate(watched), bytes(count))  # of di_flags2
    same(data[56::size].translate(_NEGATIVE), bytes(count))  # of di_size
    kinds, forms = data[2::size].translate(_KIND), data[5::size]
    if not _PLAIN.issuperset(zip(kinds, forms, strict=True)):
        left.update([slot for slot, pair in enumerate(zip(kinds, forms, strict=True)) if pair not in _PLAIN])
    sizes, blocks = _column("Q", quads[7::quad]), _column("Q", quads[8::quad])
    left.update([slot for slot in compress(range(count), data[2::size].translate(NO_FILE)) if not sizes[slot]])
    if max(blocks) > most_blocks:
        left.update([slot for slot, value in enumerate(blocks) if value > most_blocks])
    if bigtime:
        times = _times([quads[at::quad] for at in (4, 5, 6, 18)], count)
    else:
        times = [
            [
                seconds * 1_000_000_000 + nanoseconds
                for seconds, nanoseconds in zip(
                    _column("i", words[at::word]), _column("I", words[at + 1 :: word]), strict=True
                )
            ]
            for at in (8, 10, 12, 36)
        ]
    rows = zip(
        inos, _column("H", halves[1::half]), _column("I", words[4::word]), _column("I", words[2::word]),
        _column("I", words[3::word]), repeat(0), sizes, repeat(block_size), [value << shift for value in blocks],
        *times,
    )  # fmt: skip
    stats: list[Stat | None] = list(map(_new, repeat(Stat), rows))
    for slot in left:
        stats[slot] = None
    return stats, left


def _times(columns: Sequence[memoryview], count: int) -> list[list[int]]:
    """The nanoseconds of each big timestamp, column by column.

    All are put side by side into one large number: one operation on it does for all of them.
    """
    stored = b"".join([column.tobytes() for column in columns])
    if 1 not in stored[::8].translate(_EARLY):  # no difference is negative and borrows from its neighbour
        epochs = int.from_bytes(_EPOCH.to_bytes(8, "big") * (len(stored) >> 3), "big")
        stored = (int.from_bytes(stored, "big") - epochs).to_bytes(len(stored), "big")
        times = _swapped("Q", array("Q", stored)).tolist()
    else:
        times = [value - _EPOCH for value in _swapped("Q", array("Q", stored))]
    return [times[at : at + count] for at in range(0, len(times), count)]


def _column(code: str, part: memoryview) -> list[int]:
    """The big-endian numbers of `part`, which is a strided one."""
    return _swapped(code, array(code, part.tobytes())).tolist()


def _swapped(code: str, numbers: array[int]) -> array[int]:
    numbers.byteswap()
    return numbers


def _sums(data: bytes, size: int, count: int, extend: Callable[[int, bytes], int]) -> bytes:
    """The checksum that each record should have, as it is stored."""
    clean = memoryview(bytearray(data))
    clean.cast("I")[25 :: size >> 2] = memoryview(bytes(4 * count)).cast("I")  # the checksum fields count as zeros
    cut = len(data) - len(data) % (_AT_ONCE * size)
    records = chain(
        chain.from_iterable(struct.iter_unpack(f"{size}s" * _AT_ONCE, clean[:cut])),
        chain.from_iterable(struct.iter_unpack(f"{size}s", clean[cut:])),
    )
    return array("I", map(extend, repeat(0), records)).tobytes()
