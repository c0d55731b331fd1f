"""The hashed index of directories and attributes: nodes of the da B-tree, and the leaves of a directory's.

Spec: XFS Algorithms & Data Structures, "Directories" (leaf, node) and "Extended Attributes". Names are looked for by
a hash of 32 bits; a leaf of a directory gives, for a hash, places of entries in units of 8 bytes.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import NamedTuple

from guestkit.errors import Corrupt
from guestkit.fs.xfs.blocks import DA, Blocks
from guestkit.layout import Layout

MAX_LEVEL = 5
NODE, DIR_LEAF1, DIR_LEAFN, ATTR_LEAF = 0xFEBE, 0xD2F1, 0xD2FF, 0xFBEE
_VERSION5 = {0x3EBE: NODE, 0x3DF1: DIR_LEAF1, 0x3DFF: DIR_LEAFN, 0x3BEE: ATTR_LEAF}
_VERSION4 = {kind: kind for kind in _VERSION5.values()}
_MOST_CHAIN = 1 << 16  # leaves that one hash may be spread over

_INFO = Layout("xfs_da_blkinfo", 12, ">", forw=(0, "I"), back=(4, "I"), magic=(8, "H"))
_COUNTS = struct.Struct(">HH").unpack_from
_pairs = struct.Struct(">II").iter_unpack


class Block(NamedTuple):
    """A node (level above 0) or a directory's leaf (level 0): pairs of (hash, block or place)."""

    kind: int
    level: int
    forward: int  # number of the next block at this level, 0 for none
    hashes: list[int]
    values: list[int]


Read = Callable[[int], Block]


def kind_of(buf: bytes, block: int, owner: int, blocks: Blocks, expected: tuple[int, ...]) -> tuple[int, int]:
    """Check a da block's header and return (kind, number of the next block at its level).

    Raises: Corrupt (EUCLEAN).
    """
    forward, _, magic = _INFO.unpack_from(buf)
    kind = (_VERSION5 if blocks.crc else _VERSION4).get(magic)
    if kind is None or kind not in expected:
        raise Corrupt("index block", "magic", found=magic)
    if blocks.crc:
        blocks.verify(buf, DA, block, owner, "index block")
    return kind, forward


def parse(buf: bytes, block: int, owner: int, blocks: Blocks, expected: tuple[int, ...]) -> Block:
    """Decode a node or a directory's leaf. Raises: Corrupt (EUCLEAN)."""
    kind, forward = kind_of(buf, block, owner, blocks, expected)
    info = DA.owner + 8 if blocks.crc else 12
    count, second = _COUNTS(buf, info)  # of a leaf the second is the count of stale entries
    start = 64 if blocks.crc else 16
    end = len(buf)
    if kind == DIR_LEAF1:
        end -= 4 + 2 * int.from_bytes(buf[-4:], "big")  # the table of free space of the data blocks
    if start + 8 * count > end:
        raise Corrupt("index block", "count", found=count, expected=f"at most {max(0, end - start) // 8}")
    if kind == NODE and not (0 < second <= MAX_LEVEL and count):
        raise Corrupt("index node", "level", found=second, expected=f"1 to {MAX_LEVEL}")
    if kind != NODE and second > count:
        raise Corrupt("index leaf", "stale", found=second, expected=f"at most {count}")
    hashes: list[int] = []
    values: list[int] = []
    last = 0
    for hashed, value in _pairs(buf[start : start + 8 * count]):
        if hashed < last:
            raise Corrupt("index block", "hashval", found=hashed, expected=f"at least {last}")
        last = hashed
        hashes.append(hashed)
        values.append(value)
    return Block(kind, second if kind == NODE else 0, forward, hashes, values)


def candidates(root: int, wanted: int, read: Read) -> Iterator[Block]:
    """Yield the leaves that may hold the hash `wanted`, left to right; `root` is the number of the topmost block.

    Raises: Corrupt (EUCLEAN).
    """
    block = read(root)
    while block.level:
        index = bisect_left(block.hashes, wanted)
        if index == len(block.hashes):
            return
        child = read(block.values[index])
        if child.level != block.level - 1:
            raise Corrupt("index node", "level", found=child.level, expected=block.level - 1)
        block = child
    met = 0
    while True:
        yield block
        if not block.forward or (block.hashes and block.hashes[-1] != wanted):
            return
        met += 1
        if met > _MOST_CHAIN:
            raise Corrupt("index leaf", "forw", found=block.forward, expected="a chain that ends")
        block = read(block.forward)
        if block.level:
            raise Corrupt("index leaf", "forw", found=block.forward, expected="a leaf")


def first_leaf(root: int, read: Read) -> int:
    """Return the number of the leftmost block of level 0. Raises: Corrupt (EUCLEAN)."""
    number = root
    block = read(root)
    while block.level:
        number = block.values[0]
        child = read(number)
        if child.level != block.level - 1:
            raise Corrupt("index node", "level", found=child.level, expected=block.level - 1)
        block = child
    return number


def name_hash(name: bytes) -> int:
    """The hash of a name in a directory or of an attribute."""
    found = 0
    for byte in name:
        found = (found << 7 & 0xFFFFFFFF | found >> 25) ^ byte
    return found


# what ASCII-only case folding makes of a byte: ISO 8859-1's capitals too
FOLD = bytes(
    byte + 32 if 0x41 <= byte <= 0x5A or 0xC0 <= byte <= 0xD6 or 0xD8 <= byte <= 0xDE else byte for byte in range(256)
)
