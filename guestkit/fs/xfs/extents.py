"""Maps of forks: an inode's extents, in the inode or below it in a B-tree, as runs of blocks.

Spec: XFS Algorithms & Data Structures, "Data Extents". Every node is verified as the kernel does it: magic, level
falling by one, counts, checksum, UUID, owner and place, first key equal to its parent's, extents ascending without
overlap and inside an allocation group.
"""

from __future__ import annotations

import struct
from itertools import pairwise

from guestkit.errors import Corrupt
from guestkit.fs.extents import Extents, Node, Row
from guestkit.fs.xfs.blocks import BMAP, Blocks
from guestkit.fs.xfs.inode import BTREE, EXTENTS, Inode
from guestkit.layout import Layout

MAX_LEVEL = 9
_END = 1 << 54  # one above the last logical block
_RECORD = 16
_MAGICS = (0x424D4150, 0x424D4133)  # BMAP, BMA3
_SIZES = (24, 72)  # of a block's header

_HEADER = Layout("xfs_btree_lblock", 24, ">", bb_magic=(0, "I"), bb_level=(4, "H"), bb_numrecs=(6, "H"))
_ROOT = struct.Struct(">HH")
_records = struct.Struct(">QQ").iter_unpack


def _leaf(records: bytes, blocks: Blocks) -> Node:
    """Decode packed extents. Raises: Corrupt (EUCLEAN)."""
    end = 0  # the lowest logical block that may come
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
    return Node(0, [row[0] for row in table], table)


class ExtentTree(Extents):
    """The extents below the root of a B-tree in an inode's fork."""

    __slots__ = ("_blocks", "_ino")

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
        node = self._index(level, root[4 : 4 + 8 * count], root[4 + 8 * most : 4 + 8 * (most + count)])
        super().__init__(node, _END)

    def _index(self, level: int, keys: bytes, pointers: bytes) -> Node:
        offsets = [key for (key,) in struct.iter_unpack(">Q", keys)]
        if any(low >= high for low, high in pairwise(offsets)):
            raise Corrupt("B-tree node", "keys", expected="ascending ones")
        places = [self._blocks.number(fsblock) for (fsblock,) in struct.iter_unpack(">Q", pointers)]
        return Node(level, offsets, [(key, place, 0) for key, place in zip(offsets, places, strict=True)])

    def _node(self, block: int, level: int, first: int) -> Node:
        blocks = self._blocks
        key = (blocks.token, "x", block, self._ino, level, first)
        node: Node | None = blocks.cache.get(key)
        if node is None:
            try:
                node = self._parse(blocks.read(block), block, level, first)
            except Corrupt as error:
                error.within(f"B-tree block {block}")
                raise
            blocks.cache.put(key, node, node.weight)
        return node

    def _parse(self, buf: bytes, block: int, level: int, first: int) -> Node:
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
            node = _leaf(buf[start : start + _RECORD * count], blocks)
        if node.keys[0] != first:
            raise Corrupt("B-tree block", "first key", found=node.keys[0], expected=first)
        return node


def data_map(blocks: Blocks, inode: Inode) -> Extents:
    """Return the map of an inode's data fork. Raises: Corrupt (EUCLEAN) when it is damaged."""
    return _map(blocks, inode, inode.data_fork, inode.format, inode.data_count, "data")


def attr_map(blocks: Blocks, inode: Inode) -> Extents:
    """Return the map of an inode's attribute fork. Raises: Corrupt (EUCLEAN) when it is damaged."""
    return _map(blocks, inode, inode.attr_fork, inode.attr_format, inode.attr_count, "attribute")


def _map(blocks: Blocks, inode: Inode, fork: bytes, form: int, count: int, what: str) -> Extents:
    if count > inode.blocks:
        raise Corrupt(
            f"{what} fork", "extents", found=count, expected=f"at most the {inode.blocks} blocks of the inode"
        )
    if form == EXTENTS:
        if count * _RECORD > len(fork):
            raise Corrupt(f"{what} fork", "extents", found=count, expected=f"at most {len(fork) // _RECORD}")
        return Extents(_leaf(fork[: count * _RECORD], blocks), _END)
    if form == BTREE:
        return ExtentTree(blocks, fork, inode.ino)
    raise Corrupt(f"{what} fork", "format", found=form, expected="extents or a B-tree")
