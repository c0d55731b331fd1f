"""Block maps: the direct, indirect, double and triple indirect blocks of ext2 and ext3 as runs.

Spec: Documentation/filesystems/ext4/blockmap.rst. A pointer of 0 is a hole of whatever size stands behind it.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator

from guestkit.errors import Corrupt
from guestkit.fs.ext4.blocks import Blocks
from guestkit.fs.extents import Run

_DIRECT = 12


class BlockMap:
    """The blocks named by `root`, the 60 bytes of an inode's i_block."""

    __slots__ = ("_blocks", "_root")

    def __init__(self, blocks: Blocks, root: bytes) -> None:
        self._blocks = blocks
        self._root = _words(root[:60])

    def runs(self, start: int, end: int) -> Iterator[Run]:
        """Yield runs that tile the logical blocks [start, end) left to right, holes among them.

        Raises: Corrupt (EUCLEAN) at a pointer outside the filesystem, after what lies left of it.
        """
        logical = physical = count = 0
        try:
            for run in self._pieces(start, end):
                if count and (run.physical == physical + count if physical else not run.physical):
                    count += run.length
                    continue
                if count:
                    yield Run(logical, physical, count)
                logical, physical, count = run
        except Corrupt:
            if count:
                yield Run(logical, physical, count)
            raise
        if count:
            yield Run(logical, physical, count)

    def _pieces(self, start: int, end: int) -> Iterator[Run]:
        at = start
        if at < _DIRECT:
            yield from self._scan(self._root, 0, at, min(end, _DIRECT))
            at = _DIRECT
        per = self._blocks.block_size // 4
        base, span = _DIRECT, per
        for level in (1, 2, 3):
            if at >= end:
                return
            if at < base + span:
                stop = min(end, base + span)
                yield from self._tree(self._root[_DIRECT - 1 + level], level, base, at, stop)
                at = stop
            base += span
            span *= per
        if at < end:
            yield Run(at, 0, end - at)  # beyond what the map can name; no write ever reached it

    def _tree(self, root: int, height: int, base: int, start: int, end: int) -> Iterator[Run]:
        """The part [start, end) of the tree of `height` levels whose first logical block is `base`."""
        per = self._blocks.block_size // 4
        stack = [(root, height, base, start, end)]
        while stack:
            block, level, first, low, high = stack.pop()
            if block == 0:
                yield Run(low, 0, high - low)
                continue
            table = self._table(block)
            if level == 1:
                yield from self._scan(table, first, low, high)
                continue
            span = per ** (level - 1)
            children = []
            index = (low - first) // span
            while low < high:
                child = first + index * span
                stop = min(high, child + span)
                pointer = table[index]
                if not pointer:  # a run of empty pointers is one hole
                    while stop < high and not table[index + 1]:
                        index += 1
                        stop = min(high, stop + span)
                children.append((pointer, level - 1, child, low, stop))
                low = stop
                index += 1
            children.reverse()
            stack.extend(children)

    def _scan(self, table: array[int], base: int, low: int, high: int) -> Iterator[Run]:
        """Runs of the pointers for the logical blocks [low, high) in `table`, whose first is for `base`."""
        index, end = low - base, high - base
        first, limit = self._blocks.first, self._blocks.count
        whole = True  # the rest may still be one run; asked once, as each answer costs the length of the rest
        while index < end:
            pointer = table[index]
            begin = index
            index += 1
            if pointer == 0:
                while index < end and not table[index]:
                    index += 1
                yield Run(base + begin, 0, index - begin)
                continue
            rest = end - begin
            if whole and table[end - 1] == pointer + rest - 1:
                whole = table[begin:end] == array("I", range(pointer, pointer + rest))
                index = end if whole else index
            if index != end:
                while index < end and table[index] == pointer + index - begin:
                    index += 1
            if pointer <= first or pointer + index - begin > limit:
                raise Corrupt("block map", "block number", found=pointer, expected=f"{first + 1} to {limit - 1}")
            yield Run(base + begin, pointer, index - begin)

    def _table(self, block: int) -> array[int]:
        blocks = self._blocks
        key = (blocks.token, "m", block)
        table: array[int] | None = blocks.cache.get(key)
        if table is None:
            try:
                table = _words(blocks.read(block))
            except Corrupt as error:
                error.within(f"indirect block {block}")
                raise
            blocks.cache.put(key, table, blocks.block_size + 200)
        return table


def _words(buf: bytes) -> array[int]:
    table = array("I", buf)
    if sys.byteorder == "big":
        table.byteswap()
    return table
