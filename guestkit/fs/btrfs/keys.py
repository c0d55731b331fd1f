"""Inode keys: subvolume and inode number in one int.

What 52 bits hold, they hold: the subvolume's index in the upper 14, the number in the lower 38. Anything else gets a
key above 2^64, and so does the directory that the kernel shows in a snapshot where a subvolume used to be.
"""

from __future__ import annotations

from typing import NamedTuple

_INODE_BITS = 38
_MOST_INODE = (1 << _INODE_BITS) - 1
_MOST_INDEX = (1 << 14) - 1
_WIDE = 1 << 100
_STUB = 1 << 99
_FLAGS = _WIDE | _STUB


class Place(NamedTuple):
    """An inode of the subvolume of index `volume`. `stub`: the empty directory in inode `number` that leads nowhere."""

    volume: int
    number: int
    stub: bool


def make_key(index: int, number: int) -> int:
    if number <= _MOST_INODE and index <= _MOST_INDEX:
        return index << _INODE_BITS | number
    return _WIDE | index << 64 | number


def stub_key(index: int, number: int) -> int:
    """The key of all that leads nowhere in directory `number`."""
    return _FLAGS | index << 64 | number


def split_key(key: int) -> Place:
    if key < _WIDE:
        return Place(key >> _INODE_BITS, key & _MOST_INODE, False)
    return Place((key & ~_FLAGS) >> 64, key & (1 << 64) - 1, bool(key & _STUB))
