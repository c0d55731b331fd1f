"""Inodes of whole runs of an inode table, decoded column by column: what is usual, at half the price of one by one.

Spec: Documentation/filesystems/ext4/inodes.rst. A column is one field of all records, taken by a strided slice, so
that most of the work is done by loops of the interpreter itself. What a column shows to be unusual, damaged or
free is left to InodeTable, which looks at that one inode with care.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import NamedTuple

from guestkit.fs.base import Stat

# records are looked at in the machine's own order of bytes
USABLE = sys.byteorder == "little"

_SUMS = (0x7C, 0x7D, 0x82, 0x83)  # the bytes of i_checksum_lo and i_checksum_hi
_TIMES_EXTRA = (0x84, 0x88, 0x8C, 0x94)  # the lowest byte of each *_extra
_LATER = bytes(byte & 3 for byte in range(256))  # of that byte, the bits that say "beyond 2038"
_PLAIN = frozenset((0x4000, 0x8000, 0xA000))  # directories, files, links
_INVERTED = bytes(byte ^ 0xFF for byte in range(256))
_new = tuple.__new__


class Form(NamedTuple):
    """What the filesystem says of all its inodes."""

    size: int  # bytes of a record, more than 128
    block_size: int
    unusual: int  # flags that need a careful look
    huge: bool  # i_blocks_hi counts
    seed: int  # of checksums, inverted
    extend: Callable[[int, bytes], int] | None  # crc32c; None: inodes carry no checksum


def stats_of(data: bytes, inos: Sequence[int], form: Form) -> list[Stat | None]:
    """The stat of each record in `data`, those of `inos`; None where it takes a careful look."""
    size, block_size, unusual, huge, seed, extend = form
    count = len(inos)
    view = memoryview(data)
    halves, words, signed = view.cast("H"), view.cast("I"), view.cast("i")
    half, word = size >> 1, size >> 2
    modes = halves[0::half].tolist()
    links = halves[0x1A >> 1 :: half].tolist()
    room = size - 128
    left: set[int] = set()  # slots that are not decoded here

    def leave(column: Iterable[int], odd: set[int]) -> None:
        if odd:
            left.update([slot for slot, value in enumerate(column) if value in odd])

    leave(modes, {mode for mode in set(modes) if mode & 0xF000 not in _PLAIN})
    if 0 in links:
        leave(links, {0})
    flags = words[0x20 >> 2 :: word].tolist()
    leave(flags, {value for value in set(flags) if value & unusual})
    extra = halves[0x80 >> 1 :: half].tolist()
    leave(extra, {value for value in set(extra) if not 24 <= value <= room or value & 3})
    for column in (words[0x6C >> 2 :: word], words[0x78 >> 2 :: word]):  # i_size_high; i_uid_high and i_gid_high
        values = column.tolist()
        if any(values):
            leave(values, set(values) - {0})
    if huge:
        values = halves[0x74 >> 1 :: half].tolist()
        if any(values):
            leave(values, set(values) - {0})
    for place in _TIMES_EXTRA:
        later = data[place::size].translate(_LATER)
        if any(later):
            leave(later, {1, 2, 3})
    if extend is not None:
        found, stored = _sums(data, inos, size, seed, extend)
        if found != stored:
            left.update([slot for slot in range(count) if found[slot] != stored[slot]])
    times = [
        [
            seconds * 1_000_000_000 + (nanoseconds >> 2)
            for seconds, nanoseconds in zip(signed[at::word], words[x::word], strict=True)
        ]
        for at, x in ((2, 0x8C >> 2), (4, 0x88 >> 2), (3, 0x84 >> 2), (0x90 >> 2, 0x94 >> 2))
    ]
    rows = zip(
        inos, modes, links, halves[1::half], halves[0x18 >> 1 :: half], repeat(0),
        words[1::word], repeat(block_size), words[0x1C >> 2 :: word], *times,
    )  # fmt: skip
    stats: list[Stat | None] = list(map(_new, repeat(Stat), rows))
    for slot in left:
        stats[slot] = None
    return stats


def _sums(
    data: bytes, inos: Sequence[int], size: int, seed: int, extend: Callable[[int, bytes], int]
) -> tuple[list[int], list[int]]:
    """The checksum that each record should have, and the one that it has, both inverted."""
    count = len(inos)
    blank = bytes(count)
    clean = bytearray(data)  # the checksum fields count as zeros
    stored = bytearray(4 * count)
    for number, place in enumerate(_SUMS):
        stored[number::4] = data[place::size]
        clean[place::size] = blank
    numbers = array("I", inos).tobytes()
    heads = bytearray(8 * count)  # what stands before the record: its number, and i_generation
    for number in range(4):
        heads[number::8] = numbers[number::4]
        heads[4 + number :: 8] = data[0x64 + number :: size]
    head, body = bytes(heads), bytes(clean)
    found = [
        extend(seed, head[at : at + 8] + body[begin : begin + size])
        for at, begin in zip(range(0, 8 * count, 8), range(0, count * size, size), strict=True)
    ]
    return found, memoryview(stored.translate(_INVERTED)).cast("I").tolist()
