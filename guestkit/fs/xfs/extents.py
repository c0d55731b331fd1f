"""Maps of forks: an inode's extents, in the inode or below it in a B-tree, as runs of blocks.

Spec: XFS Algorithms & Data Structures, "Data Extents". Every node is verified as the kernel does it: magic, level
falling by one, counts, checksum, UUID, owner and place, first key equal to its parent's, extents ascending without
overlap and inside an allocation group.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from guestkit.errors import Corrupt
from guestkit.fs.xfs.blocks import BMAP, Blocks
from guestkit.fs.xfs.inode import BTREE, EXTENTS, Inode
from guestkit.layout import Layout

MAX_LEVEL = 9
_END = 1 << 54  # one above the last logical block
_MAX_DATA, _MAX_DATA_LARGE = (1 << 31) - 1, (1 << 48) - 1
_RECORD = 16
_MAGICS = (0x424D4150, 0x424D4133)  # BMAP, BMA3
_SIZES = (24, 72)  # of a block's header

_HEADER = Layout("xfs_btree_lblock", 24, ">", bb_magic=(0, "I"), bb_level=(4, "H"), bb_numrecs=(6, "H"))
_ROOT = struct.Struct(">HH")
_records = struct.Struct(">QQ").iter_unpack

Row = tuple[int, int, int]


class Run(NamedTuple):
    """`length` blocks from `logical` stand at block `physical`; 0: a hole or unwritten, they read as zeros."""

    logical: int
    physical: int
    length: int


def decode(records: bytes, blocks: Blocks, end: int = 0) -> list[Row]:
    """Decode packed extents as (logical, physical or 0, count). `end`: the lowest logical block that may come.

    Raises: Corrupt (EUCLEAN).
    """
    sup = blocks.superblock
    log, ag_blocks, most = sup.ag_block_log, sup.ag_blocks, sup.data_blocks
    mask = (1 << log) - 1
    table: list[Row] = []
    for high, low in _records(records):
        logical = (high & 0x7FFFFFFFFFFFFFFF) >> 9
        count = low & 0x1FFFFF
        block = (high & 0x1FF) << 43 | low >> 21
        within = block & mask
        physical = (block >> log) * ag_blocks + within
        if not count or logical < end:
            raise Corrupt("extent", "br_startoff", found=logical, expected=f"at least {end}, {count} blocks")
        if not physical or within + count > ag_blocks or physical + count > most:
            raise Corrupt("extent", "br_startblock", found=block, expected=f"{count} blocks of an allocation group")
        end = logical + count
        table.append((logical, 0 if high >> 63 else physical, count))
    if end > _END:
        raise Corrupt("extent", "br_blockcount", found=end, expected=f"at most {_END}")
    return table


class ExtentList:
    """The extents that stand in an inode."""

    __slots__ = ("_keys", "rows")

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        self._keys = [row[0] for row in rows]

    def runs(self, start: int, end: int) -> Iterator[Run]:
        """Yield runs that tile the logical blocks [start, end) left to right, holes among them."""
        at = start
        for logical, physical, count in self.rows[max(0, bisect_right(self._keys, start) - 1) :]:
            if logical >= end:
                break
            stop = logical + count
            if stop <= at:
                continue
            if logical > at:
                yield Run(at, 0, logical - at)
                at = logical
            take = min(stop, end) - at
            yield Run(at, physical + (at - logical) if physical else 0, take)
            at += take
        if at < end:
            yield Run(at, 0, end - at)


class _Node(NamedTuple):
    level: int
    keys: list[int]  # first logical block of each entry
    rows: list[Row]  # leaf: (logical, physical or 0, count); index: (logical, block, 0)


class ExtentTree:
    """The extents below the root of a B-tree in an inode's fork."""

    __slots__ = ("_blocks", "_ino", "_root")

    def __init__(self, blocks: Blocks, root: bytes, ino: int) -> None:
        """Raises: Corrupt (EUCLEAN) when the root is damaged."""
        self._blocks = blocks
        self._ino = ino
        most = (len(root) - 4) // 16
        if most < 1:
            raise Corrupt("B-tree root", "length", found=len(root), expected="at least 20 bytes")
        level, count = _ROOT.unpack_from(root)
        if not 0 < level < MAX_LEVEL:
            raise Corrupt("B-tree root", "bb_level", found=level, expected=f"1 to {MAX_LEVEL - 1}")
        if not 0 < count <= most:
            raise Corrupt("B-tree root", "bb_numrecs", found=count, expected=f"1 to {most}")
        self._root = self._index(level, root[4 : 4 + 8 * count], root[4 + 8 * most : 4 + 8 * (most + count)])

    def _index(self, level: int, keys: bytes, pointers: bytes) -> _Node:
        offsets = [key for (key,) in struct.iter_unpack(">Q", keys)]
        if any(low >= high for low, high in pairwise(offsets)):
            raise Corrupt("B-tree node", "keys", expected="ascending ones")
        places = [self._blocks.number(fsblock) for (fsblock,) in struct.iter_unpack(">Q", pointers)]
        return _Node(level, offsets, [(key, place, 0) for key, place in zip(offsets, places, strict=True)])

    def runs(self, start: int, end: int) -> Iterator[Run]:
        """Yield runs that tile the logical blocks [start, end) left to right, holes among them.

        Raises: Corrupt (EUCLEAN) at a damaged node, after what lies left of it.
        """
        at = start
        # (node, index of the next entry, logical block where the node's part ends)
        stack: list[tuple[_Node, int, int]] = []
        node, bound = self._root, _END
        index = max(0, bisect_right(node.keys, start) - 1)
        while at < end:
            if node.level == 0:
                for logical, physical, count in node.rows[index:]:
                    if logical >= end:
                        break
                    stop = logical + count
                    if stop > bound:
                        raise Corrupt("extent", "br_blockcount", found=stop, expected=f"at most {bound}")
                    if stop <= at:
                        continue
                    if logical > at:
                        yield Run(at, 0, logical - at)
                        at = logical
                    take = min(stop, end) - at
                    yield Run(at, physical + (at - logical) if physical else 0, take)
                    at += take
            elif index < len(node.rows):
                logical, block, _ = node.rows[index]
                if logical < end:
                    upper = node.keys[index + 1] if index + 1 < len(node.keys) else bound
                    stack.append((node, index + 1, bound))
                    node, bound = self._node(block, node.level - 1, logical), upper
                    if bound <= node.keys[-1]:
                        raise Corrupt("B-tree node", "last key", found=node.keys[-1], expected=f"below {bound}")
                    index = max(0, bisect_right(node.keys, at) - 1)
                    continue
            if not stack:
                break
            node, index, bound = stack.pop()
        if at < end:
            yield Run(at, 0, end - at)

    def _node(self, block: int, level: int, first: int) -> _Node:
        blocks = self._blocks
        key = (blocks.token, "x", block, self._ino, level, first)
        node: _Node | None = blocks.cache.get(key)
        if node is None:
            try:
                node = self._parse(blocks.read(block), block, level, first)
            except Corrupt as error:
                error.within(f"B-tree block {block}")
                raise
            blocks.cache.put(key, node, 200 + 160 * len(node.keys))
        return node

    def _parse(self, buf: bytes, block: int, level: int, first: int) -> _Node:
        blocks = self._blocks
        magic, found, count = _HEADER.unpack_from(buf)
        if magic != _MAGICS[blocks.crc]:
            raise Corrupt("B-tree block", "bb_magic", found=magic, expected=_MAGICS[blocks.crc])
        if blocks.crc:
            blocks.verify(buf, BMAP, block, self._ino, "B-tree block")
        if found != level:
            raise Corrupt("B-tree block", "bb_level", found=found, expected=level)
        start = _SIZES[blocks.crc]
        most = (len(buf) - start) // _RECORD
        if not 0 < count <= most:
            raise Corrupt("B-tree block", "bb_numrecs", found=count, expected=f"1 to {most}")
        if level:
            pointers = start + 8 * most
            node = self._index(level, buf[start : start + 8 * count], buf[pointers : pointers + 8 * count])
        else:
            rows = decode(buf[start : start + _RECORD * count], blocks)
            node = _Node(0, [row[0] for row in rows], rows)
        if node.keys[0] != first:
            raise Corrupt("B-tree block", "first key", found=node.keys[0], expected=first)
        return node


