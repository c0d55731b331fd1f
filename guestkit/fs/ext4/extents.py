"""Extent trees: an inode's (or tree's) extents as runs of blocks, for the part of the file that is asked for.

Spec: Documentation/filesystems/ext4/ifork.rst, "Extent Tree". Every node is verified as the kernel does it: magic,
depth falling by one, counts, checksum of a block, first key equal to its parent's, keys ascending, no overlap.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from guestkit.checksum import crc32c
from guestkit.errors import Corrupt
from guestkit.fs.ext4.blocks import Blocks
from guestkit.layout import Layout

MAX_DEPTH = 5
_END = 1 << 32  # one above the last logical block
_INIT_MAX = 32768  # longer lengths mean unwritten, by what they exceed it

_HEADER = Layout(
    "ext4_extent_header", 12, "<", eh_magic=(0, "H"), eh_entries=(2, "H"), eh_max=(4, "H"), eh_depth=(6, "H")
)
_LEAF = Layout("ext4_extent", 12, "<", ee_block=(0, "I"), ee_len=(4, "H"), ee_start_hi=(6, "H"), ee_start_lo=(8, "I"))
_INDEX = Layout("ext4_extent_idx", 12, "<", ei_block=(0, "I"), ei_leaf_lo=(4, "I"), ei_leaf_hi=(8, "H"))


class Run(NamedTuple):
    """`length` blocks from `logical` stand at block `physical`; 0: a hole or unwritten, they read as zeros."""

    logical: int
    physical: int
    length: int


class _Node(NamedTuple):
    depth: int
    keys: list[int]  # first logical block of each entry
    entries: list[tuple[int, int, int]]  # leaf: (logical, physical or 0, count); index: (logical, block, 0)
    weight: int  # bytes, for the cache


def _parse(buf: bytes, room: int, depth: int | None, first: int | None, blocks: Blocks) -> _Node:
    """Check and decode a node of `room` entries at most. `depth`: what it must be; `first`: its parent's key."""
    magic, entries, most, found_depth = _HEADER.unpack_from(buf)
    if magic != 0xF30A:
        raise Corrupt("extent header", "eh_magic", found=magic, expected=0xF30A)
    if found_depth > MAX_DEPTH or (depth is not None and found_depth != depth):
        raise Corrupt("extent header", "eh_depth", found=found_depth, expected=depth)
    if not 0 < most <= room:
        raise Corrupt("extent header", "eh_max", found=most, expected=room)
    if entries > most or (entries == 0 and found_depth > 0):
        raise Corrupt("extent header", "eh_entries", found=entries, expected=f"at most {most}")
    body = memoryview(buf)[12 : 12 + 12 * entries]
    table: list[tuple[int, int, int]] = []
    end = 0
    low, high = blocks.first, blocks.count
    if found_depth == 0:
        for logical, length, start_hi, start_lo in _LEAF.iter_unpack(body):
            start = start_hi << 32 | start_lo
            count = length if length <= _INIT_MAX else length - _INIT_MAX
            if count == 0 or logical < end or logical + count > _END:
                raise Corrupt("extent", "ee_block", found=logical, expected=f"at least {end}, {count} blocks")
            if start <= low or start + count > high:
                raise Corrupt("extent", "ee_start", found=start, expected=f"within {low + 1} to {high - 1}")
            table.append((logical, start if length <= _INIT_MAX else 0, count))
            end = logical + count
    else:
        end = -1
        for logical, leaf_lo, leaf_hi in _INDEX.iter_unpack(body):
            start = leaf_hi << 32 | leaf_lo
            if logical <= end:
                raise Corrupt("extent index", "ei_block", found=logical, expected=f"above {end}")
            if not low < start < high:
                raise Corrupt("extent index", "ei_leaf", found=start, expected=f"within {low + 1} to {high - 1}")
            table.append((logical, start, 0))
            end = logical
    if first is not None and table and table[0][0] != first:
        raise Corrupt("extent node", "first block", found=table[0][0], expected=first)
    return _Node(found_depth, [entry[0] for entry in table], table, 200 + 160 * len(table))


class ExtentTree:
    """The extents below `root`, the 60 bytes of an inode's i_block. `seed` is the inode's checksum seed."""

    __slots__ = ("_blocks", "_ino", "_root", "_seed")

    def __init__(self, blocks: Blocks, root: bytes, ino: int, seed: int) -> None:
        """Raises: Corrupt (EUCLEAN) when the root is damaged."""
        self._blocks = blocks
        self._ino = ino
        self._seed = seed
        self._root = _parse(root, 4, None, None, blocks)

    def runs(self, start: int, end: int) -> Iterator[Run]:
        """Yield runs that tile the logical blocks [start, end) left to right, holes among them.

        Raises: Corrupt (EUCLEAN) at a damaged node, after what lies left of it.
        """
        at = start
        # (node, index of the next entry, logical block where the node's part ends)
        stack: list[tuple[_Node, int, int]] = []
        node, bound = self._root, _END
        index = max(0, bisect_right(node.keys, start) - 1)
        while True:
            if at >= end:
                return
            if node.depth == 0:
                for logical, physical, count in node.entries[index:]:
                    if logical >= end:
                        break
                    if logical + count > bound:
                        raise Corrupt("extent", "ee_len", found=logical + count, expected=f"at most {bound}")
                    stop = logical + count
                    if stop <= at:
                        continue
                    if logical > at:
                        yield Run(at, 0, logical - at)
                        at = logical
                    take = min(stop, end) - at
                    yield Run(at, physical + (at - logical) if physical else 0, take)
                    at += take
            elif index < len(node.entries):
                logical, block, _ = node.entries[index]
                if logical < end:
                    upper = node.keys[index + 1] if index + 1 < len(node.keys) else bound
                    stack.append((node, index + 1, bound))
                    node, bound = self._node(block, node.depth - 1, logical), upper
                    if bound <= node.keys[-1]:
                        raise Corrupt("extent node", "last block", found=node.keys[-1], expected=f"below {bound}")
                    index = max(0, bisect_right(node.keys, at) - 1)
                    continue
            if not stack:
                break
            node, index, bound = stack.pop()
        if at < end:
            yield Run(at, 0, end - at)

    def _node(self, block: int, depth: int, first: int) -> _Node:
        blocks = self._blocks
        key = (blocks.token, "x", block, self._ino, depth, first)
        node: _Node | None = blocks.cache.get(key)
        if node is None:
            try:
                buf = blocks.read(block)
                room = (blocks.block_size - 12) // 12
                if blocks.superblock.metadata_csum:
                    self._verify(buf, room)
                node = _parse(buf, room, depth, first, blocks)
            except Corrupt as error:
                error.within(f"extent node at block {block}")
                raise
            blocks.cache.put(key, node, node.weight)
        return node

    def _verify(self, buf: bytes, room: int) -> None:
        most = int.from_bytes(buf[4:6], "little")
        if not 0 < most <= room:
            raise Corrupt("extent header", "eh_max", found=most, expected=room)
        tail = 12 + 12 * most
        stored = int.from_bytes(buf[tail : tail + 4], "little")
        found = crc32c(buf[:tail], self._seed)
        if stored != found:
            raise Corrupt("extent block", "et_checksum", found=stored, expected=found)
