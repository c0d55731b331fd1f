"""Trees of extents, whatever their nodes look like on disk: the runs of blocks that a part of a file stands in."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from guestkit.errors import Corrupt

Row = tuple[int, int, int]


class Run(NamedTuple):
    """`length` blocks from `logical` stand at block `physical`; 0: a hole or unwritten, they read as zeros."""

    logical: int
    physical: int
    length: int


class Node(NamedTuple):
    """One node; its keys ascend, and the extents of a leaf, which may be empty, do not overlap."""

    level: int  # 0: a leaf
    keys: list[int]  # first logical block of each row
    rows: list[Row]  # leaf: (logical, physical or 0, count); index: (logical, block, 0)

    @property
    def weight(self) -> int:
        """Bytes, for the cache."""
        return 200 + 160 * len(self.keys)


class Extents:
    """The extents below `root`, all of them below the logical block `end`."""

    __slots__ = ("_end", "_root")

    def __init__(self, root: Node, end: int) -> None:
        self._root = root
        self._end = end

    def _node(self, block: int, level: int, first: int) -> Node:
        """The node at `block`, checked: of `level`, and beginning with the key `first`. Raises: Corrupt."""
        raise Corrupt("extent tree", "level", found=level)  # this one has no node but its root

    def runs(self, start: int, end: int) -> Iterator[Run]:
        """Yield runs that tile the logical blocks [start, end) left to right, holes among them.

        Raises: Corrupt (EUCLEAN) at a damaged node, after what lies left of it.
        """
        at = start
        # (node, index of the next row, logical block where the node's part ends)
        stack: list[tuple[Node, int, int]] = []
        node, bound = self._root, self._end
        index = max(0, bisect_right(node.keys, start) - 1)
        while at < end:
            if node.level == 0:
                for logical, physical, count in node.rows[index:]:
                    if logical >= end:
                        break
                    stop = logical + count
                    if stop > bound:
                        raise Corrupt("extent", "length", found=stop, expected=f"at most {bound}")
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
                    if node.keys and bound <= node.keys[-1]:
                        raise Corrupt("extent node", "last key", found=node.keys[-1], expected=f"below {bound}")
                    index = max(0, bisect_right(node.keys, at) - 1)
                    continue
            if not stack:
                break
            node, index, bound = stack.pop()
        if at < end:
            yield Run(at, 0, end - at)