Map = ExtentList | ExtentTree


def data_map(blocks: Blocks, inode: Inode) -> Map:
    """Return the map of an inode's data fork. Raises: Corrupt (EUCLEAN) when it is damaged."""
    return _map(blocks, inode, inode.data_fork, inode.format, inode.data_count, "data")


def attr_map(blocks: Blocks, inode: Inode) -> Map:
    """Return the map of an inode's attribute fork. Raises: Corrupt (EUCLEAN) when it is damaged."""
    return _map(blocks, inode, inode.attr_fork, inode.attr_format, inode.attr_count, "attribute")


def _map(blocks: Blocks, inode: Inode, fork: bytes, form: int, count: int, what: str) -> Map:
    if count > inode.blocks:
        raise Corrupt(
            f"{what} fork", "extents", found=count, expected=f"at most the {inode.blocks} blocks of the inode"
        )
    if form == EXTENTS:
        if count * _RECORD > len(fork):
            raise Corrupt(f"{what} fork", "extents", found=count, expected=f"at most {len(fork) // _RECORD}")
        return ExtentList(decode(fork[: count * _RECORD], blocks))
    if form == BTREE:
        return ExtentTree(blocks, fork, inode.ino)
    raise Corrupt(f"{what} fork", "format", found=form, expected="extents or a B-tree")
