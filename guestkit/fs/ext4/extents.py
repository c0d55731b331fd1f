"""Extent trees: an inode's (or tree's) extents as runs of blocks, for the part of the file that is asked for.

Spec: Documentation/filesystems/ext4/ifork.rst, "Extent Tree". Every node is verified as the kernel does it: magic,
depth falling by one, counts, checksum of a block, first key equal to its parent's, keys ascending, no overlap.
"""

from __future__ import annotations

from guestkit.checksum import crc32c
from guestkit.errors import Corrupt
from guestkit.fs.ext4.blocks import Blocks
from guestkit.fs.extents import Extents, Node, Row
from guestkit.layout import Layout

MAX_DEPTH = 5
_END = 1 << 32  # one above the last logical block
_INIT_MAX = 32768  # longer lengths mean unwritten, by what they exceed it

_HEADER = Layout(
    "ext4_extent_header", 12, "<", eh_magic=(0, "H"), eh_entries=(2, "H"), eh_max=(4, "H"), eh_depth=(6, "H")
)
_LEAF = Layout("ext4_extent", 12, "<", ee_block=(0, "I"), ee_len=(4, "H"), ee_start_hi=(6, "H"), ee_start_lo=(8, "I"))
_INDEX = Layout("ext4_extent_idx", 12, "<", ei_block=(0, "I"), ei_leaf_lo=(4, "I"), ei_leaf_hi=(8, "H"))


def _parse(buf: bytes, room: int, depth: int | None, first: int | None, blocks: Blocks) -> Node:
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
    table: list[Row] = []
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
    return Node(found_depth, [row[0] for row in table], table)


class ExtentTree(Extents):
    """The extents below `root`, the 60 bytes of an inode's i_block. `seed` is the inode's checksum seed."""

    __slots__ = ("_blocks", "_ino", "_seed")

    def __init__(self, blocks: Blocks, root: bytes, ino: int, seed: int) -> None:
        """Raises: Corrupt (EUCLEAN) when the root is damaged."""
        self._blocks = blocks
        self._ino = ino
        self._seed = seed
        super().__init__(_parse(root, 4, None, None, blocks), _END)

    def _node(self, block: int, level: int, first: int) -> Node:
        blocks = self._blocks
        key = (blocks.token, "x", block, self._ino, level, first)
        node: Node | None = blocks.cache.get(key)
        if node is None:
            try:
                buf = blocks.read(block)
                room = (blocks.block_size - 12) // 12
                if blocks.superblock.metadata_csum:
                    self._verify(buf, room)
                node = _parse(buf, room, level, first, blocks)
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
