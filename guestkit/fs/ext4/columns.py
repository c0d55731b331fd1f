"""Inode records decoded column by column: what is usual, at a third of the price of one by one.

Spec: Documentation/filesystems/ext4/inodes.rst. A column is one field of all records, taken by a strided slice, so
that most of the work is done by loops of the interpreter itself. What a column shows to be unusual, damaged or
free is left to InodeTable, which looks at that one inode with care.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import compress, repeat
from struct import Struct
from typing import NamedTuple

from guestkit.fs.base import Stat

# records are looked at in the machine's own order of bytes
USABLE = sys.byteorder == "little"

_HEAD = 8  # bytes before each record: its number and i_generation, with which its checksum begins
_NO_HEAD = bytes(_HEAD)
_TIMES = ((0x8, 0x8C), (0x10, 0x88), (0xC, 0x84), (0x90, 0x94))  # as Stat has them: seconds, and *_extra
_LATER = bytes(byte & 3 for byte in range(256))  # of the lowest byte of *_extra, the bits that say "beyond 2038"
_NOW = bytes(byte & 0xFC for byte in range(256))
_BEFORE = bytes(byte >> 7 for byte in range(256))  # of the highest byte of seconds: before 1970
_PLAIN = frozenset((0x4000, 0x8000, 0xA000))  # directories, files, links
_NO_FILE = bytes(byte >> 4 != 8 for byte in range(256))  # of the higher byte of i_mode
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
    each: Callable[[bytearray], Iterable[tuple[bytes]]]  # the records with what stands before each


def form_of(
    size: int, block_size: int, unusual: int, huge: bool, seed: int, extend: Callable[[int, bytes], int] | None
) -> Form:
    """A Form; `seed` as the format has it."""
    return Form(size, block_size, unusual, huge, seed ^ 0xFFFFFFFF, extend, Struct(f"{_HEAD + size}s").iter_unpack)


class Decoded(NamedTuple):
    """What stats_of() gives; a slot is a place among the records."""

    stats: list[Stat | None]
    left: list[int]  # slots that take a careful look: None in `stats`
    special: list[int]  # slots of what is no regular file, those left perhaps among them


def stats_of(records: Sequence[bytes], inos: Sequence[int], form: Form) -> Decoded:
    """Decode `records`, those of `inos`, in any order."""
    size, block_size, unusual, huge, seed, extend, each = form
    count = len(inos)
    step = _HEAD + size
    data = bytearray(_NO_HEAD.join((b"", *records)))
    view = memoryview(data)
    halves, words = view.cast("H"), view.cast("I")
    half, word = step >> 1, step >> 2
    left: set[int] = set()

    def column16(at: int) -> memoryview:
        return halves[_HEAD + at >> 1 :: half]

    def column32(at: int) -> memoryview:
        return words[_HEAD + at >> 2 :: word]

    def leave(column: Iterable[int], odd: set[int]) -> None:
        if odd:
            left.update([slot for slot, value in enumerate(column) if value in odd])

    if extend is not None:
        words[::word] = memoryview(array("I", inos))
        words[1::word] = column32(0x64)
        sums = bytearray(4 * count)
        low, high = column16(0x7C), column16(0x82)
        stored = memoryview(sums).cast("H")
        stored[::2], stored[1::2] = low, high
        low[:] = high[:] = memoryview(bytes(2 * count)).cast("H")  # the fields themselves count as zeros
        found = [extend(seed, record) for (record,) in each(data)]
        wanted = memoryview(sums.translate(_INVERTED)).cast("I").tolist()
        if found != wanted:
            left.update([slot for slot in range(count) if found[slot] != wanted[slot]])
    modes = column16(0).tolist()
    links = column16(0x1A).tolist()
    leave(modes, {mode for mode in set(modes) if mode & 0xF000 not in _PLAIN})
    if 0 in links:
        leave(links, {0})
    flags = column32(0x20).tolist()
    leave(flags, {value for value in set(flags) if value & unusual})
    extra = column16(0x80).tolist()
    leave(extra, {value for value in set(extra) if not 24 <= value <= size - 128 or value & 3})
    for column in (column32(0x6C), column32(0x78), *([column16(0x74)] if huge else ())):
        values = column.tolist()  # i_size_high; i_uid_high and i_gid_high; i_blocks_hi
        if any(values):
            leave(values, set(values) - {0})
    for seconds, extras in _TIMES:
        later = data[_HEAD + extras :: step]
        if any(later.translate(_LATER)):
            leave(later.translate(_LATER), {1, 2, 3})
            data[_HEAD + extras :: step] = later.translate(_NOW)
        before = data[_HEAD + seconds + 3 :: step].translate(_BEFORE)
        if 1 in before:
            leave(before, {1})
    rows = zip(
        inos, modes, links, column16(2), column16(0x18), repeat(0), column32(4), repeat(block_size), column32(0x1C),
        *_times([(column32(seconds), column32(extras)) for seconds, extras in _TIMES], count),
    )  # fmt: skip
    stats: list[Stat | None] = list(map(_new, repeat(Stat), rows))
    for slot in left:
        stats[slot] = None
    return Decoded(stats, sorted(left), list(compress(range(count), data[_HEAD + 1 :: step].translate(_NO_FILE))))


def _times(columns: list[tuple[memoryview, memoryview]], count: int) -> list[list[int]]:
    """The nanoseconds of each (seconds, nanoseconds * 4), column by column.

    All are put side by side, 64 bits each, into one large number: two operations on it do for all of them.
    """
    size = 8 * count
    seconds, quarters = bytearray(size * len(columns)), bytearray(size * len(columns))
    whole, parts = memoryview(seconds).cast("I"), memoryview(quarters).cast("I")
    for number, (first, second) in enumerate(columns):
        low, high = number * 2 * count, (number + 1) * 2 * count
        whole[low:high:2], parts[low:high:2] = first, second
    # no sum reaches 2^64, and the bits that the shift would carry into a neighbour are zeros
    total = int.from_bytes(seconds, "little") * 1_000_000_000 + (int.from_bytes(quarters, "little") >> 2)
    times = memoryview(total.to_bytes(size * len(columns), "little")).cast("Q")
    return [times[at : at + count].tolist() for at in range(0, len(times), count)]
